//! Which thread may change the terminal, and the original state of the terminal.

use std::io;
use std::mem;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{SigSet, Signal};
use parking_lot::{Condvar, Mutex};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// How long the editor may take from its beginning until it reads.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(1);

/// How long restoring the terminal waits until the terminal can be written to, in milliseconds.
const WRITE_TIMEOUT: u16 = 200;

/// The state of the terminal, shared by the threads that change it.
#[derive(Debug, Default)]
pub(super) struct Screen {
    state: Mutex<State>,
    changed: Condvar,
    /// How often the editor has begun. Written under the lock of `state`.
    begin_count: AtomicU64,
}

#[derive(Debug, Default)]
enum State {
    /// The terminal has its original state.
    #[default]
    Untouched,
    /// The editor is about to change the terminal, whose original state this is.
    Beginning(Termios),
    /// The terminal is in raw mode; this is its original state.
    Raw(Termios),
    /// The editor may not change the terminal again.
    Closed,
}

impl Screen {
    /// The editor begins to read a line; `false` when it may not do so again.
    pub(super) fn begin(&self) -> io::Result<bool> {
        let mut state = self.state.lock();
        if matches!(*state, State::Closed) {
            return Ok(false);
        }
        *state = State::Beginning(tcgetattr(io::stdin())?);
        self.begin_count.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }

    /// The editor has changed the terminal and is about to draw. Does not return when the screen is
    /// closed: the editor must not draw any more.
    pub(super) fn entered_raw(&self) {
        let mut state = self.state.lock();
        while matches!(*state, State::Closed) {
            self.changed.wait(&mut state);
        }
        match mem::take(&mut *state) {
            State::Beginning(before) => *state = State::Raw(before),
            other => *state = other,
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Waits until the editor reads, for `timeout` at most.
    pub(super) fn wait_for_raw(&self, timeout: Duration) {
        let mut state = self.state.lock();
        let deadline = Instant::now() + timeout;
        while !matches!(*state, State::Raw(_) | State::Closed) {
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                return;
            }
        }
    }

    /// Whether the editor reads or is about to, and how often it has begun.
    pub(super) fn editing(&self) -> (bool, u64) {
        let state = self.state.lock();
        let reads = matches!(*state, State::Beginning(_) | State::Raw(_));
        (reads, self.begin_count.load(Ordering::Relaxed))
    }

    /// The editor has restored the terminal.
    pub(super) fn done(&self) {
        let mut state = self.state.lock();
        if !matches!(*state, State::Closed) {
            *state = State::Untouched;
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Closes the screen and restores the terminal.
    pub(super) fn restore(&self) {
        let mut state = self.state.lock();
        let deadline = Instant::now() + BEGIN_TIMEOUT;
        // An editor that has begun would change the terminal after it is restored.
        while matches!(*state, State::Beginning(_)) {
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        let before = mem::replace(&mut *state, State::Closed);
        drop(state);
        if let State::Raw(before) | State::Beginning(before) = before {
            // The program ends, so an error is not reported.
            let _ = restore(&before);
        }
    }
}

fn restore(original: &Termios) -> io::Result<()> {
    // In the background, changing the terminal would stop the process before it exits.
    SigSet::from(Signal::SIGTTOU).thread_block()?;
    tcsetattr(io::stdin(), OptionalActions::Now, original)?;
    // Clears the line. A stopped terminal would block the write, so the write waits until it is
    // possible. It is not while the editor's thread writes a prompt that it has begun.
    let stdout = io::stdout();
    let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::POLLOUT)];
    if poll(&mut fds, WRITE_TIMEOUT)? == 1 {
        nix::unistd::write(&stdout, b"\r\x1b[K")?;
    }
    Ok(())
}
