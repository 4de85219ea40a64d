//! The functions of a C program that has any number of connections: `kvs_*`, each on a `kvs_t`.
//!
//! A `kvs_t` is a [`Connection`] in a box. The program owns the box, from `kvs_open` to `kvs_close`.

use std::ffi::{c_char, c_int, c_void};
use std::slice;

use kvs_proto::Protocol;
use kvs_proto::v2::{NO_VERSION, Version};

use super::guard::{self, guarded};
use super::{string, strings};
use crate::builder::Builder;
use crate::callbacks::{Callback, Farewell, Watched};
use crate::connection::{Connection, Swap, Versioned};
use crate::error::{Error, Invalid};
use crate::sys::User;

/// A connection to a group; see kvs_open. Its inside is nobody's business.
#[allow(non_camel_case_types)]
#[derive(Debug)]
pub struct kvs_t {
    connection: Connection,
}

/// A key and its value, for kvs_put_many.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct kvs_pair_t {
    /// `key_len` bytes.
    pub key: *const c_void,
    pub key_len: usize,
    /// `value_len` bytes; may be NULL when that is 0.
    pub value: *const c_void,
    pub value_len: usize,
}

/// Called when a watched key has changed, with what it was registered with. The key has `key_len` bytes, is followed by
/// a NUL, and is valid until the function returns. `version` is that of the value that was put, or 0 when the key was
/// deleted; in an original session it is always 0. A watch of a key is not told of its deletion; if the key was put and deleted
/// before the callback ran, that change comes with version 0. What holds for callbacks is said at register_callback.
#[allow(non_camel_case_types)]
pub type kvs_watch_fn = Option<
    unsafe extern "C-unwind" fn(
        key: *const c_void,
        key_len: usize,
        version: u64,
        user: *mut c_void,
    ),
>;

/// Called for one key, on the thread that has called kvs_keys. The key has `key_len` bytes, with no NUL behind them, and
/// is valid until the function returns.
#[allow(non_camel_case_types)]
pub type kvs_key_fn =
    Option<unsafe extern "C-unwind" fn(key: *const c_void, key_len: usize, user: *mut c_void)>;

/// Called when the connection has ended, with what it was registered with, and the reason: KVS_ERROR_NOT_CONNECTED (the server
/// closed it: the group was deleted, or the server is shutting down), KVS_ERROR_RECEIVE_ANSWER (it was lost, a call timed out, or the
/// server violated the protocol), KVS_ERROR_NOT_READY (protocol v1: the server refused an operation, as at a limit), or
/// KVS_ERROR_INVALID (the library could not go on).
#[allow(non_camel_case_types)]
pub type kvs_disconnect_fn = Option<unsafe extern "C-unwind" fn(user: *mut c_void, reason: c_int)>;

/// Joins the group `group` at the local server, with a connection of its own: a process may have any number of them, of
/// the same or of different groups, besides that of establish_connection. The environment is read as there.
///
/// `*kvs` is what the other kvs_ functions take, until kvs_close gives it back; NULL after an error. Both strings are only
/// read, and not used after the call.
///
/// A kvs_t may be used by any number of threads at once, and by callbacks: in a framed session none waits for the round
/// trip of another. In a forked child it is dead (-2): the child gives it back with kvs_close and opens its own.
///
/// Returns 0, or a code as establish_connection does; never -16.
///
/// `kvs` points to a writable pointer; each string is NULL or NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvs_open(
    kvs: *mut *mut kvs_t,
    group: *const c_char,
    secret: *const c_char,
) -> c_int {
    guard::read_environment();
    guarded("kvs_open", || {
        if kvs.is_null() {
            return Err(Error::Invalid { what: "kvs", why: Invalid::Null });
        }
        // SAFETY: it is not NULL, so the caller promises that a pointer may be written there.
        unsafe { kvs.write(std::ptr::null_mut()) };
        // SAFETY: the caller promises that both are NULL or strings; the slices do not outlive the call.
        let (group, secret) = unsafe { (string("group name", group)?, string("secret", secret)?) };
        let connection = Builder::from_env()?.open(group, secret)?;
        // SAFETY: as above; it stays writable until the call returns.
        unsafe { kvs.write(Box::into_raw(Box::new(kvs_t { connection }))) };
        Ok(0)
    })
}

