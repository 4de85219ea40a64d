//! Strings that C programs get.

use std::ffi::{CStr, c_char, c_int};
use std::ptr;

use crate::error::Error;

pub(super) const VERSION: &CStr =
    match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(version) => version,
        Err(_) => panic!("a version has no NUL"),
    };

/// What `kvs_strerror` says. The numbers and their meanings are those of the original system.
pub(super) fn describe(code: c_int) -> &'static CStr {
    match code {
        0 | 1 => c"no error",
        -1 => c"closing a socket failed",
        -2 => c"there is no connection, or no socket could be created",
        -3 => c"sending the function code failed",
        -4 => c"receiving the ready flag failed",
        -5 => c"the server is not ready",
        -6 => c"sending the key, group name, value or secret failed",
        -7 => c"the key or group name does not exist",
        -8 => c"receiving the answer to the key, group name or secret failed",
        -9 => c"wrong secret",
        -10 => c"receiving the value failed",
        -11 => c"binding the client's socket failed",
        -12 => c"connecting to the local server failed",
        -13 => c"receiving the answer to the established connection failed",
        -14 => c"the local server refused the connection",
        -15 => c"invalid argument, or an error of another kind",
        -16 => c"already connected",
        -17 => c"the local server does not speak a protocol that can do this",
        -18 => c"the key has another version",
        -19 => c"the user is at its limit of pairs or bytes",
        _ => c"unknown error code",
    }
}

/// A copy of `bytes`, followed by NUL, that the caller releases with `free`.
pub(super) fn malloc_copy(bytes: &[u8]) -> Result<*mut c_char, Error> {
    // SAFETY: `malloc` may be called with any size; this one cannot wrap, as values are far shorter than memory is.
    let copy = unsafe { libc::malloc(bytes.len() + 1) }.cast::<u8>();
    if copy.is_null() {
        return Err(Error::System(std::io::ErrorKind::OutOfMemory.into()));
    }
    // SAFETY: the block is not NULL and has `len + 1` bytes: room for all of `bytes`, which `copy_nonoverlapping`
    // reads from a live slice and which a new block cannot overlap, and at `len` for the NUL.
    unsafe {
        ptr::copy_nonoverlapping(bytes.as_ptr(), copy, bytes.len());
        copy.add(bytes.len()).write(0);
    }
    Ok(copy.cast())
}
