//! The C functions: check the arguments, call the core, turn the result into its code.
//!
//! The doc comments here become `include/kvs.h`, and are the manual of the C library. Every function that
//! can fail passes through [`guarded`], which keeps panics and cancellation out and prints the line of
//! `KVS_DEBUG`.

// What callers must keep to stands in each comment, for readers of the header rather than of Rust docs.
#![allow(clippy::missing_safety_doc)]
// They are exported as C symbols, not as Rust items.
#![allow(unreachable_pub)]

#[cfg(feature = "course")]
mod course;
mod guard;
mod handles;
mod process;
mod strings;

use std::ffi::{CStr, c_char, c_int};
use std::ptr;

use crate::builder::Builder;
use crate::callbacks::{Callback, Watched};
use crate::connection::Connection;
use crate::error::{Error, Invalid};
use guard::{guarded, guarded_call};
use process::Process;

/// The most bytes that a group name or secret may have, its terminating NUL not counted; with a server of the original
/// system, a key or value, too.
pub const KVS_MAX_TEXT: usize = 99;

/// The most bytes that a key may have.
pub const KVS_MAX_KEY: usize = 65536;

/// The most bytes that a value may have at any server. Each has a limit of its own, 16777216 unless its administrator says
/// otherwise.
pub const KVS_MAX_VALUE: usize = 67108864;

const _: () = assert!(KVS_MAX_TEXT == kvs_proto::MAX_TEXT);
const _: () = assert!(KVS_MAX_KEY == kvs_proto::v2::MAX_KEY);
const _: () = assert!(KVS_MAX_VALUE == kvs_proto::v2::MAX_VALUE);

/// Joins the group `group_id` at the local server.
///
/// The six functions have one connection at a time. The environment is read here; a variable that is empty counts as unset:
/// `KVS_SOCKET` (path of the server's socket, `/tmp/server_sock` unless set), `KVS_CALLBACK_SOCKET` (that path followed by
/// `_cb` unless set), `KVS_TIMEOUT_MS` (the longest time that any call waits for the server, 1 to 2147483647, 5000 unless set),
/// `KVS_PROTOCOL` ("original": the original protocol in any case; "best", as when unset: framed sessions, if the server speaks
/// them), `KVS_DEBUG` (anything but empty or 0: one line to stderr for each call that returns a negative code).
///
/// Both strings are only read, and not used after the call.
///
/// Returns 0, or: -2 no socket could be created; -6 the name or the secret could not be sent; -7 no such
/// group; -8 no answer to the name or the secret (the authentication server may be away); -9 wrong
/// secret; -11 the client's own socket could not be bound; -12 no server at that path, or the path is too long; -13 the server
/// did not greet; -14 the server refused; -15 a string is NULL, empty or too long, `KVS_TIMEOUT_MS` is no
/// number of milliseconds, `KVS_PROTOCOL` no protocol, another thread was connecting for all of the time, or the system gives no
/// thread; -16 connected already. After an error nothing is left open.
///
/// Each argument is NULL or points to a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn establish_connection(
    group_id: *const c_char,
    secret: *const c_char,
) -> c_int {
    guarded("establish_connection", || {
        // SAFETY: the caller promises that both are NULL or strings.
        unsafe { establish(group_id, secret, |_| Ok(())) }
    })
}

/// Makes the connection of the process; `made` sees it before anybody else can.
///
/// # Safety
/// Each string is NULL or NUL-terminated, until this returns.
unsafe fn establish(
    group_id: *const c_char,
    secret: *const c_char,
    made: impl FnOnce(&Connection) -> Result<(), Error>,
) -> Result<c_int, Error> {
    Process::current().establish(Builder::from_env(), |builder, deadline| {
        // SAFETY: the caller promises that both are NULL or strings; the slices do not leave this closure,
        // which is over before this returns.
        let (group, secret) =
            unsafe { (string("group name", group_id)?, string("secret", secret)?) };
        let connection = builder.open_until(group, secret, deadline)?;
        made(&connection)?;
        Ok(connection)
    })?;
    Ok(0)
}