/// Leaves the group and gives `kvs` back, whatever it returns: it must not be used again, so no other thread may be in a
/// call with it. No callback begins after it has returned, and none runs, unless it is called from one of them.
///
/// Returns 0, or: -2 it was closed already, by the server or by a failure; -1 closing a socket failed; -3 the server
/// could not be told (it was killed, perhaps); -15 it is NULL, or a callback has not come to its end within the time-out,
/// and is still running.
///
/// `kvs` is NULL or comes from kvs_open, and was not given back before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvs_close(kvs: *mut kvs_t) -> c_int {
    guarded("kvs_close", || {
        if kvs.is_null() {
            return Err(Error::Invalid { what: "kvs", why: Invalid::Null });
        }
        // SAFETY: it is not NULL, so by the caller's promise it comes from `Box::into_raw` in `kvs_open`, has not been
        // given back, and nobody uses it any more.
        let kvs = unsafe { Box::from_raw(kvs) };
        kvs.connection.close_and_wait().map(|()| 0)
    })
}

/// The version of the protocol that the session speaks: 2, or 1 if the server speaks the original protocol only, or
/// `KVS_PROTOCOL` is "original", or the group name has more than 95 bytes. In protocol 1 keys and values have at most
/// KVS_MAX_TEXT bytes without NUL, a put is not acknowledged, versions are 0, and kvs_cas, kvs_put_many, kvs_keys and
/// prefixes are not supported (-17). -15: `kvs` is NULL.
///
/// `kvs` is NULL or comes from kvs_open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvs_protocol(kvs: *const kvs_t) -> c_int {
    guarded("kvs_protocol", || {
        // SAFETY: see `connection`.
        Ok(match unsafe { connection(kvs) }?.protocol() {
            Protocol::V1 => 1,
            Protocol::V2 => 2,
        })
    })
}

/// Stores `value` under `key`, in place of the value before, if any. Any bytes; the key has 1 to KVS_MAX_KEY, the value as
/// many as the server takes (16 MiB unless its administrator says otherwise, never more than KVS_MAX_VALUE). When this
/// returns 0, the value is stored, and `*version` is its version (0 in protocol 1, and after an error). `version` may be NULL.
///
/// Returns 0, or: -2 not connected; -15 an argument is NULL or too long, the key is empty, or (in an original session) other
/// threads kept the connection busy; nothing was changed; -19 the user is at its limit, in a framed session; -3 -4 -5 -6 -8 -10
/// the connection broke and is closed (-5 also: the user is at its limit, in an original session).
///
/// `kvs` comes from kvs_open; `key` points to `key_len` bytes, `value` to `value_len`, or is NULL when that is 0;
/// `version` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvs_put(
    kvs: *mut kvs_t,
    key: *const c_void,
    key_len: usize,
    value: *const c_void,
    value_len: usize,
    version: *mut u64,
) -> c_int {
    // SAFETY: the caller promises that it is NULL or writable.
    unsafe { set(version, NO_VERSION) };
    guarded("kvs_put", || {
        // SAFETY: see `connection` and `bytes`; the slices do not outlive the call.
        let (connection, key, value) = unsafe {
            (connection(kvs)?, bytes("key", key, key_len)?, bytes("value", value, value_len)?)
        };
        let stored = connection.put(key, value)?;
        // SAFETY: as above; it stays writable until the call returns.
        unsafe { set(version, stored) };
        Ok(0)
    })
}

