//! The prompt: commands typed one after the other, on a terminal.
//!
//! No error ends the prompt. A lost connection is reported at once, and the next command opens
//! another one. Each watch has its own connection and its own thread, which prints above the line
//! that is being typed; it is independent of the connection of the commands.
//!
//! The history is a file that only its owner can read. It omits lines that contain the secret, and
//! wrong `connect` commands, which may contain the secret of another group.

use std::cell::RefCell;
use std::fmt::Display;
use std::fs::DirBuilder;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{CompletionType, Config, Editor, ExternalPrinter};

use crate::arguments::{GroupCommand, PromptCommand, PromptLine, WatchArgs};
use crate::commands::{self, Invocation};
use crate::completion::{LineCompleter, SharedConnection};
use crate::connector::{Connector, GroupConnection};
use crate::error::Error;
use crate::line::{ParsedLine, parse};
use crate::output::Output;
use crate::quoting::{PartialLine, Quoted, Unquoted};
use crate::watch::event::KeyEvent;
use crate::watch::event_stream::EventStream;
use crate::watch::filter::WatchFilter;
use crate::watch::queue::{ChangeQueue, WatchEnd};

/// The maximum number of lines in the history.
const MAX_HISTORY_LINES: usize = 1000;

/// The maximum number of bytes of a value that a watch prints.
const MAX_SHOWN_VALUE: usize = 200;

/// Runs the prompt until the user quits.
pub(crate) fn run(connector: Connector, output: Output) -> Result<u8, Error> {
    let mut prompt = Prompt::new(connector, output)?;
    prompt.begin();
    loop {
        match prompt.editor.readline(&prompt.prompt_text()) {
            // Pasted text may have several lines.
            Ok(lines) => {
                for line in lines.lines() {
                    if prompt.run_line(line).is_break() {
                        return Ok(0);
                    }
                }
            }
            // Ctrl-C discards the line, as in a shell.
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => return Ok(0),
            Err(error) => return Err(Error::Terminal(error.to_string())),
        }
    }
}

struct Prompt {
    connector: Connector,
    output: Output,
    editor: Editor<LineCompleter, FileHistory>,
    /// `None` if there is no directory for it, or it cannot be written.
    history: Option<PathBuf>,
    group: Option<GroupConnection>,
    /// The connection of `group`, shared with completion.
    shared_connection: SharedConnection,
    watches: Vec<BackgroundWatch>,
}

/// A watch that reports while commands are typed.
struct BackgroundWatch {
    queue: Arc<ChangeQueue>,
    thread: JoinHandle<()>,
}

/// Prints above the line that is being typed.
struct LinePrinter(Option<Box<dyn ExternalPrinter + Send>>);

impl LinePrinter {
    fn print(&mut self, line: impl Display) {
        let line = format!("{line}\n");
        match &mut self.0 {
            // This fails only if the terminal is gone, which ends the prompt.
            Some(printer) => drop(printer.print(line)),
            // A terminal without cursor control gets the line at the cursor.
            None => drop(io::Write::write_all(&mut io::stdout(), line.as_bytes())),
        }
    }
}

impl Prompt {
    fn new(connector: Connector, output: Output) -> Result<Self, Error> {
        let to_error = |error: ReadlineError| Error::Terminal(error.to_string());
        let config = Config::builder()
            .max_history_size(MAX_HISTORY_LINES)
            .map_err(to_error)?
            .history_ignore_space(true)
            .completion_type(CompletionType::List)
            .build();
        let mut editor = Editor::with_config(config).map_err(to_error)?;
        let shared_connection = Rc::new(RefCell::new(None));
        editor.set_helper(Some(LineCompleter::new(Rc::clone(&shared_connection))));
        let mut history = history_path();
        if let Some(path) = &history {
            // The file does not exist before the first line.
            let _ = editor.load_history(path);
            if let Some(Err(error)) = path.parent().map(create_private_dir) {
                output.warning("no_history", &history_warning(path, &error));
                history = None;
            }
        }
        Ok(Self {
            connector,
            output,
            editor,
            history,
            group: None,
            shared_connection,
            watches: Vec::new(),
        })
    }

