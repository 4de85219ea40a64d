//! The console of a server: commands from standard input, responses to standard output.
//!
//! Responses are lines. A thread of its own writes and flushes them one by one, so that a stopped
//! terminal or a pipe that is not read never blocks a server. When [`BACKLOG`] lines are queued,
//! further ones are dropped and counted, and the count is printed when there is space again.
//!
//! Commands are whole lines. The end of the input is not `Quit`: a server started with its input
//! closed keeps serving. On a terminal, the console keeps reading after Ctrl-D; in the background
//! it waits until the server is continued in the foreground.
//!
//! On a capable terminal, lines are edited (`terminal`) with a prompt, a history and completion.
//! Everywhere else, above all in pipes, no byte beyond the lines themselves is read or written.

use std::fmt::Display;
use std::io::{self, BufRead, BufReader, IsTerminal, Stdin, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use signal_hook::consts::SIGCONT;
use signal_hook::iterator::Signals;

use crate::terminal::editor::{Candidates, Editor, LineEvent, log_end_of_input};
use crate::terminal::job_control::in_foreground;
use crate::terminal::{self, TerminalGuard};

/// How many lines may be queued for a slow terminal.
pub const BACKLOG: usize = 4096;

/// The response to an unknown command.
pub const UNKNOWN_COMMAND: &str = "Unknown Command";

/// Standard input and output. Must be dropped at the end of the program, which restores the
/// terminal.
#[derive(Debug)]
pub struct Console {
    input: Option<Input<BufReader<Stdin>>>,
    output: Output,
    _guard: Option<TerminalGuard>,
}

impl Console {
    /// Opens the console, with a line editor on a capable terminal. The editor completes these
    /// commands.
    ///
    /// # Errors
    /// When the thread that writes cannot be started.
    pub fn open(commands: &'static [&'static str]) -> io::Result<Self> {
        let mut input = Input::stdin();
        let Some(parts) = terminal::open(commands) else {
            let output = Output::new(io::stdout())?;
            return Ok(Self { input: Some(input), output, _guard: None });
        };
        input.editor = Some(parts.editor);
        let output = Output::new(parts.printer)?;
        Ok(Self { input: Some(input), output, _guard: Some(parts.guard) })
    }

    /// Where responses are printed.
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// Where commands are read. To be called once.
    ///
    /// # Panics
    /// When it is called a second time.
    pub fn take_input(&mut self) -> Input<BufReader<Stdin>> {
        self.input.take().expect("one thread reads the console")
    }
}

/// Prints lines. Clones write to the same sink, in the order of the calls.
#[derive(Debug, Clone)]
pub struct Output {
    lines: SyncSender<WriterMessage>,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug)]
enum WriterMessage {
    Text(String),
    Flushed(SyncSender<()>),
}