/// Stores all of `pairs`, or with an error none of them: nobody ever sees some of them without the others. Of equal keys
/// the last counts. There are 1 to 10,000 pairs; all keys and values, with 8 bytes for each pair, have at most 65,600 bytes
/// more than the longest value. `*version` is that of the last pair (0 after an error), and may be NULL. Where many applications are connected to the group, and keys or prefixes of it are watched, it
/// is fewer: their number, plus that of the different lengths of watched prefixes, times the pairs is 200,000 at most.
///
/// Returns 0, or: -15 there is no pair, or there are too many in one of these ways, or an argument is NULL or too long, or a
/// key is empty; -17 in an original session; -19 the user is at its limit; -2 not connected; -3 -8 the connection broke and is
/// closed.
///
/// `pairs` points to `count` pairs; `version` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvs_put_many(
    kvs: *mut kvs_t,
    pairs: *const kvs_pair_t,
    count: usize,
    version: *mut u64,
) -> c_int {
    // SAFETY: the caller promises that it is NULL or writable.
    unsafe { set(version, NO_VERSION) };
    guarded("kvs_put_many", || {
        // SAFETY: see `connection`.
        let connection = unsafe { connection(kvs) }?;
        if pairs.is_null() && count > 0 {
            return Err(connection.invalid(Error::Invalid { what: "pairs", why: Invalid::Null }));
        }
        let pairs = if count == 0 {
            &[]
        } else {
            // SAFETY: it is not NULL, so the caller promises so many pairs, which nobody changes during the call.
            unsafe { slice::from_raw_parts(pairs, count) }
        };
        let slices = pairs.iter().map(|pair| {
            // SAFETY: see `bytes`; the slices do not outlive the call.
            unsafe {
                let key = bytes("key", pair.key, pair.key_len)?;
                Ok((key, bytes("value", pair.value, pair.value_len)?))
            }
        });
        let slices = slices.collect::<Result<Vec<_>, Error>>();
        let last = connection.put_many(slices.map_err(|error| connection.invalid(error))?)?;
        // SAFETY: as above; it stays writable until the call returns.
        unsafe { set(version, last) };
        Ok(0)
    })
}

/// Gets the value of `key`: `*value` points to a copy of its `*value_len` bytes, made with malloc, and followed by a NUL
/// that does not count. The caller releases it with free. `*version` is its version. `value_len` and `version` may be NULL.
///
/// After an error `*value` is NULL, `*value_len` and `*version` are 0. So after -7, too, kvs_cas with this version is right: it
/// stores a value if there still is no such key.
///
/// Returns 0, or: -7 no such key; -2 not connected; -15 an argument is NULL, the key is empty or too long, there is no memory,
/// or (in an original session) other threads kept the connection busy; -19 the values that programs of this user have asked
/// for, and do not read, fill the user's memory at the server, in a framed session; -3 -4 -5 -6 -8 -10 the connection broke and
/// is closed (-5 also: as -19, in an original session).
///
/// `kvs` comes from kvs_open; `key` points to `key_len` bytes; `value` to a writable pointer; the others are NULL or
/// writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvs_get(
    kvs: *mut kvs_t,
    key: *const c_void,
    key_len: usize,
    value: *mut *mut c_void,
    value_len: *mut usize,
    version: *mut u64,
) -> c_int {
    // SAFETY: what is not NULL of them may be written to, as the caller promises.
    unsafe {
        if !value.is_null() {
            value.write(std::ptr::null_mut());
        }
        if !value_len.is_null() {
            value_len.write(0);
        }
        if !version.is_null() {
            version.write(NO_VERSION);
        }
    }
    guarded("kvs_get", || {
        // SAFETY: see `connection` and `bytes`; the slice does not outlive the call.
        let (connection, key) = unsafe { (connection(kvs)?, bytes("key", key, key_len)?) };
        if value.is_null() {
            let error = Error::Invalid { what: "value pointer", why: Invalid::Null };
            return Err(connection.invalid(error));
        }
        let found = match connection.protocol() {
            Protocol::V1 => {
                connection.get(key)?.map(|value| Versioned { value, version: NO_VERSION })
            }
            Protocol::V2 => connection.get_versioned(key)?,
        };
        let found = found.ok_or(Error::NoSuchKey)?;
        let copy = strings::malloc_copy(&found.value)?;
        // SAFETY: none of those that are written to is NULL, and the caller promises that they may be until the call
        // returns.
        unsafe {
            value.write(copy.cast());
            if !value_len.is_null() {
                value_len.write(found.value.len());
            }
            if !version.is_null() {
                version.write(found.version);
            }
        }
        Ok(0)
    })
}

