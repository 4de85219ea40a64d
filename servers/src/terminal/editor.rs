//! Reads lines on a terminal, with history and completion.

use std::sync::Arc;
use std::{fmt, io, mem};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use parking_lot::Mutex;
use rustyline::completion::Completer;
use rustyline::config::Configurer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::MemHistory;
use rustyline::validate::Validator;
use rustyline::{
    Cmd, ColorMode, CompletionType, ConditionalEventHandler, Config, Context, Event, EventContext,
    EventHandler, ExternalPrinter, Helper, KeyEvent, RepeatCount,
};

use super::job_control::{in_foreground, signal_foreground, suspend};
use super::screen::Screen;

/// The prompt in front of the line that is typed.
const PROMPT: &str = "> ";

/// How many lines the history keeps.
const MAX_HISTORY: usize = 200;

/// How waiting for a line ended.
#[derive(Debug)]
pub(crate) enum LineEvent {
    Line(Vec<u8>),
    /// Ctrl-D, or the terminal has hung up.
    End,
    /// The program is exiting.
    Closed,
    /// The server is in the background.
    Background,
    /// The editor cannot be used.
    Failed(io::Error),
}

/// Lists the lines that completion offers.
pub(crate) type Candidates = Box<dyn Fn() -> Vec<String> + Send>;

/// Reads and edits lines.
pub(crate) struct Editor {
    lines: rustyline::Editor<LineHelper, MemHistory>,
    screen: Arc<Screen>,
    suspended: Arc<Mutex<Option<(String, String)>>>,
    /// The line that was being typed when the server was stopped: before and after the cursor.
    partial: (String, String),
    commands: &'static [&'static str],
}

impl fmt::Debug for Editor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Editor")
    }
}

impl Editor {
    pub(super) fn new(
        commands: &'static [&'static str],
        screen: Arc<Screen>,
    ) -> rustyline::Result<Self> {
        let config = Config::builder()
            .history_ignore_dups(true)?
            .max_history_size(MAX_HISTORY)?
            .auto_add_history(true)
            .completion_type(CompletionType::List)
            // Pasted lines are commands, too.
            .bracketed_paste(false)
            // No colours are used. But highlighting is the first call after the terminal is raw.
            .color_mode(ColorMode::Forced)
            .build();
        let history = MemHistory::with_config(&config);
        let mut lines = rustyline::Editor::with_history(config, history)?;
        // Some terminals show the sequences that they do not know.
        lines.enable_synchronized_output(false);
        lines.set_helper(Some(LineHelper {
            candidates: list_commands(commands),
            screen: Arc::clone(&screen),
        }));
        let suspended = Arc::new(Mutex::new(None));
        let suspend = Suspend(Arc::clone(&suspended));
        lines.bind_sequence(KeyEvent::ctrl('D'), EventHandler::Conditional(Box::new(EndOfInput)));
        lines.bind_sequence(KeyEvent::ctrl('Z'), EventHandler::Conditional(Box::new(suspend)));
        Ok(Self { lines, screen, suspended, partial: Default::default(), commands })
    }

    /// A printer for other threads, which prints above the line that is being typed.
    pub(super) fn external_printer(
        &mut self,
    ) -> rustyline::Result<impl ExternalPrinter + Send + 'static + use<>> {
        self.lines.create_external_printer()
    }

    /// Sets what the next lines are completed to; without candidates, to the commands.
    pub(crate) fn complete(&mut self, candidates: Option<Candidates>) {
        if let Some(helper) = self.lines.helper_mut() {
            helper.candidates = candidates.unwrap_or_else(|| list_commands(self.commands));
        }
    }

    /// Waits for a line.
    pub(crate) fn line(&mut self) -> LineEvent {
        loop {
            if !in_foreground() {
                return LineEvent::Background;
            }
            match self.screen.begin() {
                Ok(true) => {}
                Ok(false) => return LineEvent::Closed,
                Err(error) => return LineEvent::Failed(error),
            }
            let (before, after) = mem::take(&mut self.partial);
            let typed = self.lines.readline_with_initial(PROMPT, (&before, &after));
            self.screen.done();
            match typed {
                Ok(line) => return LineEvent::Line(line.into_bytes()),
                Err(ReadlineError::Eof) => return LineEvent::End,
                Err(ReadlineError::Interrupted) => {
                    let suspended = self.suspended.lock().take();
                    match suspended {
                        Some(line) => {
                            self.partial = line;
                            if let Err(error) = suspend() {
                                tracing::warn!("cannot stop at Ctrl-Z: {error}");
                            }
                        }
                        None => signal_foreground(Signal::SIGINT),
                    }
                }
                Err(ReadlineError::Signal(_)) => {}
                Err(ReadlineError::Errno(errno)) if errno as i32 == Errno::EIO as i32 => {
                    return LineEvent::Background;
                }
                Err(ReadlineError::Io(error))
                    if error.raw_os_error() == Some(Errno::EIO as i32) =>
                {
                    return LineEvent::Background;
                }
                Err(error) => return LineEvent::Failed(io::Error::other(error)),
            }
        }
    }
}

fn list_commands(commands: &'static [&'static str]) -> Candidates {
    Box::new(|| commands.iter().map(ToString::to_string).collect())
}

/// Ctrl-D on an empty line: logs that it does not end the server. (By default it would leave the
/// editor, which loses the type-ahead.)
struct EndOfInput;

impl ConditionalEventHandler for EndOfInput {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, at: &EventContext<'_>) -> Option<Cmd> {
        at.line().is_empty().then(|| {
            log_end_of_input();
            Cmd::Noop
        })
    }
}

/// Logs that the end of the input is not a command.
pub(crate) fn log_end_of_input() {
    tracing::info!("the end of the input is not Quit: type Quit to end the server");
}

/// Ctrl-Z: keeps the line, before and after the cursor, and leaves the editor.
struct Suspend(Arc<Mutex<Option<(String, String)>>>);

impl ConditionalEventHandler for Suspend {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, at: &EventContext<'_>) -> Option<Cmd> {
        let (before, after) = at.line().split_at_checked(at.pos())?;
        *self.0.lock() = Some((before.into(), after.into()));
        Some(Cmd::Interrupt)
    }
}

/// Completes whole lines.
struct LineHelper {
    candidates: Candidates,
    screen: Arc<Screen>,
}

impl Completer for LineHelper {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        at: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let typed = line.get(..at).unwrap_or(line);
        let mut candidates = (self.candidates)();
        candidates.retain(|line| line.starts_with(typed) && !line.contains(char::is_control));
        candidates.sort_unstable();
        Ok((0, candidates))
    }
}

impl Highlighter for LineHelper {
    /// Returns the prompt as it is. Its first call shows that the terminal has become raw.
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(
        &'s self,
        prompt: &'p str,
        _: bool,
    ) -> std::borrow::Cow<'b, str> {
        self.screen.entered_raw();
        prompt.into()
    }
}

impl Hinter for LineHelper {
    type Hint = String;
}

impl Validator for LineHelper {}

impl Helper for LineHelper {}
