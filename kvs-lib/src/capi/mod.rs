//! The C functions. Each checks its arguments, calls the core and turns the result into a code,
//! inside [`guarded`].
//!
//! The doc comments of this module and of `handles` become `include/kvs.h` and the manual pages;
//! their form is described in `build/header.rs`. The six functions of one connection per process
//! are here, the `kvs_` functions in `handles`.

// The doc comments say what callers guarantee, in the form of the C header.
#![allow(clippy::missing_safety_doc)]
// The functions are exported as C symbols, not as Rust items.
#![allow(unreachable_pub)]

#[cfg(feature = "course")]
mod course;
mod guard;
mod handles;
mod process;
mod strings;

use std::ffi::{CStr, c_char, c_int};
use std::ptr;

use kvs_proto::v2::request::WatchTarget;

use crate::builder::Builder;
use crate::callbacks::callback::WatchCallback;
use crate::connection::Connection;
use crate::error::{Error, Invalid};
use guard::{guarded, guarded_call};
use process::Process;

/// The longest group name and secret, in bytes without the terminating NUL; with protocol v1 also
/// the longest key and value.
pub const KVS_MAX_TEXT: usize = 99;

/// The longest key, in bytes.
pub const KVS_MAX_KEY: usize = 65536;

/// The longest value that any server accepts, in bytes. Each server has a limit of its own,
/// 16777216 unless its administrator changes it.
pub const KVS_MAX_VALUE: usize = 67108864;

const _: () = assert!(KVS_MAX_TEXT == kvs_proto::MAX_TEXT);
const _: () = assert!(KVS_MAX_KEY == kvs_proto::v2::MAX_KEY);
const _: () = assert!(KVS_MAX_VALUE == kvs_proto::v2::MAX_VALUE);

/// Join a group by connecting the process to the local server.
///
///   group_id  name of the group, 1 to KVS_MAX_TEXT bytes
///   secret    secret of the group, 1 to KVS_MAX_TEXT bytes
///
/// Returns 0 when the process is connected, or
///   KVS_ERROR_NOT_FOUND      there is no group with this name
///   KVS_ERROR_WRONG_SECRET   the group has another secret
///   KVS_ERROR_ALREADY_CONNECTED
///                            the process is connected already
///   KVS_ERROR_CONNECT        no server listens at the path, or the path is too long
///   KVS_ERROR_REFUSED        the server refused the connection
///   KVS_ERROR_RECEIVE_ANSWER
///                            the server did not answer the login within the timeout: the
///                            authentication server may be unreachable; or, at once: this user has
///                            just sent several wrong secrets. A right one is then refused, too,
///                            unless a login of this user to the group has succeeded before
///   KVS_ERROR_SEND_STRING    the group name or the secret could not be sent
///   KVS_ERROR_NO_GREETING    the server accepted the connection but did not send its first
///                            response within the timeout
///   KVS_ERROR_BIND           a socket of the library could not be bound
///   KVS_ERROR_NOT_CONNECTED  a socket could not be created
///   KVS_ERROR_INVALID        a string is NULL, empty or too long, KVS_TIMEOUT_MS or KVS_PROTOCOL
///                            has an invalid value, another thread was connecting until the
///                            timeout, or the system refused a thread or memory
///
/// The function reads the environment variables (see Environment at the top of kvs.h and in
/// kvs(3)). After an error nothing stays open, and a connection that existed before is not
/// affected.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn establish_connection(
    group_id: *const c_char,
    secret: *const c_char,
) -> c_int {
    guarded("establish_connection", || {
        // SAFETY: the caller guarantees that both are NULL or NUL-terminated strings.
        unsafe { establish(group_id, secret, |_| Ok(())) }
    })
}

/// Opens the connection of the process. `made` runs before any other call can use the connection.
///
/// # Safety
/// Each string is NULL or NUL-terminated, until this returns.
unsafe fn establish(
    group_id: *const c_char,
    secret: *const c_char,
    made: impl FnOnce(&Connection) -> Result<(), Error>,
) -> Result<c_int, Error> {
    Process::current().establish(Builder::from_env(), |builder, deadline| {
        // SAFETY: the caller guarantees that both are NULL or NUL-terminated strings. The slices do
        // not leave this closure, which ends before the function returns.
        let (group, secret) =
            unsafe { (string("group name", group_id)?, string("secret", secret)?) };
        let connection = builder.open_until(group, secret, deadline)?;
        made(&connection)?;
        Ok(connection)
    })?;
    Ok(0)
}

