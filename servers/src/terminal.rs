//! A console on a terminal that can edit lines: history, completion, and answers that do not disturb what is being typed.
//!
//! The editor needs the terminal in *raw* mode while it waits for a line, and only then; at all other times the
//! terminal is as it was. Three threads must agree about that ([`Screen`]): the one that reads lines and puts it into
//! raw mode and back; the one that prints, through the editor or past it; and main, which leaves it as it was
//! when the server ends in the middle of a line.
//!
//! Job control is what it is without an editor. Ctrl-C is SIGINT and Ctrl-Z is SIGTSTP for the whole foreground, sent by
//! ourselves, as there is no such key in raw mode. For Ctrl-Z the editor is left first: so the shell finds its terminal as
//! it was, and a server that goes on in the background (`bg`) does not touch it. The line is kept.
//!
//! Nobody edits on a terminal that cannot move its cursor (`TERM` is `dumb`, or not set), nor when standard output
//! is somewhere else. Bytes that are not UTF-8 cannot be typed into an editor.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::mem;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use parking_lot::{Condvar, Mutex};
use rustix::process::getpgrp;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr};
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
use signal_hook::consts::SIGCONT;

/// What stands before the line that is typed.
const PROMPT: &str = "> ";

/// How many lines are remembered.
const HISTORY: usize = 200;

/// How long an editor that has a text to print may take until it reads again.
const NEXT_PATIENCE: Duration = Duration::from_millis(200);

/// How long the editor may take to begin.
const BEGIN_PATIENCE: Duration = Duration::from_secs(1);

/// How long the process may take to stop, in milliseconds.
const SUSPEND_PATIENCE: u16 = 1000;

/// Moves the cursor up a line, and down again: shows nothing.
const NOTHING: &str = "\x1b[A\n";

/// The three parts of a terminal with an editor: to read, to print, and to leave it as it was.
pub(crate) struct Parts {
    pub(crate) editor: Editor,
    pub(crate) printer: Printer,
    pub(crate) restored: Restored,
}

/// Opens standard input and output, if they are a terminal on which lines can be edited.
pub(crate) fn open(commands: &'static [&'static str]) -> Option<Parts> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return None;
    }
    let term = std::env::var("TERM").unwrap_or_default();
    // The names are those that the editor does not know either.
    if term.is_empty() || ["dumb", "cons25", "emacs"].contains(&&*term.to_ascii_lowercase()) {
        return None;
    }
    let screen = Arc::new(Screen::default());
    let editor = Editor::new(commands, Arc::clone(&screen));
    let printers = editor.and_then(|mut editor| {
        let printer = editor.lines.create_external_printer()?;
        let for_log = editor.lines.create_external_printer()?;
        let printer = Printer {
            editor: Box::new(printer),
            text: String::new(),
            screen: Arc::clone(&screen),
            may_wait: false,
        };
        Ok((editor, printer, for_log))
    });
    match printers {
        Ok((editor, printer, for_log)) => {
            if io::stderr().is_terminal() {
                *LOG.lock() = LogPrinter::Here(Box::new(for_log));
            }
            Some(Parts { editor, printer, restored: Restored(screen) })
        }
        Err(error) => {
            tracing::info!("lines cannot be edited on this terminal: {error}");
            None
        }
    }
}

/// How the log is printed while there is an editor.
static LOG: Mutex<LogPrinter> = Mutex::new(LogPrinter::None);

enum LogPrinter {
    /// There is no editor, or it is over: on standard error.
    None,
    /// Taken out by whoever prints.
    Here(Box<dyn ExternalPrinter + Send>),
    /// Somebody prints. If it is over meanwhile, it does not come back.
    Out,
}

/// Standard error for lines of the log: above the line that is being typed, if somebody types. For one thread.
pub(crate) struct Log;

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let taken = {
            let mut place = LOG.lock();
            match mem::replace(&mut *place, LogPrinter::Out) {
                LogPrinter::Here(printer) => Some(printer),
                other => {
                    *place = other;
                    None
                }
            }
        };
        let Some(mut printer) = taken else { return io::stderr().write(line) };
        let printed = printer.print(String::from_utf8_lossy(line).into_owned());
        let mut place = LOG.lock();
        if matches!(*place, LogPrinter::Out) {
            *place = LogPrinter::Here(printer);
        }
        drop(place);
        printed.map(|()| line.len()).map_err(io::Error::other)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whose the terminal is at the moment.
