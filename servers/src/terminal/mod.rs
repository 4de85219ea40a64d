//! A console on a terminal that edits lines: history, completion, and responses that do not disturb
//! the line that is being typed.
//!
//! | module | what it does |
//! |---|---|
//! | `editor` | reads lines, with history and completion |
//! | `screen` | which thread may change the terminal, and its original state |
//! | `printer` | prints above the line that is being typed |
//! | `log_output` | the same for the log |
//! | `job_control` | Ctrl-C, Ctrl-Z, foreground and background |
//!
//! The editor needs the terminal in *raw* mode while it waits for a line, and only then; at all
//! other times the terminal has its original state. Three threads share the terminal (`Screen`):
//! the one that reads lines and switches to raw mode and back; the one that prints, through the
//! editor or past it; and the main thread, which restores the terminal when the server ends in the
//! middle of a line.
//!
//! Job control works as without an editor. In raw mode no key sends a signal, so the editor sends
//! SIGINT for Ctrl-C and SIGTSTP for Ctrl-Z to the whole foreground. For Ctrl-Z the editor is left
//! first: the shell finds its terminal in the original state, and a server that continues in the
//! background (`bg`) does not touch it. The line is kept.
//!
//! There is no editor on a terminal that cannot move its cursor (`TERM` is `dumb` or not set), nor
//! when standard output is redirected. Bytes that are not UTF-8 cannot be typed into an editor.

pub(crate) mod editor;
pub(crate) mod job_control;
pub(crate) mod log_output;
mod printer;
mod screen;

use std::io::{self, IsTerminal};
use std::sync::Arc;

use editor::Editor;
use printer::Printer;
use screen::Screen;

/// A terminal with an editor: reads lines, prints, and restores the terminal.
pub(crate) struct EditedTerminal {
    pub(crate) editor: Editor,
    pub(crate) printer: Printer,
    pub(crate) guard: TerminalGuard,
}

/// Opens standard input and output, if they are a terminal on which lines can be edited.
pub(crate) fn open(commands: &'static [&'static str]) -> Option<EditedTerminal> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return None;
    }
    let term = std::env::var("TERM").unwrap_or_default();
    // The names are those that the editor rejects, too.
    if term.is_empty() || ["dumb", "cons25", "emacs"].contains(&&*term.to_ascii_lowercase()) {
        return None;
    }
    let screen = Arc::new(Screen::default());
    let editor = Editor::new(commands, Arc::clone(&screen));
    let printers = editor.and_then(|mut editor| {
        let printer = Printer::new(editor.external_printer()?, Arc::clone(&screen));
        let for_log = editor.external_printer()?;
        Ok((editor, printer, for_log))
    });
    match printers {
        Ok((editor, printer, for_log)) => {
            if io::stderr().is_terminal() {
                log_output::attach(for_log);
            }
            Some(EditedTerminal { editor, printer, guard: TerminalGuard(screen) })
        }
        Err(error) => {
            tracing::info!("line editing is not available on this terminal: {error}");
            None
        }
    }
}

/// Restores the terminal when it is dropped.
#[derive(Debug)]
pub(crate) struct TerminalGuard(Arc<Screen>);

impl Drop for TerminalGuard {
    fn drop(&mut self) {
        log_output::detach();
        self.0.restore();
    }
}
