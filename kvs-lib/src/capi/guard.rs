//! What every C function passes through.

use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU8, Ordering};

use crate::codes::KVS_ERROR_INVALID;
use crate::error::Error;
use crate::sys;

/// What a caller gets when the library has a bug: "any other error".
const PANICKED: c_int = KVS_ERROR_INVALID;

/// Whether `KVS_DEBUG` is set.
static DEBUG: AtomicU8 = AtomicU8::new(UNREAD);
const UNREAD: u8 = 0;
const OFF: u8 = 1;
const ON: u8 = 2;

/// Runs `call` so that no panic leaves it and `pthread_cancel` waits until it is over, and turns its
/// result into a code.
pub(super) fn guarded(name: &str, call: impl FnOnce() -> Result<c_int, Error>) -> c_int {
    guarded_call(false, name, call)
}

/// The same; when the program only asks whether it is connected, the answer is not logged as a failure.
pub(super) fn guarded_call(
    asks: bool,
    name: &str,
    call: impl FnOnce() -> Result<c_int, Error>,
) -> c_int {
    let _no_cancel = sys::NoCancel::new();
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(code)) => code,
        Ok(Err(error)) => {
            if !asks {
                debug(name, error.code(), &error);
            }
            error.code()
        }
        Err(_) => {
            debug(name, PANICKED, &"a bug in the library (panic)");
            PANICKED
        }
    }
}

/// Reads `KVS_DEBUG`: at each `establish_connection`, and at the first failure if that is earlier.
pub(super) fn read_environment() {
    let wanted =
        std::env::var_os("KVS_DEBUG").is_some_and(|value| !value.is_empty() && value != "0");
    DEBUG.store(if wanted { ON } else { OFF }, Ordering::Relaxed);
}

fn debug(name: &str, code: c_int, error: &dyn std::fmt::Display) {
    if DEBUG.load(Ordering::Relaxed) == UNREAD {
        read_environment();
    }
    if DEBUG.load(Ordering::Relaxed) == ON {
        sys::write_stderr(&format!("kvs: {name}: {code}: {error}\n"));
    }
}