/// Stores `value` under `key`, in place of the value before, if any, and thereby calls the callbacks of
/// all who watch the key. The value may be the empty string, and as long as the server takes (see KVS_MAX_VALUE). When the
/// function returns, the value is stored.
///
/// With a server of the original system, key and value have at most KVS_MAX_TEXT bytes, and there is no answer to a put:
/// when the function returns, the value has been sent. Every
/// later call in this process sees it; another process may see the value before for an instant. (An empty
/// value is followed by a get of the same key, as it cannot be sent otherwise.)
///
/// Both strings are only read, and not used after the call.
///
/// Returns 1, or: -2 not connected; -3 -4 -5 -6 -8 the connection broke, or the user is at its limit (-5), and is closed;
/// -15 a string is NULL or too long, the key is empty, or other threads kept the connection busy; nothing was changed.
///
/// Each argument is NULL or points to a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn put_value(key: *const c_char, value: *const c_char) -> c_int {
    let asks = key.is_null() && value.is_null();
    guarded_call(asks, "put_value", || {
        let connection = Process::current().connection()?;
        // SAFETY: the caller promises that it is NULL or a string; the slice does not outlive the call.
        let key = unsafe { string("key", key) }.map_err(|error| connection.invalid(error))?;
        // SAFETY: likewise.
        let value = unsafe { string("value", value) }.map_err(|error| connection.invalid(error))?;
        process::or_closed(&connection, connection.put(key, value))?;
        Ok(1)
    })
}

/// Gets the value of `key`: `*value` points to a copy of it, NUL-terminated, made with `malloc`. The caller
/// releases it with `free`. (A value with a NUL in it, which kvs_put can store, is copied whole, and ends there for who takes
/// it for a string.)
///
/// Returns 1, or, with NULL in `*value`: -2 not connected; -7 no such key; -3 -4 -5 -6 -10 the connection broke and is closed
/// (-5 also when the values that programs of this user have asked for, and do not read, fill the user's memory at the server);
/// -15 an argument is NULL, the key is empty or too long, or other threads kept the connection busy (nothing was sent), or
/// there is no memory.
///
/// `key` is NULL or points to a NUL-terminated string, `value` is NULL or points to a writable pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn get_value(key: *const c_char, value: *mut *mut c_char) -> c_int {
    if !value.is_null() {
        // SAFETY: it is not NULL, so the caller promises that a pointer may be written there. What stood there
        // is not looked at: it need not be initialised.
        unsafe { value.write(ptr::null_mut()) };
    }
    guarded("get_value", || {
        let connection = Process::current().connection()?;
        if value.is_null() {
            let error = Error::Invalid { what: "value pointer", why: Invalid::Null };
            return Err(connection.invalid(error));
        }
        // SAFETY: the caller promises that it is NULL or a string; the slice does not outlive the call.
        let key = unsafe { string("key", key) }.map_err(|error| connection.invalid(error))?;
        let found =
            process::or_closed(&connection, connection.get(key))?.ok_or(Error::NoSuchKey)?;
        let copy = strings::malloc_copy(&found)?;
        // SAFETY: it is not NULL, or we had returned above; the caller promises that it stays writable until
        // the call returns.
        unsafe { value.write(copy) };
        Ok(1)
    })
}

/// Deletes the pair of `key`, and the watches of all applications of the group on it. No callback is
/// called, but those that applications have for prefixes (kvs_watch_prefix).
///
/// The string is only read, and not used after the call.
///
/// Returns 1, or: -2 not connected; -7 no such key; -3 -4 -5 -6 -8 the connection broke and is closed;
/// -15 the key is NULL, empty or too long, or other threads kept the connection busy; nothing was sent.
///
/// `key` is NULL or points to a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn delete_value(key: *const c_char) -> c_int {
    guarded("delete_value", || {
        let connection = Process::current().connection()?;
        // SAFETY: the caller promises that it is NULL or a string; the slice does not outlive the call.
        let key = unsafe { string("key", key) }.map_err(|error| connection.invalid(error))?;
        if connection.delete(key)? { Ok(1) } else { Err(Error::NoSuchKey) }
    })
}

