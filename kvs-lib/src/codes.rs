//! The codes of the C functions, by name. [`Error::code`](crate::Error::code) gives them, and the header has them.
//!
//! A number is never given another meaning: those to -16 are of the original system.

// Constants of the header, not Rust items.
#![allow(unreachable_pub)]

use std::ffi::c_int;

/// Closing a socket failed.
pub const KVS_ERROR_CLOSE: c_int = -1;
/// Not connected, or no socket could be created.
pub const KVS_ERROR_NOT_CONNECTED: c_int = -2;
/// Sending the function code failed.
pub const KVS_ERROR_SEND_REQUEST: c_int = -3;
/// Receiving the ready flag failed.
pub const KVS_ERROR_RECEIVE_READY: c_int = -4;
/// The server is not ready, or (six functions) the user is at its limit.
pub const KVS_ERROR_NOT_READY: c_int = -5;
/// Sending a key, group name, value or secret failed.
pub const KVS_ERROR_SEND_STRING: c_int = -6;
/// No such key, group or watch.
pub const KVS_ERROR_NOT_FOUND: c_int = -7;
/// Receiving the answer to a key, group name or secret failed.
pub const KVS_ERROR_RECEIVE_ANSWER: c_int = -8;
/// Wrong secret.
pub const KVS_ERROR_WRONG_SECRET: c_int = -9;
/// Receiving the value failed.
pub const KVS_ERROR_RECEIVE_VALUE: c_int = -10;
/// bind(2) failed.
pub const KVS_ERROR_BIND: c_int = -11;
/// connect(2) failed, or the path is too long.
pub const KVS_ERROR_CONNECT: c_int = -12;
/// Receiving the server's greeting failed.
pub const KVS_ERROR_NO_GREETING: c_int = -13;
/// The server refused the connection.
pub const KVS_ERROR_REFUSED: c_int = -14;
/// Invalid argument, or any other error.
pub const KVS_ERROR_INVALID: c_int = -15;
/// Already connected (six functions).
pub const KVS_ERROR_ALREADY_CONNECTED: c_int = -16;
/// An original session cannot do that.
pub const KVS_ERROR_UNSUPPORTED: c_int = -17;
/// kvs_cas: the key has another version.
pub const KVS_ERROR_CONFLICT: c_int = -18;
/// The user is at its limit (kvs_ functions).
pub const KVS_ERROR_LIMIT: c_int = -19;