impl Output {
    /// Starts the thread that writes to `sink`.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn new(sink: impl Write + Send + 'static) -> io::Result<Self> {
        let (lines, waiting) = mpsc::sync_channel(BACKLOG);
        let dropped = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&dropped);
        thread::Builder::new()
            .name("console-output".into())
            .spawn(move || write_lines(sink, &waiting, &counter))?;
        Ok(Self { lines, dropped })
    }

    /// Prints one line, or several that stay together if `text` contains line feeds. Never waits.
    pub fn say(&self, text: impl Display) {
        if let Err(TrySendError::Full(_)) =
            self.lines.try_send(WriterMessage::Text(text.to_string()))
        {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until all earlier lines are written, `limit` at most.
    pub fn flush(&self, limit: Duration) {
        let (done, flushed) = mpsc::sync_channel(1);
        if self.lines.try_send(WriterMessage::Flushed(done)).is_ok() {
            // When the timeout expires, the reader is too slow, and the lines are lost.
            let _: Result<(), RecvTimeoutError> = flushed.recv_timeout(limit);
        }
    }
}

fn write_lines(mut sink: impl Write, waiting: &Receiver<WriterMessage>, dropped: &AtomicU64) {
    // A closed pipe must not end the server, so errors are ignored.
    while let Ok(line) = waiting.recv() {
        match line {
            WriterMessage::Text(text) => {
                let _ = sink.write_all(format!("{text}\n").as_bytes());
            }
            WriterMessage::Flushed(done) => {
                // Each line was flushed already; the printer of a terminal may still hold the last.
                let _ = sink.flush();
                let _ = done.try_send(());
                continue;
            }
        }
        let missing = dropped.swap(0, Ordering::Relaxed);
        if missing > 0 {
            let _ = sink.write_all(format!("({missing} lines were dropped here)\n").as_bytes());
        }
        let _ = sink.flush();
    }
}

/// Reads the administrator's lines. Needs a thread of its own.
#[derive(Debug)]
pub struct Input<R> {
    reader: R,
    /// Standard input is a terminal: its end may be a Ctrl-D, and reading may fail in the
    /// background.
    terminal: bool,
    /// Reads instead of `reader`.
    editor: Option<Editor>,
}

impl Input<BufReader<Stdin>> {
    /// Reads standard input.
    pub fn stdin() -> Self {
        let stdin = io::stdin();
        let terminal = stdin.is_terminal();
        Self { reader: BufReader::new(stdin), terminal, editor: None }
    }
}

impl<R: BufRead> Input<R> {
    /// Reads from `reader`, which is not a terminal.
    pub fn new(reader: R) -> Self {
        Self { reader, terminal: false, editor: None }
    }

    /// The next line without its end (LF or CR LF); `None` at the end of the input. Bytes that are
    /// not UTF-8 are kept.
    pub fn line(&mut self) -> Option<Vec<u8>> {
        self.next(None)
    }

    /// The next line, with completion of `candidates` in the editor.
    pub fn line_among(
        &mut self,
        candidates: impl Fn() -> Vec<String> + Send + 'static,
    ) -> Option<Vec<u8>> {
        self.next(Some(Box::new(candidates)))
    }

    fn next(&mut self, candidates: Option<Candidates>) -> Option<Vec<u8>> {
        if self.terminal {
            // In the background, reading or changing the terminal stops the process, unless the
            // thread blocks the signal: then it fails with EIO. Blocking valid signals does not
            // fail.
            let _ = (SigSet::from(Signal::SIGTTIN) | SigSet::from(Signal::SIGTTOU)).thread_block();
        }
        if let Some(editor) = &mut self.editor {
            editor.complete(candidates);
        }
        while let Some(editor) = &mut self.editor {
            match editor.line() {
                LineEvent::Line(line) => return Some(line),
                LineEvent::End if terminal_has_hung_up() => return self.ended(),
                LineEvent::End => log_end_of_input(),
                LineEvent::Closed => return None,
                LineEvent::Background => wait_for_foreground()?,
                LineEvent::Failed(error) => {
                    tracing::warn!("line editing is disabled: {error}");
                    self.editor = None;
                }
            }
        }
        self.plain()
    }

    fn ended(&self) -> Option<Vec<u8>> {
        tracing::info!(
            "end of standard input: no more commands are read; send SIGTERM to stop the server"
        );
        None
    }

    fn plain(&mut self) -> Option<Vec<u8>> {
        loop {
            let mut line = Vec::new();
            match self.reader.read_until(b'\n', &mut line) {
                Ok(0) if self.terminal && !terminal_has_hung_up() => log_end_of_input(),
                Ok(0) => return self.ended(),
                Ok(_) => {
                    if line.last() == Some(&b'\n') {
                        line.pop();
                    }
                    if line.last() == Some(&b'\r') {
                        line.pop();
                    }
                    return Some(line);
                }
                Err(error) if self.terminal && error.raw_os_error() == Some(Errno::EIO as i32) => {
                    wait_for_foreground()?;
                }
                Err(error) => {
                    tracing::warn!("cannot read standard input, no more commands: {error}");
                    return None;
                }
            }
        }
    }
}

/// Whether the end of the input is final, and not a Ctrl-D.
fn terminal_has_hung_up() -> bool {
    let stdin = io::stdin();
    // A hang-up is reported without being requested.
    let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO) != Ok(0)
}

/// Waits until the process is continued, as a shell does when it brings a stopped job to the
/// foreground.
fn wait_for_foreground() -> Option<()> {
    let mut signals = Signals::new([SIGCONT])
        .inspect_err(|error| {
            tracing::warn!("cannot wait for the foreground, no more commands: {error}")
        })
        .ok()?;
    if in_foreground() {
        // The process was continued before the handler was installed.
        return Some(());
    }
    tracing::info!("in the background: no commands until the server is continued (SIGCONT)");
    signals.forever().next().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    /// A terminal that shows nothing until it is released.
    struct Stopped(Receiver<()>, Arc<parking_lot::Mutex<Vec<u8>>>);

    impl Write for Stopped {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            self.1.lock().extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn stopped_terminal_never_blocks_and_loss_is_counted() {
        let (go, stopped) = mpsc::channel();
        let shown = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let output = Output::new(Stopped(stopped, Arc::clone(&shown))).unwrap();
        let total = BACKLOG + 100;
        for n in 0..total {
            output.say(n);
        }
        drop(go);
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(30) {
            let text = String::from_utf8(shown.lock().clone()).unwrap();
            let dropped: usize = text
                .lines()
                .filter_map(|line| line.strip_prefix('(')?.split(' ').next()?.parse::<usize>().ok())
                .sum();
            let printed = text.lines().filter(|line| line.parse::<usize>().is_ok()).count();
            if dropped > 0 && dropped + printed == total {
                return;
            }
            output.flush(Duration::from_secs(5));
        }
        panic!("the loss was not counted");
    }

    #[test]
    fn lines_lose_their_ends_and_nothing_else() {
        let mut input = Input::new(&b"Quit\r\n\n \xff x\nlast"[..]);
        assert_eq!(input.line().as_deref(), Some(&b"Quit"[..]));
        assert_eq!(input.line().as_deref(), Some(&b""[..]));
        assert_eq!(input.line().as_deref(), Some(&b" \xff x"[..]));
        assert_eq!(input.line().as_deref(), Some(&b"last"[..]));
        assert_eq!(input.line(), None);
    }
}
