//! Strings that C programs get.

use std::ffi::{CStr, c_char, c_int};
use std::ptr;

use crate::codes::*;
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
        KVS_ERROR_CLOSE => c"closing a socket failed",
        KVS_ERROR_NOT_CONNECTED => c"there is no connection, or no socket could be created",
        KVS_ERROR_SEND_REQUEST => c"sending the function code failed",
        KVS_ERROR_RECEIVE_READY => c"receiving the ready flag failed",
        KVS_ERROR_NOT_READY => c"the server is not ready, or the user is at its limit",
        KVS_ERROR_SEND_STRING => c"sending the key, group name, value or secret failed",
        KVS_ERROR_NOT_FOUND => c"the key or group name does not exist, or is not watched",
        KVS_ERROR_RECEIVE_ANSWER => c"receiving the answer to the key, group name or secret failed",
        KVS_ERROR_WRONG_SECRET => c"wrong secret",
        KVS_ERROR_RECEIVE_VALUE => c"receiving the value failed",
        KVS_ERROR_BIND => c"binding the client's socket failed",
        KVS_ERROR_CONNECT => c"connecting to the local server failed",
        KVS_ERROR_NO_GREETING => c"receiving the answer to the established connection failed",
        KVS_ERROR_REFUSED => c"the local server refused the connection",
        KVS_ERROR_INVALID => c"invalid argument, or an error of another kind",
        KVS_ERROR_ALREADY_CONNECTED => c"already connected",
        KVS_ERROR_UNSUPPORTED => {
            c"this session is an original one, because of the server, of KVS_PROTOCOL or of a group name over 95 bytes"
        }
        KVS_ERROR_CONFLICT => c"the key has another version",
        KVS_ERROR_LIMIT => c"the user is at its limit of pairs or bytes",
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