/// Deletes the pair of `key`, and all watches on the key. Callbacks are not called, but those of watched prefixes.
///
/// Returns 0, or: -7 no such key; -2 not connected; -15 an argument is NULL, the key is empty or too long, or other threads
/// kept the connection busy; -3 -4 -5 -6 -8 the connection broke and is closed.
///
/// `kvs` comes from kvs_open; `key` points to `key_len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvs_delete(kvs: *mut kvs_t, key: *const c_void, key_len: usize) -> c_int {
    guarded("kvs_delete", || {
        // SAFETY: see `connection` and `bytes`; the slice does not outlive the call.
        let (connection, key) = unsafe { (connection(kvs)?, bytes("key", key, key_len)?) };
        if connection.delete(key)? { Ok(0) } else { Err(Error::NoSuchKey) }
    })
}

/// Stores `value` under `key` if the key has the version `*version`; with 0, if there is no such key ("put if absent").
/// Afterwards `*version` is that of the key: of the new value (0 returned), or the one that stood in the way (-18), 0 for
/// "no such key". After any other code it is unchanged.
///
/// Returns 0, or: -18 the key has another version, and nothing was changed; -17 in an original session; -2 not connected; -15
/// an argument is NULL or too long, or the key is empty; -19 the user is at its limit; -3 -8 the connection broke and is closed
/// (whether the value was stored is not known).
///
/// As for kvs_put; `version` is NULL (-15) or may be read and written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvs_cas(
    kvs: *mut kvs_t,
    key: *const c_void,
    key_len: usize,
    value: *const c_void,
    value_len: usize,
    version: *mut u64,
) -> c_int {
    guarded("kvs_cas", || {
        // SAFETY: see `connection` and `bytes`; the slices do not outlive the call.
        let (connection, key, value) = unsafe {
            (connection(kvs)?, bytes("key", key, key_len)?, bytes("value", value, value_len)?)
        };
        if version.is_null() {
            return Err(connection.invalid(Error::Invalid { what: "version", why: Invalid::Null }));
        }
        // SAFETY: it is not NULL, so the caller promises that it may be read.
        let expected = unsafe { version.read() };
        let swap = connection.compare_and_swap(key, value, expected)?;
        let (Swap::Done(now) | Swap::Conflict(now)) = swap;
        // SAFETY: likewise, that it may be written to until the call returns.
        unsafe { version.write(now) };
        match swap {
            Swap::Done(_) => Ok(0),
            Swap::Conflict(now) => Err(Error::Conflict(now)),
        }
    })
}

/// Calls `each` for the keys that begin with `prefix` (all keys, if it is empty), one page at a time: `*cursor` is 0 before
/// the first call, and each call moves it on to the next page, or to 0 after the last one. A page has 10,000 keys at most,
/// in no order, and may have none although more follow:
///
///    uint64_t cursor = 0;
///    do {
///       code = kvs_keys(kvs, "user:", 5, &cursor, print, NULL);
///    } while (code == 0 && cursor != 0);
///
/// Every key that is there from the first page to the last is told exactly once; keys that come or go meanwhile may be missing.
///
/// Returns 0, or, with `*cursor` unchanged: -17 in an original session; -2 not connected; -15 an argument is NULL, or the
/// prefix is longer than a key may be; -3 -8 the connection broke and is closed.
///
/// `kvs` comes from kvs_open; `prefix` points to `prefix_len` bytes, or is NULL when that is 0; `cursor` may be read and
/// written; `each` must return: it must not leave by longjmp or end its thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvs_keys(
    kvs: *mut kvs_t,
    prefix: *const c_void,
    prefix_len: usize,
    cursor: *mut u64,
    each: kvs_key_fn,
    user: *mut c_void,
) -> c_int {
    guarded("kvs_keys", || {
        // SAFETY: see `connection` and `bytes`; the slice does not outlive the call.
        let (connection, prefix) =
            unsafe { (connection(kvs)?, bytes("prefix", prefix, prefix_len)?) };
        let null = |what| connection.invalid(Error::Invalid { what, why: Invalid::Null });
        let each = each.ok_or_else(|| null("function"))?;
        if cursor.is_null() {
            return Err(null("cursor"));
        }
        // SAFETY: it is not NULL, so the caller promises that it may be read.
        let from = unsafe { cursor.read() };
        let (keys, next) = connection.keys_page(prefix, from, 0)?;
        for key in keys {
            // SAFETY: the caller has passed this function to be called in this way, and promises that it returns. The key
            // lives until the end of the loop's turn.
            unsafe { each(key.as_ptr().cast(), key.len(), user) };
        }
        // SAFETY: as above, and the caller promises that it may be written to until the call returns.
        unsafe { cursor.write(next) };
        Ok(0)
    })
}

