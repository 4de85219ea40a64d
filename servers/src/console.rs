//! The administrator's dialogue: commands from standard input, answers to standard output.
//!
//! Answers are lines, written and flushed one by one by a thread of their own, so that a terminal that
//! has been stopped (or a pipe that nobody reads) never holds up a server. When [`BACKLOG`] lines wait, further
//! ones are dropped and counted, and the count is printed when there is room again.
//!
//! Commands are whole lines. The end of the input is not `Quit`: a server started with its input closed
//! goes on serving. On a terminal the dialogue goes on, too: after Ctrl-D at once, and for a server in the
//! background as soon as it is continued in the foreground.
//!
//! On a terminal that can do it, lines are edited (`terminal`): with a prompt, a history and completion. Everywhere else, and
//! above all in pipes, not one byte is read or written beyond the lines themselves.

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

use crate::terminal::{self, Editor, Restored, Typed, Words};

/// How many lines may wait for a slow terminal.
pub const BACKLOG: usize = 4096;

/// The printed answer to what is no command.
pub const UNKNOWN_COMMAND: &str = "Unknown Command";

/// Standard input and output. To be dropped at the end of the program: then the terminal is left as it was.
#[derive(Debug)]
pub struct Console {
    input: Option<Input<BufReader<Stdin>>>,
    output: Output,
    _restored: Option<Restored>,
}

impl Console {
    /// Opens it, with an editor of lines if it is a terminal that can have one. It completes these commands.
    ///
    /// # Errors
    /// When the thread that prints cannot be started.
    pub fn open(commands: &'static [&'static str]) -> io::Result<Self> {
        let mut input = Input::stdin();
        let Some(parts) = terminal::open(commands) else {
            let output = Output::new(io::stdout())?;
            return Ok(Self { input: Some(input), output, _restored: None });
        };
        input.editor = Some(parts.editor);
        let output = Output::new(parts.printer)?;
        Ok(Self { input: Some(input), output, _restored: Some(parts.restored) })
    }

    /// Where answers go.
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// Where commands come from: once.
    ///
    /// # Panics
    /// The second time.
    pub fn take_input(&mut self) -> Input<BufReader<Stdin>> {
        self.input.take().expect("one thread reads the console")
    }
}

/// Where answers go. Clones write to the same place, in the order of the calls.
#[derive(Debug, Clone)]
pub struct Output {
    lines: SyncSender<Line>,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Line {
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

    /// Prints one line (or several, when `text` contains line feeds, which then stay together). Never
    /// waits.
    pub fn say(&self, text: impl Display) {
        if let Err(TrySendError::Full(_)) = self.lines.try_send(Line::Text(text.to_string())) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until all lines said before are written, `limit` at most.
    pub fn flush(&self, limit: Duration) {
        let (done, flushed) = mpsc::sync_channel(1);
        if self.lines.try_send(Line::Flushed(done)).is_ok() {
            // Either it was written, or whoever reads us is too slow: there is nothing else to do.
            let _: Result<(), RecvTimeoutError> = flushed.recv_timeout(limit);
        }
    }
}

fn write_lines(mut sink: impl Write, waiting: &Receiver<Line>, dropped: &AtomicU64) {
    // The end of the reader (a closed pipe) must not end the server: errors are let go.
    while let Ok(line) = waiting.recv() {
        match line {
            Line::Text(text) => {
                let _ = sink.write_all(format!("{text}\n").as_bytes());
            }
            Line::Flushed(done) => {
                // Each line was flushed; a terminal may still have to show the last.
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

/// The lines that the administrator types. To be read by a thread of its own.
#[derive(Debug)]
pub struct Input<R> {
    reader: R,
    /// There is somebody who may go away and come back.
    terminal: bool,
    /// Reads in place of `reader`.
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
    /// Reads from `reader`, which is no terminal.
    pub fn new(reader: R) -> Self {
        Self { reader, terminal: false, editor: None }
    }

    /// The next line without its end (LF or CR LF); `None` when there will be none any more. Bytes that are
    /// not UTF-8 are kept.
    pub fn line(&mut self) -> Option<Vec<u8>> {
        self.next(None)
    }

    /// The same, for a line that is most likely one of `words`: an editor completes them.
    pub fn line_among(
        &mut self,
        words: impl Fn() -> Vec<String> + Send + 'static,
    ) -> Option<Vec<u8>> {
        self.next(Some(Box::new(words)))
    }

    fn next(&mut self, words: Option<Words>) -> Option<Vec<u8>> {
        if self.terminal {
            // In the background a read stops the whole process, unless its thread has the signal blocked:
            // then it fails with EIO. So does a change of the terminal. Blocking valid signals does not fail.
            let _ = (SigSet::from(Signal::SIGTTIN) | SigSet::from(Signal::SIGTTOU)).thread_block();
        }
        if let Some(editor) = &mut self.editor {
            editor.complete(words);
        }
        while let Some(editor) = &mut self.editor {
            match editor.line() {
                Typed::Line(line) => return Some(line),
                Typed::End if terminal_has_hung_up() => return self.ended(),
                Typed::End => terminal::not_quit(),
                Typed::Over => return None,
                Typed::Background => wait_for_foreground()?,
                Typed::Failed(error) => {
                    tracing::warn!("lines cannot be edited any more: {error}");
                    self.editor = None;
                }
            }
        }
        self.plain()
    }

    fn ended(&self) -> Option<Vec<u8>> {
        tracing::info!("end of the input: no more commands; SIGTERM ends the server");
        None
    }

    fn plain(&mut self) -> Option<Vec<u8>> {
        loop {
            let mut line = Vec::new();
            match self.reader.read_until(b'\n', &mut line) {
                Ok(0) if self.terminal && !terminal_has_hung_up() => terminal::not_quit(),
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
                    tracing::warn!("standard input cannot be read any more: {error}");
                    return None;
                }
            }
        }
    }
}

/// Whether the end of the input is for ever, and not a Ctrl-D.
fn terminal_has_hung_up() -> bool {
    let stdin = io::stdin();
    // A hang-up is reported without being asked for.
    let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO) != Ok(0)
}

/// Waits until the process is continued, as a shell does when it brings a stopped job to the foreground.
fn wait_for_foreground() -> Option<()> {
    let mut signals = Signals::new([SIGCONT])
        .inspect_err(|error| tracing::warn!("no more commands: {error}"))
        .ok()?;
    if terminal::in_foreground() {
        // It came back before the signal was awaited.
        return Some(());
    }
    tracing::info!("in the background: no commands until the server is continued (SIGCONT)");
    signals.forever().next().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    /// A terminal that shows nothing until it is let go.
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
    fn a_stopped_terminal_holds_nobody_up_and_the_loss_is_counted() {
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