/// Store `value` under `key`, replacing any previous value, and notify every watch on the key.
///
///   key    NUL-terminated, 1 to KVS_MAX_KEY bytes
///   value  NUL-terminated, may be empty; for its longest length see KVS_MAX_VALUE
///
/// Returns 1 when the value is stored, or
///   KVS_ERROR_NOT_CONNECTED  there is no connection
///   KVS_ERROR_INVALID        an argument is NULL or too long (the value: for this server), the key
///                            is empty, or other threads kept the connection busy until the
///                            timeout; nothing was changed, and the connection stays open
///   KVS_ERROR_NOT_READY      the user has reached a limit, or the connection broke; it is closed
///   KVS_ERROR_SEND_REQUEST, KVS_ERROR_RECEIVE_READY, KVS_ERROR_SEND_STRING,
///   KVS_ERROR_RECEIVE_ANSWER, KVS_ERROR_RECEIVE_VALUE
///                            the connection broke and is closed; whether the value was stored is
///                            unknown
///
/// With protocol v1 key and value have at most KVS_MAX_TEXT bytes, and the server does not
/// acknowledge a put: the function returns when the value has been sent. Every later call in this
/// process sees the value; another process may still see the previous one for a moment.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn put_value(key: *const c_char, value: *const c_char) -> c_int {
    let is_probe = key.is_null() && value.is_null();
    guarded_call(is_probe, "put_value", || {
        let connection = Process::current().connection()?;
        // SAFETY: the caller guarantees NULL or a NUL-terminated string; the slice does not outlive
        // the call.
        let key = unsafe { string("key", key) }.map_err(|error| connection.invalid(error))?;
        // SAFETY: likewise.
        let value = unsafe { string("value", value) }.map_err(|error| connection.invalid(error))?;
        process::or_closed(&connection, connection.put(key, value))?;
        Ok(1)
    })
}

/// Read the value of `key`.
///
///   key    NUL-terminated, 1 to KVS_MAX_KEY bytes
///   value  receives a NUL-terminated copy of the value; the caller releases it with free(). NULL
///          after an error
///
/// Returns 1 when `*value` is set, or
///   KVS_ERROR_NOT_FOUND      there is no such key
///   KVS_ERROR_NOT_CONNECTED  there is no connection
///   KVS_ERROR_INVALID        an argument is NULL, the key is empty or too long, other threads kept
///                            the connection busy until the timeout, or there is no memory
///   KVS_ERROR_NOT_READY      the values that programs of this user have requested and not yet read
///                            use all memory that the server grants the user, or the connection
///                            broke; it is closed
///   KVS_ERROR_SEND_REQUEST, KVS_ERROR_RECEIVE_READY, KVS_ERROR_SEND_STRING,
///   KVS_ERROR_RECEIVE_VALUE
///                            the connection broke and is closed
///
/// A value that kvs_put has stored may contain NUL bytes. The copy has all bytes of it, but string
/// functions stop at the first NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn get_value(key: *const c_char, value: *mut *mut c_char) -> c_int {
    if !value.is_null() {
        // SAFETY: `value` is not NULL, so the caller guarantees that it is writable. It may be
        // uninitialised: `write` does not read it.
        unsafe { value.write(ptr::null_mut()) };
    }
    guarded("get_value", || {
        let connection = Process::current().connection()?;
        if value.is_null() {
            let error = Error::Invalid { what: "value pointer", why: Invalid::Null };
            return Err(connection.invalid(error));
        }
        // SAFETY: the caller guarantees NULL or a NUL-terminated string; the slice does not outlive
        // the call.
        let key = unsafe { string("key", key) }.map_err(|error| connection.invalid(error))?;
        let found =
            process::or_closed(&connection, connection.get(key))?.ok_or(Error::NoSuchKey)?;
        let copy = strings::malloc_copy(&found)?;
        // SAFETY: NULL was rejected above, so the caller guarantees that `value` is writable until
        // the call returns.
        unsafe { value.write(copy) };
        Ok(1)
    })
}

/// Delete the pair of `key` and the watches on this key of all programs in the group.
///
///   key  NUL-terminated, 1 to KVS_MAX_KEY bytes
///
/// Returns 1 when the pair is deleted, or
///   KVS_ERROR_NOT_FOUND      there is no such key
///   KVS_ERROR_NOT_CONNECTED  there is no connection
///   KVS_ERROR_INVALID        the key is NULL, empty or too long, or other threads kept the
///                            connection busy until the timeout; nothing was changed
///   KVS_ERROR_SEND_REQUEST, KVS_ERROR_RECEIVE_READY, KVS_ERROR_NOT_READY, KVS_ERROR_SEND_STRING,
///   KVS_ERROR_RECEIVE_ANSWER
///                            the connection broke and is closed
///
/// A deletion calls only callbacks of prefixes (see kvs_watch_prefix), not those of the key.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn delete_value(key: *const c_char) -> c_int {
    guarded("delete_value", || {
        let connection = Process::current().connection()?;
        // SAFETY: the caller guarantees NULL or a NUL-terminated string; the slice does not outlive
        // the call.
        let key = unsafe { string("key", key) }.map_err(|error| connection.invalid(error))?;
        if connection.delete(key)? { Ok(1) } else { Err(Error::NoSuchKey) }
    })
}