/// Has `callback_function` called with the key whenever any application of the group, this one included,
/// puts `key`. The key must exist. A function registered before for the key is replaced.
///
/// The function runs on a thread of the library, with all signals blocked, one call after the other. It may
/// call every function of this library, and may take as long as it likes: changes of a key that it
/// misses meanwhile may be told once. It may end its thread (`pthread_exit`), which ends this one call of it, and
/// may end the process. It must not leave by `longjmp`, nor by a C++ exception, as there is nothing of the
/// program's below it to go to. The key is its own copy, valid until it returns. The new value is
/// stored before: `get_value` in the callback finds it, or a newer one.
///
/// Returns 1, or: -2 not connected; -7 no such key; -3 -4 -5 -6 -8 the connection broke and is closed;
/// -15 an argument is NULL, the key is empty or too long, or other threads kept the connection busy; nothing
/// was sent.
///
/// `key` is NULL or points to a NUL-terminated string; `callback_function` is NULL or may be called from
/// another thread until the connection is closed, whatever happens to the key.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn register_callback(
    key: *const c_char,
    callback_function: Option<unsafe extern "C-unwind" fn(*mut c_char)>,
) -> c_int {
    guarded("register_callback", || {
        let connection = Process::current().connection()?;
        // SAFETY: the caller promises that it is NULL or a string; the slice does not outlive the call.
        let key = unsafe { string("key", key) }.map_err(|error| connection.invalid(error))?;
        let function = callback_function
            .ok_or(Error::Invalid { what: "callback function", why: Invalid::Null })
            .map_err(|error| connection.invalid(error))?;
        let watched = Watched::Key(key.into());
        let result = connection.watch_with(watched, Callback::Function(function));
        process::or_closed(&connection, result)?;
        Ok(1)
    })
}

/// Leaves the group: forgets the callbacks, tells the server, closes both sockets. No callback begins
/// after it has returned, but one that had been taken up already may still run to its end.
///
/// Returns 1, or: -2 not connected; -1 closing a socket failed; -3 the server could not be told (it was killed, perhaps); the
/// connection is closed all the same; -15 other threads kept the connection busy: call again.
#[unsafe(no_mangle)]
pub extern "C" fn close_connection() -> c_int {
    guarded("close_connection", || {
        Process::current().close()?;
        Ok(1)
    })
}

/// The text for a code that a function returned, in English, without a line feed. For 0 and 1 it says
/// that there was no error; for an unknown code it says so.
///
/// The string is constant: it must not be changed or released. Needs no connection.
#[unsafe(no_mangle)]
pub extern "C" fn kvs_strerror(code: c_int) -> *const c_char {
    strings::describe(code).as_ptr()
}

/// The version of the library, such as "1.0.0". The string is constant.
#[unsafe(no_mangle)]
pub extern "C" fn kvs_version() -> *const c_char {
    strings::VERSION.as_ptr()
}

/// The bytes of a string that a C program has passed.
///
/// # Safety
/// `pointer` is NULL, or points to a NUL-terminated string that lives for `'a` and is not changed meanwhile.
unsafe fn string<'a>(what: &'static str, pointer: *const c_char) -> Result<&'a [u8], Error> {
    if pointer.is_null() {
        return Err(Error::Invalid { what, why: Invalid::Null });
    }
    // SAFETY: it is not NULL, so by the contract of this function it points to a string that ends with NUL and
    // that stays as it is for as long as the slice may be used.
    Ok(unsafe { CStr::from_ptr(pointer) }.to_bytes())
}