#[derive(Debug, Default)]
struct Screen {
    state: Mutex<State>,
    changed: Condvar,
    /// How often the editor has begun. Changed under the lock of the state.
    times: AtomicU64,
}

#[derive(Debug, Default)]
enum State {
    /// It is as it was.
    #[default]
    Untouched,
    /// The editor is about to change it; so it was.
    Beginning(Termios),
    /// It is in raw mode; so it was.
    Raw(Termios),
    /// It is left alone for good.
    Ended,
}

impl Screen {
    /// The editor may begin; `false`: it may not, ever again.
    fn begin(&self) -> io::Result<bool> {
        let mut state = self.state.lock();
        if matches!(*state, State::Ended) {
            return Ok(false);
        }
        *state = State::Beginning(tcgetattr(io::stdin())?);
        self.times.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }

    /// The editor has changed the terminal, and is about to draw. When all is over it must draw no more: then this does not
    /// return.
    fn is_raw(&self) {
        let mut state = self.state.lock();
        while matches!(*state, State::Ended) {
            self.changed.wait(&mut state);
        }
        match mem::take(&mut *state) {
            State::Beginning(before) => *state = State::Raw(before),
            other => *state = other,
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Waits until the editor reads, for so long at most.
    fn wait_for_raw(&self, patience: Duration) {
        let mut state = self.state.lock();
        let deadline = Instant::now() + patience;
        while !matches!(*state, State::Raw(_) | State::Ended) {
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                return;
            }
        }
    }

    /// Whether the editor reads, or is about to; and how often it has begun.
    fn editing(&self) -> (bool, u64) {
        let state = self.state.lock();
        let reads = matches!(*state, State::Beginning(_) | State::Raw(_));
        (reads, self.times.load(Ordering::Relaxed))
    }

    /// The editor has left it as it was.
    fn done(&self) {
        let mut state = self.state.lock();
        if !matches!(*state, State::Ended) {
            *state = State::Untouched;
        }
        drop(state);
        self.changed.notify_all();
    }
}

/// Leaves the terminal as it was, when it is dropped.
#[derive(Debug)]
pub(crate) struct Restored(Arc<Screen>);

impl Drop for Restored {
    fn drop(&mut self) {
        let printer = mem::replace(&mut *LOG.lock(), LogPrinter::None);
        drop(printer);
        let mut state = self.0.state.lock();
        let deadline = Instant::now() + BEGIN_PATIENCE;
        // Otherwise it would change the terminal after us.
        while matches!(*state, State::Beginning(_)) {
            if self.0.changed.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        let before = mem::replace(&mut *state, State::Ended);
        drop(state);
        if let State::Raw(before) | State::Beginning(before) = before {
            // What was not done is worth no word: the program ends.
            let _ = restore(&before);
        }
    }
}

fn restore(before: &Termios) -> io::Result<()> {
    // In the background it would stop the process, and the server could not end.
    SigSet::from(Signal::SIGTTOU).thread_block()?;
    tcsetattr(io::stdin(), OptionalActions::Now, before)?;
    // The beginning of a line. On a terminal that takes nothing it would wait for ever.
    let stdout = io::stdout();
    let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::POLLOUT)];
    if poll(&mut fds, PollTimeout::ZERO)? == 1 {
        nix::unistd::write(&stdout, b"\r\x1b[K")?;
    }
    Ok(())
}

/// Prints above the line that is being typed. Writing gathers, [`flush`](Write::flush) prints; a flush of nothing waits
/// until all that was printed before can be seen.
pub(crate) struct Printer {
    editor: Box<dyn ExternalPrinter + Send>,
    text: String,
    screen: Arc<Screen>,
    /// The text before may not have been printed yet: it was handed to an editor that was reading.
    may_wait: bool,
}

