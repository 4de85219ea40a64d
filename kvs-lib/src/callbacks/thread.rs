//! The callback thread itself.
//!
//! It is a plain POSIX thread rather than one of `std`, because it calls functions of C programs,
//! and those may end it (`pthread_exit`). That is a forced unwind, which Rust allows only for
//! frames without destructors. So no value with a destructor lives in [`thread_main`], and no other
//! Rust frame lies under the C function. A thread-specific value shows when a C function has ended
//! the thread.
//!
//! The session says which function is called next, as a [`CallbackSource`]. This module declares
//! the trait, and the event loop implements it: so this module does not depend on the event loop,
//! which starts threads.

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::{io, ptr};

use nix::sys::signal::{SigSet, SigmaskHow};
use once_cell::race::OnceNonZeroUsize;

use super::callback::CCall;
use crate::session::ClientSession;
use crate::sys::{NoCancel, UserPointer};

/// Supplies the callback thread with the C functions to call.
pub(crate) trait CallbackSource {
    /// Waits for the next C function to call; `None` ends the thread.
    fn next_call(&self) -> Option<CCall>;

    /// The thread ends because there is no next call.
    fn thread_ended(self: Arc<Self>);

    /// A C function ended the thread.
    fn thread_ended_by_callback(self: Arc<Self>);
}

/// Starts a callback thread: detached, with all signals blocked and cancellation disabled.
pub(crate) fn spawn(session: Arc<ClientSession>) -> io::Result<()> {
    exit_key()?;
    // A thread inherits the signal mask of its creator.
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let result = spawn_detached(session);
    // Fails for invalid arguments only.
    let _ = before.thread_set_mask();
    result
}

fn spawn_detached(session: Arc<ClientSession>) -> io::Result<()> {
    let argument = Arc::into_raw(session);
    let mut attributes = MaybeUninit::uninit();
    let mut id = MaybeUninit::uninit();
    // SAFETY: the attributes are used only if `pthread_attr_init` succeeded, and are then destroyed
    // once, after their last use; setting the detach state to one of its two values cannot fail.
    // `id` may be written until `pthread_create` returns, and is not read. The start function is a
    // static one of the same ABI but for unwinding, which the transmutation hides from the
    // declaration only: the C library calls it, and its frames may be unwound by force. A created
    // thread owns the reference `argument`; see `end`.
    let error = unsafe {
        let mut error = libc::pthread_attr_init(attributes.as_mut_ptr());
        if error == 0 {
            libc::pthread_attr_setdetachstate(
                attributes.as_mut_ptr(),
                libc::PTHREAD_CREATE_DETACHED,
            );
            // The `libc` crate declares a start function that does not unwind; the C library takes
            // any.
            let main = std::mem::transmute::<
                extern "C-unwind" fn(*mut c_void) -> *mut c_void,
                extern "C" fn(*mut c_void) -> *mut c_void,
            >(thread_main);
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
        // SAFETY: the pointer comes from `Arc::into_raw` above, and no thread was created that
        // could own it; it is not used again.
        drop(unsafe { Arc::from_raw(argument) });
        return Err(io::Error::from_raw_os_error(error));
    }
    Ok(())
}

/// The start routine of the thread. The head of this module says what must not be in this frame.
extern "C-unwind" fn thread_main(argument: *mut c_void) -> *mut c_void {
    while let Some(call) = next_call(argument) {
        mark_in_callback(argument);
        // SAFETY: the C program registered this function to be called in this way, from another
        // thread, until the connection is closed. A key is followed by NUL, may be written to, and
        // stays in place until `next_call` is called again, by this thread or by the one that
        // replaces it. The program's own pointer is passed unchanged. If the function unwinds this
        // frame, by `pthread_exit`, the frame has no value with a destructor, and no other Rust
        // frame lies under the function.
        unsafe {
            match call {
                CCall::Key(function, key) => function(key),
                CCall::Watch { function, key, len, version, user: UserPointer(user) } => {
                    function(key, len, version, user);
                }
                CCall::Disconnect(function, UserPointer(user), reason) => {
                    function(user, reason.code());
                }
            }
        }
        mark_in_callback(ptr::null_mut());
    }
    end(argument, CallbackSource::thread_ended);
    ptr::null_mut()
}

/// The next C function to call.
fn next_call(argument: *mut c_void) -> Option<CCall> {
    // Set before every call, because the previous function may have changed both for the thread.
    NoCancel::forever();
    // Fails for invalid arguments only.
    let _ = SigSet::all().thread_set_mask();
    let session = argument.cast_const().cast::<ClientSession>();
    // SAFETY: the pointer comes from `Arc::into_raw` in `spawn_detached`. The thread owns that
    // reference until it calls `end`, after the last call of this function, and the value is only
    // ever shared.
    let session = unsafe { &*session };
    catch_unwind(AssertUnwindSafe(|| session.next_call())).unwrap_or(None)
}

/// Ends the thread: passes its reference to the session to `report`.
fn end(argument: *mut c_void, report: fn(Arc<ClientSession>)) {
    // SAFETY: the pointer comes from `Arc::into_raw` in `spawn_detached`, and only this function
    // takes it back, once per thread: from `thread_main` when there is no next call, or from the
    // destructor when a C function has ended the thread. Never from both: the destructor runs only
    // while `mark_in_callback` has set a value, which is cleared before `thread_main` goes on.
    let session = unsafe { Arc::from_raw(argument.cast_const().cast::<ClientSession>()) };
    // The panic hook reported a panic; the thread ends anyway.
    let _ = catch_unwind(AssertUnwindSafe(|| report(session)));
}

/// The key of the thread-specific value, which is not NULL while a C function runs: so the
/// destructor of the value runs if that function ends the thread.
fn exit_key() -> io::Result<libc::pthread_key_t> {
    // Holds the key plus 1, because a key may be 0. The cell does not block, because of `fork`: two
    // threads may both create a key, and that of the slower one is never used.
    static KEY: OnceNonZeroUsize = OnceNonZeroUsize::new();
    let one_more = KEY.get_or_try_init(|| {
        let mut key: libc::pthread_key_t = 0;
        // SAFETY: the key is written, if at all, before the call returns; the destructor has the
        // right type, lives as long as the process (the library is linked with `nodelete`), and
        // never unwinds (see `end`).
        match unsafe { libc::pthread_key_create(&mut key, Some(ended_by_callback)) } {
            0 => Ok(NonZeroUsize::MIN.saturating_add(key as usize)),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    })?;
    Ok((one_more.get() - 1) as libc::pthread_key_t)
}

fn mark_in_callback(argument: *mut c_void) {
    if let Ok(key) = exit_key() {
        // SAFETY: the key exists and is never deleted; the value is NULL or the thread's
        // `argument`, as the destructor expects. The call fails only without memory for the
        // thread's second block of keys; then the end of the thread goes unnoticed, and nothing
        // worse.
        unsafe { libc::pthread_setspecific(key, argument) };
    }
}

unsafe extern "C" fn ended_by_callback(argument: *mut c_void) {
    end(argument, CallbackSource::thread_ended_by_callback);
}
