//! The system calls that neither `std` nor `nix` wraps, each behind a safe function.

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::{io, ptr};

use kvs_proto::app::CHANGED_KEY_LEN;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use once_cell::sync::OnceCell;

use crate::callbacks::CFunction;

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
    // SAFETY: the descriptor is open for as long as it is borrowed, and this ioctl writes one int to the
    // place that it is given.
    unsafe { ioctl::siocoutq(socket.as_raw_fd(), &mut bytes) }?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

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

/// What the callback thread of a connection does; see [`spawn_callback_thread`].
pub(crate) trait CallbackThread: Send {
    /// Waits for the next C function to call, and writes the key that it is to be called with, followed by
    /// NUL, into `key`. `None` ends the thread.
    fn next_call(&self, key: &mut [u8; CHANGED_KEY_LEN]) -> Option<CFunction>;
    /// The last call, when `next_call` has returned `None`.
    fn ended(self: Box<Self>);
    /// The last call, when a C function has ended the thread (`pthread_exit`).
    fn ended_by_callback(self: Box<Self>);
}

/// Starts a detached thread with all signals blocked and cancellation disabled. It calls the C functions
/// that `thread` names.
pub(crate) fn spawn_callback_thread(thread: Box<dyn CallbackThread>) -> io::Result<()> {
    exit_key()?;
    // A thread inherits the signal mask of its creator.
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let result = spawn_detached(thread);
    before.thread_set_mask()?;
    result
}

fn spawn_detached(thread: Box<dyn CallbackThread>) -> io::Result<()> {
    // A second box, as a C thread takes one thin pointer.
    let argument = Box::into_raw(Box::new(thread));
    let mut attributes = MaybeUninit::uninit();
    let mut id = MaybeUninit::uninit();
    // SAFETY: the attributes are initialised before they are used and destroyed once; the new thread
    // becomes the owner of `argument`.
    let error = unsafe {
        let mut error = libc::pthread_attr_init(attributes.as_mut_ptr());
        if error == 0 {
            libc::pthread_attr_setdetachstate(
                attributes.as_mut_ptr(),
                libc::PTHREAD_CREATE_DETACHED,
            );
            // libc declares the start function as one that does not unwind; the C library takes any.
            let main = std::mem::transmute::<
                extern "C-unwind" fn(*mut c_void) -> *mut c_void,
                extern "C" fn(*mut c_void) -> *mut c_void,
            >(callback_thread_main);
            error =
                libc::pthread_create(id.as_mut_ptr(), attributes.as_ptr(), main, argument.cast());
            libc::pthread_attr_destroy(attributes.as_mut_ptr());
        }
        error
    };
    if error != 0 {
        // SAFETY: no thread was created, so it is still ours.
        drop(unsafe { Box::from_raw(argument) });
        return Err(io::Error::from_raw_os_error(error));
    }
    Ok(())
}

/// The callback thread. Nothing in this frame has a destructor: when the C function ends the thread, the
/// frame is unwound by force, and Rust allows that only where there is nothing to clean up.
extern "C-unwind" fn callback_thread_main(argument: *mut c_void) -> *mut c_void {
    NoCancel::forever();
    let mut key = [0; CHANGED_KEY_LEN];
    while let Some(function) = next_call(argument, &mut key) {
        mark_in_callback(argument);
        // SAFETY: the C program has registered this function for this purpose. The key is followed by NUL,
        // as texts are shorter than the buffer, and is valid until the function returns.
        unsafe { function(key.as_mut_ptr().cast()) };
        mark_in_callback(ptr::null_mut());
    }
    // SAFETY: `spawn_detached` made this box and gave it to this thread alone.
    let thread = unsafe { Box::from_raw(argument.cast::<Box<dyn CallbackThread>>()) };
    // A panic has been reported; the thread ends anyway.
    let _ = catch_unwind(AssertUnwindSafe(|| thread.ended()));
    ptr::null_mut()
}

fn next_call(argument: *mut c_void, key: &mut [u8; CHANGED_KEY_LEN]) -> Option<CFunction> {
    // SAFETY: the box lives until the thread ends, and is used by this thread alone.
    let thread = unsafe { &*argument.cast::<Box<dyn CallbackThread>>() };
    catch_unwind(AssertUnwindSafe(|| thread.next_call(key))).unwrap_or(None)
}

/// The key whose value is not NULL while a C function runs, so that its destructor tells when one ends
/// the thread.
fn exit_key() -> io::Result<libc::pthread_key_t> {
    static KEY: OnceCell<libc::pthread_key_t> = OnceCell::new();
    KEY.get_or_try_init(|| {
        let mut key = 0;
        // SAFETY: the key is written before the call returns; the destructor lives as long as the process
        // (the library cannot be unloaded).
        match unsafe { libc::pthread_key_create(&mut key, Some(callback_thread_exit)) } {
            0 => Ok(key),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    })
    .copied()
}

fn mark_in_callback(argument: *mut c_void) {
    if let Ok(key) = exit_key() {
        // SAFETY: the key exists. It fails only without memory for the thread's second block of keys; then
        // the end of the thread goes unnoticed, and nothing worse.
        unsafe { libc::pthread_setspecific(key, argument) };
    }
}

unsafe extern "C" fn callback_thread_exit(argument: *mut c_void) {
    // SAFETY: the value of the key is the thread's argument while a C function runs, and the thread, which
    // was its owner, has been unwound.
    let thread = unsafe { Box::from_raw(argument.cast::<Box<dyn CallbackThread>>()) };
    // A panic has been reported; the thread ends anyway.
    let _ = catch_unwind(AssertUnwindSafe(|| thread.ended_by_callback()));
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
        // SAFETY: both pointers are to live values; the information about the signal is not asked for.
        unsafe { libc::sigtimedwait(sigpipe.as_ref(), std::ptr::null_mut(), &now) };
    }
    // It fails for invalid arguments only.
    let _ = before.thread_set_mask();
}