/// Has `callback` called with `user` whenever any application of the group, this one included, puts `key`, until the key is
/// deleted. The key must exist. One registered before for the key on this kvs_t is replaced. What holds for callbacks is
/// said at register_callback; changes that it misses meanwhile may be merged, and then the last one is told.
///
/// Returns 0, or: -7 no such key; -2 not connected; -15 an argument is NULL, the key is empty or too long, or other threads
/// kept the connection busy; -19 the user is at its limit, in a framed session; -3 -4 -5 -6 -8 the connection broke and is
/// closed (-5 also: the user is at its limit, in an original session).
///
/// `kvs` comes from kvs_open; `key` points to `key_len` bytes; `callback` may be called with `user` from another thread
/// until kvs_unwatch or kvs_close has returned, whatever happens to the key. (To replace it, or to delete the key, waits for
/// nothing: the one before may be running still.)
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvs_watch(
    kvs: *mut kvs_t,
    key: *const c_void,
    key_len: usize,
    callback: kvs_watch_fn,
    user: *mut c_void,
) -> c_int {
    guarded("kvs_watch", || {
        // SAFETY: the caller promises what `watch` asks for.
        unsafe { watch(kvs, "key", key, key_len, Watched::Key, callback, user) }
    })
}

/// As kvs_watch, for every key that begins with `prefix` (every key at all, if it is empty). There need not be such a key.
/// It is told of deletions, too (version 0), and does not end by them. Callbacks for a key and for other prefixes are
/// called as well.
///
/// Returns 0, or: -17 in an original session; -2 not connected; -15 an argument is NULL, the prefix is longer than a key may be,
/// or other threads kept the connection busy; -19 the user is at its limit; -3 -8 the connection broke and is closed.
///
/// As for kvs_watch; `prefix` may be NULL when `prefix_len` is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvs_watch_prefix(
    kvs: *mut kvs_t,
    prefix: *const c_void,
    prefix_len: usize,
    callback: kvs_watch_fn,
    user: *mut c_void,
) -> c_int {
    guarded("kvs_watch_prefix", || {
        // SAFETY: the caller promises what `watch` asks for.
        unsafe { watch(kvs, "prefix", prefix, prefix_len, Watched::Prefix, callback, user) }
    })
}

/// Has the callback of `key` called no more. When it returns 0 or -7, the callback does not run any more either, so that what
/// `user` points to may be released; unless this is called from a callback of this kvs_t.
///
/// Returns 0, or: -7 it is not watched (any more, if the key was deleted); -2 not connected; -15 an argument is NULL, the key is
/// empty or too long, other threads kept the connection busy, or the callback has not come to its end within the time-out (it
/// will not be called again); -3 -8 the connection broke and is closed.
///
/// `kvs` comes from kvs_open; `key` points to `key_len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvs_unwatch(kvs: *mut kvs_t, key: *const c_void, key_len: usize) -> c_int {
    guarded("kvs_unwatch", || {
        // SAFETY: the caller promises what `unwatch` asks for.
        unsafe { unwatch(kvs, "key", key, key_len, Watched::Key) }
    })
}

/// Has the callback of `prefix` called no more, as kvs_unwatch.
///
/// Returns as kvs_unwatch, or -17 in an original session.
///
/// `kvs` comes from kvs_open; `prefix` points to `prefix_len` bytes, or is NULL when that is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvs_unwatch_prefix(
    kvs: *mut kvs_t,
    prefix: *const c_void,
    prefix_len: usize,
) -> c_int {
    guarded("kvs_unwatch_prefix", || {
        // SAFETY: the caller promises what `unwatch` asks for.
        unsafe { unwatch(kvs, "prefix", prefix, prefix_len, Watched::Prefix) }
    })
}

