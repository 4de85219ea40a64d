//! The strings that the C functions return.

use std::ffi::{CStr, c_char, c_int};
use std::ptr;

use crate::codes::*;
use crate::error::Error;

pub(super) const VERSION: &CStr =
    match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(version) => version,
        Err(_) => panic!("a version has no NUL"),
    };

/// The text of a code, for `kvs_strerror`.
pub(super) fn describe(code: c_int) -> &'static CStr {
    match code {
        0 | 1 => c"no error",
        KVS_ERROR_CLOSE => c"closing a socket failed",
        KVS_ERROR_NOT_CONNECTED => c"not connected, or a socket could not be created",
        KVS_ERROR_SEND_REQUEST => c"sending a request failed",
        KVS_ERROR_RECEIVE_READY => c"receiving the ready flag failed",
        KVS_ERROR_NOT_READY => c"the server is not ready, or the user has reached a limit",
        KVS_ERROR_SEND_STRING => c"sending a key, group name, value or secret failed",
        KVS_ERROR_NOT_FOUND => c"no such key, group or watch",
        KVS_ERROR_RECEIVE_ANSWER => c"receiving a response failed",
        KVS_ERROR_WRONG_SECRET => c"wrong secret",
        KVS_ERROR_RECEIVE_VALUE => c"receiving a value failed",
        KVS_ERROR_BIND => c"binding a socket of the library failed",
        KVS_ERROR_CONNECT => c"connecting to the local server failed",
        KVS_ERROR_NO_GREETING => c"the server did not send its greeting",
        KVS_ERROR_REFUSED => c"the local server refused the connection",
        KVS_ERROR_INVALID => c"invalid argument, or an error without a code of its own",
        KVS_ERROR_ALREADY_CONNECTED => c"already connected",
        KVS_ERROR_UNSUPPORTED => c"not supported by protocol v1, which this connection uses",
        KVS_ERROR_CONFLICT => c"the key has another version",
        KVS_ERROR_LIMIT => c"the user has reached a limit of pairs or bytes",
        _ => c"unknown error code",
    }
}

/// Copies `bytes` and a NUL into a block from `malloc`, which the C program releases with `free`.
pub(super) fn malloc_copy(bytes: &[u8]) -> Result<*mut c_char, Error> {
    // SAFETY: `malloc` accepts any size. The sum does not overflow: a slice has at most
    // `isize::MAX` bytes.
    let copy = unsafe { libc::malloc(bytes.len() + 1) }.cast::<u8>();
    if copy.is_null() {
        return Err(Error::System(std::io::ErrorKind::OutOfMemory.into()));
    }
    // SAFETY: `malloc` returned a block of `len + 1` bytes, enough for `bytes` and for the NUL at
    // `len`. The source is a live slice, which a new block cannot overlap.
    unsafe {
        ptr::copy_nonoverlapping(bytes.as_ptr(), copy, bytes.len());
        copy.add(bytes.len()).write(0);
    }
    Ok(copy.cast())
}