impl Printer {
    /// An editor that got its line from what was typed ahead leaves a text that was handed to it to the next time that it
    /// reads. What is printed directly in between would come before that text; and at the end there would be no next time.
    /// So it is given a moment to read again.
    fn print(&mut self, text: String) -> io::Result<()> {
        if self.may_wait {
            self.screen.wait_for_raw(NEXT_PATIENCE);
        }
        let (reads, times) = self.screen.editing();
        let printed = self.editor.print(text).map_err(io::Error::other);
        // Also when it has begun, and perhaps ended, meanwhile.
        self.may_wait = reads || self.screen.editing() != (false, times);
        printed
    }
}

impl Write for Printer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.push_str(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let text = mem::take(&mut self.text);
        if !text.is_empty() {
            return self.print(text);
        }
        // The editor takes one text after the other, and prints it before it takes the next. When it has taken the first of
        // these two, all before it was printed.
        for _ in 0..2 {
            self.print(NOTHING.into())?;
        }
        Ok(())
    }
}

/// What has come of waiting for a line.
#[derive(Debug)]
pub(crate) enum Typed {
    Line(Vec<u8>),
    /// Ctrl-D, or the terminal has hung up.
    End,
    /// The program is ending.
    Over,
    /// The server is in the background.
    Background,
    /// It cannot be used (any more).
    Failed(io::Error),
}

/// Gives the words that a line may be.
pub(crate) type Words = Box<dyn Fn() -> Vec<String> + Send>;

/// Reads lines.
pub(crate) struct Editor {
    lines: rustyline::Editor<Aid, MemHistory>,
    screen: Arc<Screen>,
    suspended: Arc<Mutex<Option<(String, String)>>>,
    /// The line that was being typed when the server was stopped, before and after the cursor.
    begun: (String, String),
    commands: &'static [&'static str],
}

impl fmt::Debug for Editor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Editor")
    }
}

impl Editor {
    fn new(commands: &'static [&'static str], screen: Arc<Screen>) -> rustyline::Result<Self> {
        let config = Config::builder()
            .history_ignore_dups(true)?
            .max_history_size(HISTORY)?
            .auto_add_history(true)
            .completion_type(CompletionType::List)
            // Pasted lines are lines.
            .bracketed_paste(false)
            // There are none, but the first sign that the terminal is raw comes with them.
            .color_mode(ColorMode::Forced)
            .build();
        let history = MemHistory::with_config(&config);
        let mut lines = rustyline::Editor::with_history(config, history)?;
        // Not every terminal keeps silent about what it does not know.
        lines.enable_synchronized_output(false);
        lines.set_helper(Some(Aid { words: words_of(commands), screen: Arc::clone(&screen) }));
        let suspended = Arc::new(Mutex::new(None));
        let suspend = Suspend(Arc::clone(&suspended));
        lines.bind_sequence(KeyEvent::ctrl('D'), EventHandler::Conditional(Box::new(NotQuit)));
        lines.bind_sequence(KeyEvent::ctrl('Z'), EventHandler::Conditional(Box::new(suspend)));
        Ok(Self { lines, screen, suspended, begun: Default::default(), commands })
    }

    /// What the next lines most likely are: one of these words, or a command.
    pub(crate) fn complete(&mut self, words: Option<Words>) {
        if let Some(aid) = self.lines.helper_mut() {
            aid.words = words.unwrap_or_else(|| words_of(self.commands));
        }
    }

    /// Waits for a line.
    pub(crate) fn line(&mut self) -> Typed {
        loop {
            if !in_foreground() {
                return Typed::Background;
            }
            match self.screen.begin() {
                Ok(true) => {}
                Ok(false) => return Typed::Over,
                Err(error) => return Typed::Failed(error),
            }
            let (before, after) = mem::take(&mut self.begun);
            let typed = self.lines.readline_with_initial(PROMPT, (&before, &after));
            self.screen.done();
            match typed {
                Ok(line) => return Typed::Line(line.into_bytes()),
                Err(ReadlineError::Eof) => return Typed::End,
                Err(ReadlineError::Interrupted) => {
                    let suspended = self.suspended.lock().take();
                    match suspended {
                        Some(line) => {
                            self.begun = line;
                            if let Err(error) = suspend() {
                                tracing::warn!("no stop at Ctrl-Z: {error}");
                            }
                        }
                        None => to_foreground(Signal::SIGINT),
                    }
                }
                Err(ReadlineError::Signal(_)) => {}
                Err(ReadlineError::Errno(errno)) if errno as i32 == Errno::EIO as i32 => {
                    return Typed::Background;
                }
                Err(ReadlineError::Io(error))
                    if error.raw_os_error() == Some(Errno::EIO as i32) =>
                {
                    return Typed::Background;
                }
                Err(error) => return Typed::Failed(io::Error::other(error)),
            }
        }
    }
}

