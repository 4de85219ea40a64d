//! The guard around every C function that can fail: it turns the result into a code, stops panics,
//! defers thread cancellation, and prints the line of `KVS_DEBUG`.

use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU8, Ordering};

use crate::codes::KVS_ERROR_INVALID;
use crate::error::Error;
use crate::sys;

/// The code for a panic, which is a bug of the library.
const PANICKED: c_int = KVS_ERROR_INVALID;

/// Whether `KVS_DEBUG` is set; read from the environment before the first use.
static DEBUG: AtomicU8 = AtomicU8::new(UNREAD);
const UNREAD: u8 = 0;
const OFF: u8 = 1;
const ON: u8 = 2;

/// Runs `call` and returns its code. A panic becomes [`PANICKED`]; `pthread_cancel` takes effect
/// after the call.
pub(super) fn guarded(name: &str, call: impl FnOnce() -> Result<c_int, Error>) -> c_int {
    guarded_call(false, name, call)
}

/// As [`guarded`]. `is_probe`: the program only asks whether it is connected, so the error is not
/// printed.
pub(super) fn guarded_call(
    is_probe: bool,
    name: &str,
    call: impl FnOnce() -> Result<c_int, Error>,
) -> c_int {
    let _no_cancel = sys::NoCancel::new();
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(code)) => code,
        Ok(Err(error)) => {
            if !is_probe {
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

/// Reads `KVS_DEBUG`. `establish_connection` and `kvs_open` call this, and so does the first
/// failing call if it precedes them.
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
