//! The error codes of the C functions; [`Error::code`](crate::Error::code) maps errors to them.
//!
//! The numbers down to -16 are those of the original system. A number never changes its meaning.
//! The doc comments become those of `kvs.h`.

// These are constants of the C header, not of the Rust API.
#![allow(unreachable_pub)]

use std::ffi::c_int;

/// Closing a socket failed; it is closed nevertheless.
pub const KVS_ERROR_CLOSE: c_int = -1;
/// There is no connection, or a socket could not be created.
pub const KVS_ERROR_NOT_CONNECTED: c_int = -2;
/// Sending a request failed; the connection is closed.
pub const KVS_ERROR_SEND_REQUEST: c_int = -3;
/// get_value and kvs_get: receiving the response failed or timed out. Protocol v1: the server did
/// not send the ready flag, which says whether it accepts a request. The connection is closed.
pub const KVS_ERROR_RECEIVE_READY: c_int = -4;
/// Protocol v1 and the six functions: the server refused the request, usually because the user has
/// reached a limit; the connection is closed.
pub const KVS_ERROR_NOT_READY: c_int = -5;
/// Sending a key, a value, a group name or a secret failed; the connection is closed.
pub const KVS_ERROR_SEND_STRING: c_int = -6;
/// There is no such key, group or watch, depending on the function.
pub const KVS_ERROR_NOT_FOUND: c_int = -7;
/// Receiving the response to a login or a request other than get failed or timed out; the
/// connection is closed.
pub const KVS_ERROR_RECEIVE_ANSWER: c_int = -8;
/// The group has another secret.
pub const KVS_ERROR_WRONG_SECRET: c_int = -9;
/// Receiving a value failed; the connection is closed.
pub const KVS_ERROR_RECEIVE_VALUE: c_int = -10;
/// bind(2) of a socket of the library failed.
pub const KVS_ERROR_BIND: c_int = -11;
/// connect(2) to the server failed, or the path of its socket is too long.
pub const KVS_ERROR_CONNECT: c_int = -12;
/// The server accepted the connection but did not send its first response, the greeting, within
/// the timeout.
pub const KVS_ERROR_NO_GREETING: c_int = -13;
/// The server refused the connection.
pub const KVS_ERROR_REFUSED: c_int = -14;
/// An argument is invalid, or an error occurred that has no code of its own.
pub const KVS_ERROR_INVALID: c_int = -15;
/// establish_connection: the process is connected already.
pub const KVS_ERROR_ALREADY_CONNECTED: c_int = -16;
/// The function needs protocol v2, and the connection uses protocol v1.
pub const KVS_ERROR_UNSUPPORTED: c_int = -17;
/// kvs_cas: the key has another version.
pub const KVS_ERROR_CONFLICT: c_int = -18;
/// kvs_ functions with protocol v2: the user has reached a limit of the server; nothing was
/// changed.
pub const KVS_ERROR_LIMIT: c_int = -19;
