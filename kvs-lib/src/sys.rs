//! The system calls that neither `std` nor `nix` wraps, each behind a safe function.

use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};

/// The descriptors and addresses of the two sockets of a connection.
#[cfg(feature = "course")]
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConnectionSockets {
    pub(crate) main: c_int,
    pub(crate) callback: c_int,
    /// The client's address and the server's: first of the main socket, then of the callback
    /// socket.
    pub(crate) addresses: [libc::sockaddr_un; 4],
}

/// The pointer that a C program registered with a function. The library only passes it back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UserPointer(
    #[cfg_attr(not(feature = "capi"), allow(dead_code))] pub(crate) *mut c_void,
);

// SAFETY: this library never dereferences the pointer, and passes it only to the function that it
// was registered with, which according to the header is called on another thread.
unsafe impl Send for UserPointer {}
// SAFETY: a shared reference gives access to the pointer only, as above.
unsafe impl Sync for UserPointer {}

mod ioctl {
    #![allow(missing_docs)]
    nix::ioctl_read_bad!(
        /// `SIOCOUTQ`: the bytes that were sent on a socket and that the peer has not read yet.
        siocoutq,
        libc::TIOCOUTQ,
        super::c_int
    );
}

/// The number of sent bytes, as the kernel accounts for them, that the peer of a UNIX stream socket
/// has not read yet. It is 0 exactly if the peer has read everything.
pub(crate) fn unread_by_peer(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: c_int = 0;
    // SAFETY: the descriptor is open while it is borrowed, so during the call. This ioctl writes
    // one int to the address that it is given, which is valid until the call returns; on a
    // descriptor that is not a socket it fails or reports the same of a terminal, and writes no
    // more either.
    unsafe { ioctl::siocoutq(socket.as_raw_fd(), &mut bytes) }?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// The effective user id of the process.
pub(crate) fn effective_user() -> u32 {
    // SAFETY: the call has no arguments and cannot fail.
    unsafe { libc::geteuid() }
}

/// An unpredictable number.
pub(crate) fn random() -> io::Result<u64> {
    let mut bytes = [0; size_of::<u64>()];
    // SAFETY: the kernel writes at most the given number of bytes, which is the length of the
    // array, and the array outlives the call. Any bytes make a `u64`.
    let count =
        unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), libc::GRND_NONBLOCK) };
    match usize::try_from(count) {
        Ok(count) if count == bytes.len() => Ok(u64::from_ne_bytes(bytes)),
        // The kernel does not shorten so small a request.
        Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

// SAFETY: this matches the declaration in POSIX: an int, and NULL or a pointer to an int, which
// `Option<&mut _>` is. The function keeps neither, and is safe with any state: an unknown one is an
// error.
unsafe extern "C" {
    // POSIX; missing in the `libc` crate for Linux.
    safe fn pthread_setcancelstate(state: c_int, oldstate: Option<&mut c_int>) -> c_int;
}
const PTHREAD_CANCEL_DISABLE: c_int = 1;

/// Delays the cancellation of the calling thread (`pthread_cancel`) while it lives. A cancellation
/// would otherwise unwind a Rust frame in the middle of a system call.
#[derive(Debug)]
pub(crate) struct NoCancel {
    before: c_int,
}

impl NoCancel {
    pub(crate) fn new() -> Self {
        let mut before = PTHREAD_CANCEL_DISABLE;
        // Fails for an unknown state only.
        pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, Some(&mut before));
        Self { before }
    }

    /// Disables cancellation for the rest of the thread's life. For threads of the library.
    pub(crate) fn forever() {
        std::mem::forget(Self::new());
    }
}

impl Drop for NoCancel {
    fn drop(&mut self) {
        pthread_setcancelstate(self.before, None);
    }
}

/// Writes to standard error without raising SIGPIPE, whatever the program's disposition of it is.
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
        // This write made the signal pending for this thread: consume it before it is unblocked.
        let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the set and the time are valid during the call, which only reads them. The
        // pointer for information about the signal may be NULL.
        unsafe { libc::sigtimedwait(sigpipe.as_ref(), std::ptr::null_mut(), &now) };
    }
    // Fails for invalid arguments only.
    let _ = before.thread_set_mask();
}