/// Watch a key by having a function called whenever any program of the group, this one included,
/// puts the key.
///
///   key                NUL-terminated, 1 to KVS_MAX_KEY bytes; the key must exist
///   callback_function  the function to call; it replaces one that was registered for the key
///                      before. Its argument is a NUL-terminated copy of the key, valid until it
///                      returns
///
/// Returns 1 when the key is watched, or
///   KVS_ERROR_NOT_FOUND      there is no such key
///   KVS_ERROR_NOT_CONNECTED  there is no connection
///   KVS_ERROR_INVALID        an argument is NULL, the key is empty or too long, or other threads
///                            kept the connection busy until the timeout; nothing was changed
///   KVS_ERROR_NOT_READY      the user has reached a limit, or the connection broke; it is closed
///   KVS_ERROR_SEND_REQUEST, KVS_ERROR_RECEIVE_READY, KVS_ERROR_SEND_STRING,
///   KVS_ERROR_RECEIVE_ANSWER
///                            the connection broke and is closed
///
/// The function runs on a thread of the library: see Callbacks at the top of kvs.h and in kvs(3).
/// The value is stored before the function is called: get_value in the function returns this value
/// or a newer one, and another call follows for the newer one. Quick puts may be coalesced into one
/// call. To miss nothing, register the function first, then get the value.
///
/// The watch ends, without a call, when the key is deleted or the connection is closed. A program
/// that expects the key to be deleted and put again can register the function again periodically,
/// for example once a second: a registration replaces the previous one, so that the function is
/// called once per change. Until the connection is closed, the function must stay callable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn register_callback(
    key: *const c_char,
    callback_function: Option<unsafe extern "C-unwind" fn(*mut c_char)>,
) -> c_int {
    guarded("register_callback", || {
        let connection = Process::current().connection()?;
        // SAFETY: the caller guarantees NULL or a NUL-terminated string; the slice does not outlive
        // the call.
        let key = unsafe { string("key", key) }.map_err(|error| connection.invalid(error))?;
        let function = callback_function
            .ok_or(Error::Invalid { what: "callback function", why: Invalid::Null })
            .map_err(|error| connection.invalid(error))?;
        let result = connection.watch_with(WatchTarget::Key(key), WatchCallback::CKey(function));
        process::or_closed(&connection, result)?;
        Ok(1)
    })
}

/// Leave the group, end all watches and close the connection.
///
/// Returns 1 when the connection is closed, or
///   KVS_ERROR_NOT_CONNECTED  there is no connection
///   KVS_ERROR_CLOSE          closing a socket failed; the connection is closed nevertheless
///   KVS_ERROR_SEND_REQUEST   the server could not be notified, because it was killed for example;
///                            the connection is closed nevertheless
///   KVS_ERROR_INVALID        other threads kept the connection busy until the timeout; it stays
///                            open
///
/// No callback begins after the function has returned, but one that has begun before may still be
/// running.
#[unsafe(no_mangle)]
pub extern "C" fn close_connection() -> c_int {
    guarded("close_connection", || {
        Process::current().close()?;
        Ok(1)
    })
}

/// Return the English text of a code that a function has returned.
///
///   code  any number
///
/// Returns a constant string without a line feed, which must not be changed or released: "no error"
/// for 0 and 1, a text for each KVS_ERROR_ code, and "unknown error code" for all others. It needs
/// no connection.
#[unsafe(no_mangle)]
pub extern "C" fn kvs_strerror(code: c_int) -> *const c_char {
    strings::describe(code).as_ptr()
}

/// Return the version of the library, such as "1.0.0".
///
/// Returns a constant string, which must not be changed or released.
#[unsafe(no_mangle)]
pub extern "C" fn kvs_version() -> *const c_char {
    strings::VERSION.as_ptr()
}

/// The bytes of a string from the C program.
///
/// # Safety
/// `pointer` is NULL or points to a NUL-terminated string that lives, unchanged, for `'a`.
unsafe fn string<'a>(what: &'static str, pointer: *const c_char) -> Result<&'a [u8], Error> {
    if pointer.is_null() {
        return Err(Error::Invalid { what, why: Invalid::Null });
    }
    // SAFETY: `pointer` is not NULL, so by the contract of this function it points to a
    // NUL-terminated string that does not change during `'a`.
    Ok(unsafe { CStr::from_ptr(pointer) }.to_bytes())
}
