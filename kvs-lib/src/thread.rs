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

use kvs_proto::app::CHANGED_KEY_LEN;
use nix::sys::signal::{SigSet, SigmaskHow};
use once_cell::race::OnceNonZeroUsize;

use crate::callbacks::{self, CFunction};
use crate::connection::Shared;
use crate::sys::NoCancel;

/// Starts the thread of a connection: detached, with all signals blocked and cancellation disabled.
pub(crate) fn spawn(connection: Arc<Shared>) -> io::Result<()> {
    exit_key()?;
    // A thread inherits the signal mask of its creator.
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let result = spawn_detached(connection);
    before.thread_set_mask()?;
    result
}

fn spawn_detached(connection: Arc<Shared>) -> io::Result<()> {
    let argument = Arc::into_raw(connection);
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
        // SAFETY: no thread was created, so it is still ours.
        drop(unsafe { Arc::from_raw(argument) });
        return Err(io::Error::from_raw_os_error(error));
    }
    Ok(())
}

/// The thread. See the head of this module for what must not be in this frame.
extern "C-unwind" fn main(argument: *mut c_void) -> *mut c_void {
    NoCancel::forever();
    let mut key = [0; CHANGED_KEY_LEN];
    while let Some(function) = next_call(argument, &mut key) {
        mark_in_callback(argument);
        // SAFETY: the C program has registered this function for this purpose. The key is followed by NUL,
        // as texts are shorter than the buffer, and is valid until the function returns.
        unsafe { function(key.as_mut_ptr().cast()) };
        mark_in_callback(ptr::null_mut());
    }
    end(argument, callbacks::thread_ended);
    ptr::null_mut()
}

/// The next C function to call.
fn next_call(argument: *mut c_void, key: &mut [u8; CHANGED_KEY_LEN]) -> Option<CFunction> {
    let connection = argument.cast_const().cast::<Shared>();
    // SAFETY: the thread owns one reference, from `spawn_detached`, until `end`.
    let connection = unsafe { &*connection };
    catch_unwind(AssertUnwindSafe(|| callbacks::listen(connection, key))).unwrap_or(None)
}

/// The last act of the thread: hands its reference over.
fn end(argument: *mut c_void, last_act: fn(Arc<Shared>)) {
    // SAFETY: it came from `Arc::into_raw` in `spawn_detached`, and this is the only place that takes it
    // back: once, when the thread returns or when a C function has ended it.
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
        // SAFETY: the key is written before the call returns; the destructor lives as long as the process
        // (the library cannot be unloaded).
        match unsafe { libc::pthread_key_create(&mut key, Some(ended_by_callback)) } {
            0 => Ok(NonZeroUsize::MIN.saturating_add(key as usize)),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    })?;
    Ok((one_more.get() - 1) as libc::pthread_key_t)
}

fn mark_in_callback(argument: *mut c_void) {
    if let Ok(key) = exit_key() {
        // SAFETY: the key exists. It fails only without memory for the thread's second block of keys; then
        // the end of the thread goes unnoticed, and nothing worse.
        unsafe { libc::pthread_setspecific(key, argument) };
    }
}

unsafe extern "C" fn ended_by_callback(argument: *mut c_void) {
    end(argument, callbacks::thread_ended_by_callback);
}