/// Whether we may read the terminal. Of one that is not ours to control there is no background.
pub(crate) fn in_foreground() -> bool {
    tcgetpgrp(io::stdin()).map_or(true, |foreground| foreground == getpgrp())
}

/// What the terminal would do at a key: a signal for all processes in its foreground, as we are there. When it controls
/// nobody, it is for us alone.
fn to_foreground(signal: Signal) {
    let all = Pid::from_raw(0);
    let whom = if tcgetpgrp(io::stdin()).is_ok() { all } else { Pid::this() };
    if let Err(error) = kill(whom, signal) {
        tracing::warn!("{signal} could not be sent: {error}");
    }
}

/// Stops, and returns when the process is continued. Another thread may be the one that takes the signal, a moment later:
/// until then this one must not go back to the terminal. Where nobody could continue us, nobody is stopped, and it is
/// not waited for.
fn suspend() -> io::Result<()> {
    let (continued, signalled) = UnixStream::pair()?;
    let registered = signal_hook::low_level::pipe::register(SIGCONT, signalled)?;
    to_foreground(Signal::SIGTSTP);
    let mut fds = [PollFd::new(continued.as_fd(), PollFlags::POLLIN)];
    let waited = poll(&mut fds, SUSPEND_PATIENCE);
    signal_hook::low_level::unregister(registered);
    match waited {
        // A stop interrupts it as well.
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn words_of(commands: &'static [&'static str]) -> Words {
    Box::new(|| commands.iter().map(ToString::to_string).collect())
}

/// Ctrl-D on an empty line: says that nothing ends by that. (The editor would be left, and what was typed ahead forgotten.)
struct NotQuit;

impl ConditionalEventHandler for NotQuit {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, at: &EventContext<'_>) -> Option<Cmd> {
        at.line().is_empty().then(|| {
            not_quit();
            Cmd::Noop
        })
    }
}

/// The end of the input is no command.
pub(crate) fn not_quit() {
    tracing::info!("the end of the input is not Quit: type Quit to end the server");
}

/// Ctrl-Z: keeps the line, on both sides of the cursor, and leaves the editor.
struct Suspend(Arc<Mutex<Option<(String, String)>>>);

impl ConditionalEventHandler for Suspend {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, at: &EventContext<'_>) -> Option<Cmd> {
        let (before, after) = at.line().split_at_checked(at.pos())?;
        *self.0.lock() = Some((before.into(), after.into()));
        Some(Cmd::Interrupt)
    }
}

/// Completes whole lines.
struct Aid {
    words: Words,
    screen: Arc<Screen>,
}

impl Completer for Aid {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        at: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let begun = line.get(..at).unwrap_or(line);
        let mut words = (self.words)();
        words.retain(|word| word.starts_with(begun) && !word.contains(char::is_control));
        words.sort_unstable();
        Ok((0, words))
    }
}

impl Highlighter for Aid {
    /// It shows nothing else than it is given. But it is first called when the terminal has just become raw.
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(
        &'s self,
        prompt: &'p str,
        _: bool,
    ) -> std::borrow::Cow<'b, str> {
        self.screen.is_raw();
        prompt.into()
    }
}

impl Hinter for Aid {
    type Hint = String;
}

impl Validator for Aid {}

impl Helper for Aid {}
