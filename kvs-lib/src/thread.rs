//! The callback thread itself.
//!
//! It is a plain POSIX thread rather than one of `std`, because it calls functions of C programs, and those
//! may end it (`pthread_exit`). That unwinds its stack by force, which Rust allows only for frames
//! that have nothing to clean up: so nothing with a destructor lives in [`main`], and no Rust frame
//! but that one lies under the C function. A thread-specific value tells when a C function has ended the thread.
//!
//! What it listens to and calls is [`crate::callbacks`]' business.

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::{io, ptr};

use nix::sys::signal::{SigSet, SigmaskHow};
use once_cell::race::OnceNonZeroUsize;

use crate::callbacks::{self, CCall};
use crate::shared::Shared;
use crate::sys::{NoCancel, User};

/// Starts the thread of a connection: detached, with all signals blocked and cancellation disabled.
pub(crate) fn spawn(connection: Arc<Shared>) -> io::Result<()> {
    exit_key()?;
    // A thread inherits the signal mask of its creator.
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let result = spawn_detached(connection);
    // It fails for invalid arguments only, and could not change whether there is a thread now.
    let _ = before.thread_set_mask();
    result
}

fn spawn_detached(connection: Arc<Shared>) -> io::Result<()> {
    let argument = Arc::into_raw(connection);
    let mut attributes = MaybeUninit::uninit();
    let mut id = MaybeUninit::uninit();
    // SAFETY: the attributes are used only when `pthread_attr_init` has succeeded, and then destroyed once, after
    // their last use; setting the detach state to one of its two values cannot fail. `id` may be written
    // until `pthread_create` returns, and is not read. The start function is a static one of the same ABI
    // but for unwinding, which the transmutation hides from the declaration only: it is called by the C
    // library, whose frames may be unwound by force. When the thread is created, it becomes the owner of
    // the reference that is `argument`; see `end`.
    let error = unsafe {
        let mut error = libc::pthread_attr_init(attributes.as_mut_ptr());
        if error == 0 {
            libc::pthread_attr_setdetachstate(
                attributes.as_mut_ptr(),
                libc::PTHREAD_CREATE_DETACHED,
            );
            // The `libc` crate declares the start function as one that does not unwind; the C library
            // takes any.
            let main = std::mem::transmute::<
                extern "C-unwind" fn(*mut c_void) -> *mut c_void,
                extern "C" fn(*mut c_void) -> *mut c_void,
            >(main);
            error = libc::pthread_create(
                id.as_mut_ptr(),
                attributes.as_ptr(),
                main,
                argument.cast_mut().cast(),
            );
            libc::pthread_attr_destroy(attributes.as_mut_ptr());
        }
        error
    };
    if error != 0 {
        // SAFETY: it comes from `Arc::into_raw` above, and no thread was created that could own it, so the
        // reference is still ours; it is not used again.
        drop(unsafe { Arc::from_raw(argument) });
        return Err(io::Error::from_raw_os_error(error));
    }
    Ok(())
}

/// The thread. See the head of this module for what must not be in this frame.
extern "C-unwind" fn main(argument: *mut c_void) -> *mut c_void {
    while let Some(call) = next_call(argument) {
        mark_in_callback(argument);
        // SAFETY: the C program has registered this function to be called in this way, from another thread,
        // until the connection is closed. A key is followed by NUL, may be written to, and stays where it is
        // until `next_call` is called again, by this thread or by the one that takes over when the function has
        // ended this one. The pointer of the program's own is handed back as it came. When the function unwinds this
        // frame, by `pthread_exit`, there is nothing with a destructor in it, and no other Rust frame beneath the
        // function.
        unsafe {
            match call {
                CCall::Function(function, key) => function(key),
                CCall::Watcher { function, key, len, version, user: User(user) } => {
                    function(key, len, version, user);
                }
                CCall::Farewell(function, User(user), reason) => function(user, reason.code()),
            }
        }
        mark_in_callback(ptr::null_mut());
    }
    end(argument, callbacks::thread_ended);
    ptr::null_mut()
}

/// The next C function to call.
fn next_call(argument: *mut c_void) -> Option<CCall> {
    // Each time, as the function before may have changed both for its thread. The first time, all signals
    // are blocked already, as they were for the creator.
    NoCancel::forever();
    // It fails for invalid arguments only.
    let _ = SigSet::all().thread_set_mask();
    let connection = argument.cast_const().cast::<Shared>();
    // SAFETY: it comes from `Arc::into_raw` in `spawn_detached`; the thread owns that one reference until it calls
    // `end`, after the last call of this function, and the value is only ever shared.
    let connection = unsafe { &*connection };
    catch_unwind(AssertUnwindSafe(|| callbacks::listen(connection))).unwrap_or(None)
}

/// The last act of the thread: hands its reference over.
fn end(argument: *mut c_void, last_act: fn(Arc<Shared>)) {
    // SAFETY: it comes from `Arc::into_raw` in `spawn_detached`, and this is the only place that takes it back, once
    // for each thread: from `main` when no C function is to be called any more, or from the destructor when
    // a C function has ended the thread. Never both: the destructor is called only while `mark_in_callback`
    // has set a value, which is taken away before `main` goes on.
    let connection = unsafe { Arc::from_raw(argument.cast_const().cast::<Shared>()) };
    // A panic has been reported; the thread ends anyway.
    let _ = catch_unwind(AssertUnwindSafe(|| last_act(connection)));
}

/// The key whose value is not NULL while a C function runs, so that its destructor tells when one ends
/// the thread.
fn exit_key() -> io::Result<libc::pthread_key_t> {
    // One more than the key, as that may be 0. Not a cell that blocks, because of `fork`; two threads may
    // both make a key, and that of the slower one is never used.
    static KEY: OnceNonZeroUsize = OnceNonZeroUsize::new();
    let one_more = KEY.get_or_try_init(|| {
        let mut key: libc::pthread_key_t = 0;
        // SAFETY: the key is written, if at all, before the call returns; the destructor is of the right type,
        // lives as long as the process (the library is linked with `nodelete`), and never unwinds (see `end`).
        match unsafe { libc::pthread_key_create(&mut key, Some(ended_by_callback)) } {
            0 => Ok(NonZeroUsize::MIN.saturating_add(key as usize)),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    })?;
    Ok((one_more.get() - 1) as libc::pthread_key_t)
}

fn mark_in_callback(argument: *mut c_void) {
    if let Ok(key) = exit_key() {
        // SAFETY: the key exists, and is never deleted; the value is NULL or the thread's `argument`, which is what
        // the destructor expects. It fails only without memory for the thread's second block of keys; then
        // the end of the thread goes unnoticed, and nothing worse.
        unsafe { libc::pthread_setspecific(key, argument) };
    }
}

unsafe extern "C" fn ended_by_callback(argument: *mut c_void) {
    end(argument, callbacks::thread_ended_by_callback);
}
