//! The system calls that neither `std` nor `nix` wraps, each behind a safe function.

use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};

/// The two sockets of a connection, as `course/KVS-lib.c` declares them.
#[cfg(feature = "course")]
#[derive(Debug, Clone, Copy)]
#[repr(C)]
#[allow(unreachable_pub)]
pub struct Sockets {
    pub(crate) main: c_int,
    pub(crate) callback: c_int,
    /// Of the main socket, then of the other one: our end, the server's.
    pub(crate) addresses: [libc::sockaddr_un; 4],
}

/// What a C program has registered a function with. The library only hands it back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct User(#[cfg_attr(not(feature = "capi"), allow(dead_code))] pub(crate) *mut c_void);

// SAFETY: the pointer is never followed in this library, and handed only to the function that it came with, which by the
// words of the header is called on another thread.
unsafe impl Send for User {}
// SAFETY: likewise: a shared reference gives access to the pointer only.
unsafe impl Sync for User {}

mod ioctl {
    #![allow(missing_docs)]
    nix::ioctl_read_bad!(
        /// `SIOCOUTQ`: the bytes that were sent on a socket and that the peer has not read yet.
        siocoutq,
        libc::TIOCOUTQ,
        super::c_int
    );
}

/// How many bytes (as the kernel accounts for them) the peer of a UNIX stream socket has not yet read of
/// what was sent. 0 exactly when it has read everything.
pub(crate) fn unread_by_peer(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: c_int = 0;
    // SAFETY: the descriptor is open for as long as it is borrowed, so for the time of the call. This ioctl writes
    // one int to the place that it is given, which lives until the call has returned; on a descriptor that
    // is no socket it would fail or tell the same of a terminal, and write no more either.
    unsafe { ioctl::siocoutq(socket.as_raw_fd(), &mut bytes) }?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// The user as whom the process acts.
pub(crate) fn effective_user() -> u32 {
    // SAFETY: it takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// A number that nobody can guess.
pub(crate) fn random() -> io::Result<u64> {
    let mut bytes = [0; size_of::<u64>()];
    // SAFETY: the kernel writes at most as many bytes as it is told, which are those of the array, and the array
    // outlives the call. Any bytes make a `u64`.
    let count =
        unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), libc::GRND_NONBLOCK) };
    match usize::try_from(count) {
        Ok(count) if count == bytes.len() => Ok(u64::from_ne_bytes(bytes)),
        // So few bytes are never cut short.
        Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

// SAFETY: this is its declaration in POSIX: an int, and NULL or a place for an int, which `Option<&mut _>` is. It
// keeps neither, and is safe with any state: an unknown one is an error.
unsafe extern "C" {
    // POSIX; missing in the `libc` crate for Linux.
    safe fn pthread_setcancelstate(state: c_int, oldstate: Option<&mut c_int>) -> c_int;
}
const PTHREAD_CANCEL_DISABLE: c_int = 1;

/// While it lives, `pthread_cancel` of this thread waits: it would otherwise unwind a Rust frame in the
/// middle of a system call.
#[derive(Debug)]
pub(crate) struct NoCancel {
    before: c_int,
}

impl NoCancel {
    pub(crate) fn new() -> Self {
        let mut before = PTHREAD_CANCEL_DISABLE;
        // It fails for an unknown state only.
        pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, Some(&mut before));
        Self { before }
    }

    /// For a thread of the library's own: for good.
    pub(crate) fn forever() {
        std::mem::forget(Self::new());
    }
}

impl Drop for NoCancel {
    fn drop(&mut self) {
        pthread_setcancelstate(self.before, None);
    }
}

/// Writes to standard error without ever raising SIGPIPE, whatever the host has done about it.
#[cfg_attr(not(feature = "capi"), allow(dead_code))]
pub(crate) fn write_stderr(line: &str) {
    let sigpipe = SigSet::from(Signal::SIGPIPE);
    let mut before = SigSet::empty();
    if pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&sigpipe), Some(&mut before)).is_err() {
        return;
    }
    if nix::unistd::write(io::stderr(), line.as_bytes()) == Err(nix::errno::Errno::EPIPE)
        && !before.contains(Signal::SIGPIPE)
    {
        // The signal is pending for this thread because of this write: take it away before it is let
        // through.
        let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the set and the time are live values for as long as the call takes, which only reads them; for the
        // information about the signal NULL is allowed, and means that it is not wanted.
        unsafe { libc::sigtimedwait(sigpipe.as_ref(), std::ptr::null_mut(), &now) };
    }
    // It fails for invalid arguments only.
    let _ = before.thread_set_mask();
}