    fn begin(&mut self) {
        if self.connector.group().is_none() {
            self.output
                .note("no group: \"connect GROUP\" connects to one, \"help\" lists the commands");
            return;
        }
        match self.connected(self.output) {
            Ok(_) => self.output.note("\"help\" lists the commands, Ctrl-D quits"),
            Err(error) => self.output.error(&error),
        }
    }

    /// The text before the line.
    fn prompt_text(&self) -> String {
        let Some(group) = self.connector.group() else { return "kvs> ".into() };
        match self.is_connected() {
            true => format!("{}> ", Unquoted(group)),
            false => format!("{} (not connected)> ", Unquoted(group)),
        }
    }

    fn is_connected(&self) -> bool {
        self.group.as_ref().is_some_and(|group| group.connection.is_open())
    }

    /// Runs a line. Breaks if it is `quit`.
    fn run_line(&mut self, line: &str) -> ControlFlow<()> {
        let parsed = parse(line.as_bytes());
        self.add_to_history(line, &parsed);
        let result = match parsed {
            Ok(ParsedLine::Empty) => Ok(()),
            Ok(ParsedLine::Clap(error)) => {
                self.output.clap_error(&error);
                Ok(())
            }
            Ok(ParsedLine::Command(PromptLine { command: PromptCommand::Quit, .. })) => {
                return ControlFlow::Break(());
            }
            Ok(ParsedLine::Command(line)) => self.run_command(line),
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            self.output.error(&error);
        }
        ControlFlow::Continue(())
    }

    fn run_command(&mut self, line: PromptLine) -> Result<(), Error> {
        let output = self.output.or_json(line.format.json);
        match line.command {
            PromptCommand::Group(GroupCommand::Watch(args)) => self.watch(args, output),
            PromptCommand::Group(command) => {
                let group = self.connected(output)?;
                commands::run(command, group, output, Invocation::Line).map(drop)
            }
            PromptCommand::Unwatch => match self.unwatch() {
                0 => Err(Error::Usage("there is no watch to end".into())),
                _ => Ok(()),
            },
            PromptCommand::Connect { group } => self.change_group(group.into_vec(), output),
            // `run_line` handles it.
            PromptCommand::Quit => Ok(()),
        }
    }

    /// Returns the open connection, or opens one.
    fn connected(&mut self, output: Output) -> Result<&GroupConnection, Error> {
        if !self.is_connected() {
            self.group = None;
            self.shared_connection.replace(None);
            let group = self.connector.connect(output)?;
            self.register(&group);
            self.group = Some(group);
        }
        // There is a connection: the one that was open, or the one that was just opened.
        self.group.as_ref().ok_or(Error::NoGroup)
    }

    /// Shares a new connection with completion, and reports when it is closed.
    fn register(&mut self, group: &GroupConnection) {
        self.shared_connection.replace(Some(Arc::clone(&group.connection)));
        let mut printer = self.line_printer();
        let error = group.disconnected();
        // This fails if the connection is closed already; the next command then reports it.
        let _ = group.connection.on_disconnect(move |_| {
            printer.print(format_args!("kvs: {error}; the next command reconnects"));
        });
    }

    fn line_printer(&mut self) -> LinePrinter {
        let printer = self.editor.create_external_printer().ok();
        LinePrinter(printer.map(|printer| Box::new(printer) as Box<dyn ExternalPrinter + Send>))
    }

    /// Connects to another group, and on success closes the connection to the current one.
    fn change_group(&mut self, group: Vec<u8>, output: Output) -> Result<(), Error> {
        let mut connector = self.connector.clone();
        connector.change_group(group);
        let group = connector.connect(output)?;
        if self.unwatch() > 0 {
            self.output.note("the watches of the previous group have ended");
        }
        self.connector = connector;
        self.register(&group);
        self.group = Some(group);
        Ok(())
    }

