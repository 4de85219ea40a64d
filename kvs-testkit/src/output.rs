//! The two output streams of a process, read line by line into one state that a test can wait on.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::process::ExitStatus;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// Receives each line of standard output, and `None` at its end.
pub(crate) type LineHandler = Box<dyn FnMut(Option<&str>) + Send>;

/// The state of a process, and the condition variable that reports each change of it.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// Everything that is known of a process.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) stdout: Stream,
    pub(crate) stderr: Stream,
    pub(crate) status: Option<ExitStatus>,
}

/// Standard output or standard error.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    pub(crate) lines: Vec<String>,
    /// The beginning of an incomplete line.
    pub(crate) rest: Vec<u8>,
    /// The number of lines that the test has consumed.
    pub(crate) taken: usize,
    pub(crate) ended: bool,
}

impl Stream {
    fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                self.end_line();
            } else {
                self.rest.push(byte);
            }
        }
    }

    fn end_line(&mut self) {
        // A terminal ends lines with CR LF.
        if self.rest.last() == Some(&b'\r') {
            self.rest.pop();
        }
        self.lines.push(String::from_utf8_lossy(&self.rest).into_owned());
        self.rest.clear();
    }

    fn end(&mut self) {
        if !self.rest.is_empty() {
            self.end_line();
        }
        self.ended = true;
    }
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic in another thread must not lose the output.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Waits up to `limit` until `look` returns something.
    pub(crate) fn wait<T>(
        &self,
        limit: Duration,
        mut look: impl FnMut(&mut State) -> Option<T>,
    ) -> Option<T> {
        let end = Instant::now() + limit;
        let mut state = self.lock();
        loop {
            if let Some(found) = look(&mut state) {
                return Some(found);
            }
            let left = end.checked_duration_since(Instant::now())?;
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(|poisoned| poisoned.into_inner())
                .0;
        }
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

/// Reads a stream to its end on a thread of its own.
pub(crate) fn read_lines(
    mut from: File,
    shared: Arc<Shared>,
    stream: fn(&mut State) -> &mut Stream,
) {
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        // A terminal whose program has ended fails with EIO instead of ending.
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            shared.update(|state| stream(state).feed(&buffer[..count]));
        }
        shared.update(|state| stream(state).end());
    });
}

/// Passes the lines of standard output to a handler on a thread of its own.
pub(crate) fn handle_lines(from: File, shared: Arc<Shared>, mut handler: LineHandler) {
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while let Ok(1..) = from.read_until(b'\n', &mut line) {
            let text = String::from_utf8_lossy(&line);
            handler(Some(text.trim_end_matches('\n')));
            line.clear();
        }
        handler(None);
        shared.update(|state| state.stdout.end());
    });
}
