//! Job control: signals that keys send, foreground and background.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::process::getpgrp;
use rustix::termios::tcgetpgrp;
use signal_hook::consts::SIGCONT;

/// How long the process may take to stop, in milliseconds.
const SUSPEND_TIMEOUT: u16 = 1000;

/// Whether this process may read the terminal. A terminal that does not control it has no
/// background.
pub(crate) fn in_foreground() -> bool {
    tcgetpgrp(io::stdin()).map_or(true, |foreground| foreground == getpgrp())
}

/// Sends the signal that a key sends in cooked mode: to all processes in the foreground, which
/// includes this one. On a terminal that controls no process, to this process alone.
pub(super) fn signal_foreground(signal: Signal) {
    let all = Pid::from_raw(0);
    let target = if tcgetpgrp(io::stdin()).is_ok() { all } else { Pid::this() };
    if let Err(error) = kill(target, signal) {
        tracing::warn!("cannot send {signal}: {error}");
    }
}

/// Stops the process and returns when it is continued. Another thread may receive the signal a
/// moment later, and until then this thread must not use the terminal. Where no shell could
/// continue the process, the signal does not stop it, and the wait ends with the timeout.
pub(super) fn suspend() -> io::Result<()> {
    let (continued, signalled) = UnixStream::pair()?;
    let registered = signal_hook::low_level::pipe::register(SIGCONT, signalled)?;
    signal_foreground(Signal::SIGTSTP);
    let mut fds = [PollFd::new(continued.as_fd(), PollFlags::POLLIN)];
    let waited = poll(&mut fds, SUSPEND_TIMEOUT);
    signal_hook::low_level::unregister(registered);
    match waited {
        // A stop interrupts the wait, too.
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
