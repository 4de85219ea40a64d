//! The codes of the C functions, by name. [`Error::code`](crate::Error::code) gives them, and the header has them.
//!
//! A number is never given another meaning: those to -16 are of the original system.

// Constants of the header, not Rust items.
#![allow(unreachable_pub)]

use std::ffi::c_int;

/// What functions return when they fail; the table above says what each of them means.
pub const KVS_ERROR_CLOSE: c_int = -1;
pub const KVS_ERROR_NOT_CONNECTED: c_int = -2;
pub const KVS_ERROR_SEND_REQUEST: c_int = -3;
pub const KVS_ERROR_RECEIVE_READY: c_int = -4;
pub const KVS_ERROR_NOT_READY: c_int = -5;
pub const KVS_ERROR_SEND_STRING: c_int = -6;
pub const KVS_ERROR_NOT_FOUND: c_int = -7;
pub const KVS_ERROR_RECEIVE_ANSWER: c_int = -8;
pub const KVS_ERROR_WRONG_SECRET: c_int = -9;
pub const KVS_ERROR_RECEIVE_VALUE: c_int = -10;
pub const KVS_ERROR_BIND: c_int = -11;
pub const KVS_ERROR_CONNECT: c_int = -12;
pub const KVS_ERROR_NO_GREETING: c_int = -13;
pub const KVS_ERROR_REFUSED: c_int = -14;
pub const KVS_ERROR_INVALID: c_int = -15;
pub const KVS_ERROR_ALREADY_CONNECTED: c_int = -16;
pub const KVS_ERROR_UNSUPPORTED: c_int = -17;
pub const KVS_ERROR_CONFLICT: c_int = -18;
pub const KVS_ERROR_LIMIT: c_int = -19;
