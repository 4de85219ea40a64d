//! What every C function passes through.

use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::Error;
use crate::sys;

/// What a caller gets when the library has a bug: "any other error".
const PANICKED: c_int = -15;

static DEBUG: AtomicBool = AtomicBool::new(false);

/// Runs `call` so that no panic leaves it and `pthread_cancel` waits until it is over, and turns its
/// result into a code.
pub(super) fn guarded(name: &str, call: impl FnOnce() -> Result<c_int, Error>) -> c_int {
    let _no_cancel = sys::NoCancel::new();
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(code)) => code,
        Ok(Err(error)) => {
            debug(name, error.code(), &error);
            error.code()
        }
        Err(_) => {
            debug(name, PANICKED, &"a bug in the library (panic)");
            PANICKED
        }
    }
}

/// Reads `KVS_DEBUG`.
pub(super) fn read_environment() {
    let wanted =
        std::env::var_os("KVS_DEBUG").is_some_and(|value| !value.is_empty() && value != "0");
    DEBUG.store(wanted, Ordering::Relaxed);
}

fn debug(name: &str, code: c_int, error: &dyn std::fmt::Display) {
    if DEBUG.load(Ordering::Relaxed) {
        sys::write_stderr(&format!("kvs: {name}: {code}: {error}\n"));
    }
}