    fn watch(&mut self, args: WatchArgs, output: Output) -> Result<(), Error> {
        if args.exec.is_some() || args.count.is_some() {
            let message = "at the prompt a watch has neither --exec nor --count: it reports until \
                           \"unwatch\"";
            return Err(Error::Usage(message.into()));
        }
        let group = self.connector.connect(output)?;
        let filter = WatchFilter::new(args.keys, args.prefixes);
        let printer = self.line_printer();
        let (started, start) = mpsc::sync_channel(1);
        let (thread_filter, initial) = (filter.clone(), args.initial);
        let thread = thread::Builder::new()
            .name("watch".into())
            .spawn(move || report(&group, thread_filter, initial, output, printer, &started))
            .map_err(|error| Error::StartWatch(error.to_string()))?;
        // The thread first sends one result, unless it panics.
        let queue = start
            .recv()
            .unwrap_or_else(|_| Err(Error::StartWatch("its thread has ended".into())))?;
        self.watches.retain(|watch| !watch.thread.is_finished());
        self.watches.push(BackgroundWatch { queue, thread });
        if !args.quiet {
            self.output.note(&format!("watching {}; \"unwatch\" ends it", filter.text()));
        }
        Ok(())
    }

    /// Ends all watches and returns how many there were. It does not wait for their threads, one of
    /// which may be writing to the terminal.
    fn unwatch(&mut self) -> usize {
        self.watches.retain(|watch| !watch.thread.is_finished());
        let count = self.watches.len();
        for watch in self.watches.drain(..) {
            watch.queue.close(WatchEnd::Unwatched);
        }
        count
    }

    fn add_to_history(&mut self, line: &str, parsed: &Result<ParsedLine, Error>) {
        let line = match parsed {
            Ok(ParsedLine::Empty) => return,
            // The words after a wrong `connect` may be a secret.
            _ if PartialLine::parse(line).first() == Some(b"connect") => match parsed {
                Ok(ParsedLine::Command(_)) => line,
                _ => return,
            },
            _ => line,
        };
        let secret = self.connector.secret().unwrap_or_default();
        if !secret.is_empty() && line.as_bytes().windows(secret.len()).any(|part| part == secret) {
            return;
        }
        // Completion appends a space. An escaped space belongs to a word.
        let line = if line.ends_with("\\ ") { line } else { line.trim_end() };
        let added = self.editor.add_history_entry(line);
        let Some(path) = self.history.clone() else { return };
        // The line is saved at once, so that it survives even a killed prompt.
        if let Err(error) = added.and_then(|_| self.editor.append_history(&path)) {
            self.output.warning("no_history", &history_warning(&path, &error));
            self.history = None;
        }
    }
}

/// The thread of a watch: sends whether the watch has started, then prints each event.
fn report(
    group: &GroupConnection,
    filter: WatchFilter,
    initial: bool,
    output: Output,
    mut printer: LinePrinter,
    started: &mpsc::SyncSender<Result<Arc<ChangeQueue>, Error>>,
) {
    let mut events = match EventStream::start(group, filter) {
        Ok(events) => events,
        Err(error) => {
            // The prompt waits for this message, so the channel is open.
            let _ = started.send(Err(error));
            return;
        }
    };
    let _ = started.send(Ok(events.queue()));
    let line = |event: &KeyEvent| match output.is_json() {
        true => event.to_json().to_string(),
        false => event.text(MAX_SHOWN_VALUE),
    };
    let mut result = Ok(());
    if initial {
        result = events.report_initial(|event| {
            printer.print(line(&event));
            Ok(())
        });
    }
    while result.is_ok() {
        match events.next() {
            Ok(Some(event)) => printer.print(line(&event)),
            Ok(None) => return,
            Err(error) => result = Err(error),
        }
    }
    if let Err(error) = result {
        let group = Quoted(&group.group);
        printer.print(format_args!("kvs: {error}; a watch on the group {group} has ended"));
    }
}

fn history_warning(path: &Path, error: &dyn Display) -> String {
    format!("cannot save the history in {}: {error}", path.display())
}

/// The path of the history, if there is a home directory.
fn history_path() -> Option<PathBuf> {
    let absolute =
        |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state =
        absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    Some(state.join("kvs/history"))
}

fn create_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}