/// Has `callback` called once with `user`, when the connection has ended other than by kvs_close: the group was deleted, the
/// server quits or is gone, or a call has failed in a way that closes it. It runs on the library's thread, after the last
/// callback, and all watches are gone then. It may call kvs_close. One registered before is replaced.
///
/// Returns 0, or: -2 that has already happened; -15 an argument is NULL.
///
/// `kvs` comes from kvs_open; `callback` may be called with `user` from another thread until kvs_close has returned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvs_on_disconnect(
    kvs: *mut kvs_t,
    callback: kvs_disconnect_fn,
    user: *mut c_void,
) -> c_int {
    guarded("kvs_on_disconnect", || {
        // SAFETY: see `connection`.
        let connection = unsafe { connection(kvs) }?;
        let null = Error::Invalid { what: "callback function", why: Invalid::Null };
        let function = callback.ok_or(null).map_err(|error| connection.invalid(error))?;
        connection.set_farewell(Farewell::Function(function, User(user)))?;
        Ok(0)
    })
}

/// # Safety
/// `kvs` is NULL or comes from `kvs_open`; `bytes` points to `len` bytes; the function may be called as the header says.
unsafe fn watch(
    kvs: *const kvs_t,
    what: &'static str,
    pointer: *const c_void,
    len: usize,
    watched: fn(Box<[u8]>) -> Watched,
    callback: kvs_watch_fn,
    user: *mut c_void,
) -> Result<c_int, Error> {
    // SAFETY: see `connection` and `bytes`; the slice does not outlive the call.
    let (connection, bytes) = unsafe { (connection(kvs)?, bytes(what, pointer, len)?) };
    let null = Error::Invalid { what: "callback function", why: Invalid::Null };
    let function = callback.ok_or(null).map_err(|error| connection.invalid(error))?;
    connection.watch_with(watched(bytes.into()), Callback::Watcher(function, User(user)))?;
    Ok(0)
}

/// # Safety
/// `kvs` is NULL or comes from `kvs_open`; `pointer` points to `len` bytes.
unsafe fn unwatch(
    kvs: *const kvs_t,
    what: &'static str,
    pointer: *const c_void,
    len: usize,
    watched: fn(Box<[u8]>) -> Watched,
) -> Result<c_int, Error> {
    // SAFETY: see `connection` and `bytes`; the slice does not outlive the call.
    let (connection, bytes) = unsafe { (connection(kvs)?, bytes(what, pointer, len)?) };
    match connection.unwatch_with(&watched(bytes.into()))? {
        true => Ok(0),
        false => Err(Error::NotWatched),
    }
}

/// Stores a version for the caller, if it wants one.
///
/// # Safety
/// `to` is NULL or may be written to.
unsafe fn set(to: *mut u64, version: Version) {
    if !to.is_null() {
        // SAFETY: it is not NULL, so by the contract of this function it may be written to.
        unsafe { to.write(version) };
    }
}

/// The connection of a handle.
///
/// # Safety
/// `kvs` is NULL, or comes from `kvs_open` and is not given back for `'a`.
unsafe fn connection<'a>(kvs: *const kvs_t) -> Result<&'a Connection, Error> {
    // SAFETY: by the contract of this function it is NULL or points to what `Box::into_raw` gave, which nobody borrows
    // mutably.
    match unsafe { kvs.as_ref() } {
        Some(kvs) => Ok(&kvs.connection),
        None => Err(Error::Invalid { what: "kvs", why: Invalid::Null }),
    }
}

/// The bytes that a C program has passed.
///
/// # Safety
/// `pointer` is NULL, or points to `len` bytes that live for `'a` and are not changed meanwhile.
unsafe fn bytes<'a>(
    what: &'static str,
    pointer: *const c_void,
    len: usize,
) -> Result<&'a [u8], Error> {
    if len == 0 {
        return Ok(&[]);
    }
    if pointer.is_null() {
        return Err(Error::Invalid { what, why: Invalid::Null });
    }
    if isize::try_from(len).is_err() {
        return Err(Error::TooLarge);
    }
    // SAFETY: it is not NULL, so by the contract of this function it points to so many bytes, which stay as they are for as
    // long as the slice may be used; no more than any object can have.
    Ok(unsafe { slice::from_raw_parts(pointer.cast(), len) })
}
