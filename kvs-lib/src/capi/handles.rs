//! The `kvs_` functions, for C programs with any number of connections.
//!
//! A `kvs_t` is a boxed [`Connection`]. The program owns the box from `kvs_open` to `kvs_close`.
//! The doc comments become `include/kvs.h`: see `build/header.rs` for their form.

use std::ffi::{c_char, c_int, c_void};
use std::slice;

use kvs_proto::Protocol;
use kvs_proto::v2::request::WatchTarget;
use kvs_proto::v2::{NO_VERSION, Version};

use super::guard::{self, guarded};
use super::{string, strings};
use crate::builder::Builder;
use crate::callbacks::callback::{DisconnectHandler, WatchCallback};
use crate::connection::Connection;
use crate::error::{Error, Invalid};
use crate::session::results::{Swap, Versioned};
use crate::sys::UserPointer;

/// A connection to a group. An opaque type: kvs_open creates it, kvs_close releases it. A pointer
/// to it is called a handle.
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
    /// `key_len` bytes, 1 to KVS_MAX_KEY.
    pub key: *const c_void,
    pub key_len: usize,
    /// `value_len` bytes; may be NULL if `value_len` is 0.
    pub value: *const c_void,
    pub value_len: usize,
}

/// The type of a function that kvs_watch or kvs_watch_prefix registers. See Callbacks at the top of
/// kvs.h and in kvs(3).
///
///   key      the key that has changed: `key_len` bytes followed by a NUL, valid until the function
///            returns
///   version  the version of the value that was put; 0 if the key was deleted, and always 0 with
///            protocol v1
///   user     the pointer that was registered with the function
///
/// The callback of a key is not called when the key is deleted. If another connection puts and then
/// deletes the key before the callback ran for the put, the callback still runs, with the version
/// of that put; if the watching connection deletes the key, the pending call is dropped. If the
/// connection also watches a prefix of the key, the server may coalesce the events of the put and
/// the deletion; then both callbacks run with version 0.
#[allow(non_camel_case_types)]
pub type kvs_watch_fn = Option<
    unsafe extern "C-unwind" fn(
        key: *const c_void,
        key_len: usize,
        version: u64,
        user: *mut c_void,
    ),
>;

/// The type of a function that kvs_keys calls for each key, on the thread that has called kvs_keys.
///
///   key   `key_len` bytes without a NUL after them, valid until the function returns
///   user  the pointer that was passed to kvs_keys
#[allow(non_camel_case_types)]
pub type kvs_key_fn =
    Option<unsafe extern "C-unwind" fn(key: *const c_void, key_len: usize, user: *mut c_void)>;

/// The type of a function that kvs_on_disconnect registers.
///
///   user    the pointer that was registered with the function
///   reason  why the connection ended, as one of the codes below. Print a text of your own for it:
///           kvs_strerror describes results of calls
///
/// `reason` is
///   KVS_ERROR_NOT_CONNECTED  the server closed the connection: the group was deleted, or the
///                            server is shutting down; the two cannot be distinguished
///   KVS_ERROR_RECEIVE_ANSWER
///                            the connection was lost, because the server was killed or the pending
///                            events exceeded the user's limit; a call timed out; or the server
///                            violated the protocol
///   KVS_ERROR_NOT_READY      protocol v1: the server refused a request, for example at a limit
///   KVS_ERROR_INVALID        the library could not continue, for example for lack of memory
///
/// The call that fails at the same time may return another code, such as KVS_ERROR_SEND_REQUEST.
#[allow(non_camel_case_types)]
pub type kvs_disconnect_fn = Option<unsafe extern "C-unwind" fn(user: *mut c_void, reason: c_int)>;

/// Join a group by opening a connection to the local server.
///
///   kvs     receives the handle for the other kvs_ functions, NULL after an error; the caller
///           releases it with kvs_close
///   group   name of the group, 1 to KVS_MAX_TEXT bytes
///   secret  secret of the group, 1 to KVS_MAX_TEXT bytes
///
/// Returns 0 when the connection is open, or an error of establish_connection, but never
/// KVS_ERROR_ALREADY_CONNECTED. KVS_ERROR_INVALID also if `kvs` is NULL.
///
/// A process can have any number of these connections, to the same group or to different ones,
/// besides that of establish_connection. The function reads the same environment variables. Any
/// number of threads and callbacks can use a handle at the same time; with protocol v2 no thread
/// waits for the round trip of another.
///
/// After fork a handle is of no use in the child: functions except kvs_protocol return
/// KVS_ERROR_NOT_CONNECTED. The child releases the handle with kvs_close and opens its own.
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
        // SAFETY: `kvs` is not NULL, so the caller guarantees that it is writable.
        unsafe { kvs.write(std::ptr::null_mut()) };
        // SAFETY: the caller guarantees that both are NULL or NUL-terminated strings; the slices do
        // not outlive the call.
        let (group, secret) = unsafe { (string("group name", group)?, string("secret", secret)?) };
        let connection = Builder::from_env()?.open(group, secret)?;
        // SAFETY: as above; it stays writable until the call returns.
        unsafe { kvs.write(Box::into_raw(Box::new(kvs_t { connection }))) };
        Ok(0)
    })
}

/// Leave the group, close the connection and release the handle.
///
///   kvs  a handle from kvs_open, or NULL. It is released whatever the function returns, so this
///        must be the last use of the handle, and no other thread may be using it
///
/// Returns 0 when the connection is closed, or
///   KVS_ERROR_NOT_CONNECTED  the connection was closed before: by the server, or by an error
///   KVS_ERROR_CLOSE          closing a socket failed; the connection is closed nevertheless
///   KVS_ERROR_SEND_REQUEST   the server could not be notified, because it was killed for example;
///                            the connection is closed nevertheless
///   KVS_ERROR_INVALID        `kvs` is NULL, or a callback has not returned within the timeout and
///                            is still running
///
/// When the function has returned, no callback of the handle runs or will run, with two exceptions:
/// the callback that kvs_close was called from, and one that has exceeded the timeout.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvs_close(kvs: *mut kvs_t) -> c_int {
    guarded("kvs_close", || {
        if kvs.is_null() {
            return Err(Error::Invalid { what: "kvs", why: Invalid::Null });
        }
        // SAFETY: `kvs` is not NULL, so the caller guarantees that it comes from `Box::into_raw` in
        // `kvs_open`, that it was not released before, and that no other thread uses it.
        let kvs = unsafe { Box::from_raw(kvs) };
        kvs.connection.close_and_wait().map(|()| 0)
    })
}

/// Return the protocol of the connection.
///
///   kvs  a handle from kvs_open
///
/// Returns 2 for protocol v2, 1 for protocol v1 (see Protocols at the top of kvs.h and in kvs(3)),
/// or
///   KVS_ERROR_INVALID  `kvs` is NULL
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

/// Store `value` under `key`, replacing any previous value, and notify every watch on the key.
///
///   kvs      a handle from kvs_open
///   key      `key_len` bytes, 1 to KVS_MAX_KEY, any bytes
///   value    `value_len` bytes, any bytes; may be NULL if `value_len` is 0. For the longest value
///            see KVS_MAX_VALUE
///   version  receives the new version of the key (see Versions at the top of kvs.h and in kvs(3)),
///            0 with protocol v1 and after an error; may be NULL
///
/// Returns 0 when the value is stored, or
///   KVS_ERROR_NOT_CONNECTED  the connection is closed
///   KVS_ERROR_INVALID        an argument is NULL or too long (the value: for this server), the key
///                            is empty, or (protocol v1) other threads kept the connection busy
///                            until the timeout; nothing was changed, and the connection stays open
///   KVS_ERROR_LIMIT          protocol v2: the user has reached the limit of pairs or bytes;
///                            nothing was changed
///   KVS_ERROR_NOT_READY      protocol v1: the user has reached a limit, or the connection broke;
///                            it is closed
///   KVS_ERROR_SEND_REQUEST, KVS_ERROR_RECEIVE_READY, KVS_ERROR_SEND_STRING,
///   KVS_ERROR_RECEIVE_ANSWER, KVS_ERROR_RECEIVE_VALUE
///                            the connection broke and is closed; whether the value was stored is
///                            unknown
///
/// With protocol v1 the server does not acknowledge a put: see put_value.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvs_put(
    kvs: *mut kvs_t,
    key: *const c_void,
    key_len: usize,
    value: *const c_void,
    value_len: usize,
    version: *mut u64,
) -> c_int {
    // SAFETY: the caller guarantees that `version` is NULL or writable.
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

/// Store all of `pairs` atomically: after an error none is stored, and no reader ever sees only a
/// part of them.
///
///   kvs      a handle from kvs_open
///   pairs    `count` pairs; if a key occurs several times, its last value counts
///   count    1 to 10,000
///   version  receives the version of the last pair, 0 after an error; may be NULL
///
/// Returns 0 when the pairs are stored, or
///   KVS_ERROR_NOT_CONNECTED  the connection is closed
///   KVS_ERROR_INVALID        there is no pair, there are too many, an argument is NULL or too
///                            long, or a key is empty; nothing was changed
///   KVS_ERROR_LIMIT          the user has reached the limit of pairs or bytes; nothing was changed
///   KVS_ERROR_UNSUPPORTED    the connection uses protocol v1
///   KVS_ERROR_SEND_REQUEST, KVS_ERROR_RECEIVE_ANSWER
///                            the connection broke and is closed; whether the pairs were stored is
///                            unknown
///
/// All keys and values together, with 8 bytes for each pair, may exceed the longest value of the
/// server by 65,600 bytes at most. In a group with watches the number of pairs is limited further:
/// the number of connected programs plus the number of different lengths of watched prefixes,
/// multiplied by the number of pairs, must not exceed 200,000.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvs_put_many(
    kvs: *mut kvs_t,
    pairs: *const kvs_pair_t,
    count: usize,
    version: *mut u64,
) -> c_int {
    // SAFETY: the caller guarantees that `version` is NULL or writable.
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
            // SAFETY: `pairs` is not NULL, so the caller guarantees `count` pairs that do not
            // change during the call.
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

/// Read the value and the version of `key`.
///
///   kvs        a handle from kvs_open
///   key        `key_len` bytes, 1 to KVS_MAX_KEY, any bytes
///   value      receives a copy of the value, followed by a NUL that `*value_len` does not count;
///              the caller releases it with free(). NULL after an error
///   value_len  receives the length of the value in bytes, 0 after an error; may be NULL
///   version    receives the version of the value, 0 after an error and with protocol v1; may be
///              NULL
///
/// Returns 0 when `*value` is set, or
///   KVS_ERROR_NOT_FOUND      there is no such key
///   KVS_ERROR_NOT_CONNECTED  the connection is closed
///   KVS_ERROR_INVALID        an argument is NULL, the key is empty or too long, there is no
///                            memory, or (protocol v1) other threads kept the connection busy until
///                            the timeout
///   KVS_ERROR_LIMIT          protocol v2: the values that programs of this user have requested and
///                            not yet read use all memory that the server grants the user
///   KVS_ERROR_NOT_READY      protocol v1: as KVS_ERROR_LIMIT, or the connection broke; it is
///                            closed
///   KVS_ERROR_SEND_REQUEST, KVS_ERROR_RECEIVE_READY, KVS_ERROR_SEND_STRING,
///   KVS_ERROR_RECEIVE_ANSWER, KVS_ERROR_RECEIVE_VALUE
///                            the connection broke and is closed
///
/// After KVS_ERROR_NOT_FOUND, too, `*version` can be passed to kvs_cas, which then stores a value
/// only if there still is no such key.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvs_get(
    kvs: *mut kvs_t,
    key: *const c_void,
    key_len: usize,
    value: *mut *mut c_void,
    value_len: *mut usize,
    version: *mut u64,
) -> c_int {
    // SAFETY: the caller guarantees that those that are not NULL are writable.
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
        // SAFETY: those that are written to are not NULL, so the caller guarantees that they are
        // writable until the call returns.
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

/// Delete the pair of `key` and the watches on this key of all programs in the group.
///
///   kvs  a handle from kvs_open
///   key  `key_len` bytes, 1 to KVS_MAX_KEY, any bytes
///
/// Returns 0 when the pair is deleted, or
///   KVS_ERROR_NOT_FOUND      there is no such key
///   KVS_ERROR_NOT_CONNECTED  the connection is closed
///   KVS_ERROR_INVALID        an argument is NULL, the key is empty or too long, or other threads
///                            kept the connection busy until the timeout; nothing was changed
///   KVS_ERROR_SEND_REQUEST, KVS_ERROR_RECEIVE_READY, KVS_ERROR_NOT_READY, KVS_ERROR_SEND_STRING,
///   KVS_ERROR_RECEIVE_ANSWER
///                            the connection broke and is closed
///
/// A deletion calls only callbacks of prefixes (see kvs_watch_prefix), not those of the key. The C
/// interface has no conditional deletion, as kvs_cas is for puts.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvs_delete(kvs: *mut kvs_t, key: *const c_void, key_len: usize) -> c_int {
    guarded("kvs_delete", || {
        // SAFETY: see `connection` and `bytes`; the slice does not outlive the call.
        let (connection, key) = unsafe { (connection(kvs)?, bytes("key", key, key_len)?) };
        if connection.delete(key)? { Ok(0) } else { Err(Error::NoSuchKey) }
    })
}

/// Store `value` under `key` if the key has a given version (compare and swap).
///
///   kvs      a handle from kvs_open
///   key      `key_len` bytes, 1 to KVS_MAX_KEY, any bytes
///   value    `value_len` bytes, any bytes; may be NULL if `value_len` is 0. For the longest value
///            see KVS_MAX_VALUE
///   version  the expected version, 0 for "there is no such key". Receives the version of the key:
///            the new one after 0, the current one after KVS_ERROR_CONFLICT (0 for no such key);
///            unchanged after other errors
///
/// Returns 0 when the value is stored, or
///   KVS_ERROR_CONFLICT       the key has another version; nothing was changed
///   KVS_ERROR_NOT_CONNECTED  the connection is closed
///   KVS_ERROR_INVALID        an argument is NULL or too long (the value: for this server), or the
///                            key is empty; nothing was changed, and the connection stays open
///   KVS_ERROR_LIMIT          the user has reached the limit of pairs or bytes; nothing was changed
///   KVS_ERROR_UNSUPPORTED    the connection uses protocol v1
///   KVS_ERROR_SEND_REQUEST, KVS_ERROR_RECEIVE_ANSWER
///                            the connection broke and is closed; whether the value was stored is
///                            unknown
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
        // SAFETY: it is not NULL, so the caller guarantees that it is readable.
        let expected = unsafe { version.read() };
        let swap = connection.compare_and_swap(key, value, expected)?;
        let (Swap::Done(now) | Swap::Conflict(now)) = swap;
        // SAFETY: it is not NULL, so the caller guarantees that it is writable until the call
        // returns.
        unsafe { version.write(now) };
        match swap {
            Swap::Done(_) => Ok(0),
            Swap::Conflict(now) => Err(Error::Conflict(now)),
        }
    })
}

/// List the keys that begin with `prefix`, one page per call:
///
///     uint64_t cursor = 0;
///     do {
///         code = kvs_keys(kvs, "user:", 5, &cursor, print, NULL);
///     } while (code == 0 && cursor != 0);
///
///   kvs     a handle from kvs_open
///   prefix  `prefix_len` bytes, 0 to KVS_MAX_KEY; may be NULL if `prefix_len` is 0, which lists
///           all keys
///   cursor  where the page begins: 0 for the first one. Receives where the next page begins, 0
///           after the last one; unchanged after an error
///   each    called for each key of the page; it must return, and not leave by longjmp or
///           pthread_exit
///   user    passed to `each`
///
/// Returns 0 when the page is complete, or
///   KVS_ERROR_NOT_CONNECTED  the connection is closed
///   KVS_ERROR_INVALID        an argument is NULL, or the prefix is longer than a key may be
///   KVS_ERROR_UNSUPPORTED    the connection uses protocol v1
///   KVS_ERROR_SEND_REQUEST, KVS_ERROR_RECEIVE_ANSWER
///                            the connection broke and is closed
///
/// A page has 0 to 10,000 keys in no particular order; an empty page is not necessarily the last
/// one. A key that exists from the first page to the last is listed exactly once. A key that is put
/// or deleted in the meantime may be missing.
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
        // SAFETY: it is not NULL, so the caller guarantees that it is readable.
        let from = unsafe { cursor.read() };
        let (keys, next) = connection.keys_page(prefix, from, 0)?;
        for key in keys {
            // SAFETY: the caller has passed this function for such calls and guarantees that it
            // returns. `key` lives until the end of the iteration.
            unsafe { each(key.as_ptr().cast(), key.len(), user) };
        }
        // SAFETY: as above; the caller guarantees that it is writable until the call returns.
        unsafe { cursor.write(next) };
        Ok(0)
    })
}

/// Watch a key by having a function called whenever any program of the group, this one included,
/// puts the key.
///
///     static void on_change(const void *key, size_t key_len,
///                           uint64_t version, void *user)
///     {
///         printf("changed: %.*s\n", (int)key_len, (const char *)key);
///     }
///
///     code = kvs_watch(kvs, "celsius", 7, on_change, NULL);
///
///   kvs       a handle from kvs_open
///   key       `key_len` bytes, 1 to KVS_MAX_KEY, any bytes; the key must exist
///   callback  the function to call; it replaces one that was registered for the key on this handle
///             before
///   user      passed to `callback`
///
/// Returns 0 when the key is watched, or
///   KVS_ERROR_NOT_FOUND      there is no such key
///   KVS_ERROR_NOT_CONNECTED  the connection is closed
///   KVS_ERROR_INVALID        an argument is NULL, the key is empty or too long, or other threads
///                            kept the connection busy until the timeout
///   KVS_ERROR_LIMIT          protocol v2: the user has reached a limit
///   KVS_ERROR_NOT_READY      protocol v1: the user has reached a limit, or the connection broke;
///                            it is closed
///   KVS_ERROR_SEND_REQUEST, KVS_ERROR_RECEIVE_READY, KVS_ERROR_SEND_STRING,
///   KVS_ERROR_RECEIVE_ANSWER
///                            the connection broke and is closed
///
/// The callback runs on a thread of the library: see Callbacks at the top of kvs.h and in kvs(3).
/// The value is stored before the callback is called. kvs_get in the callback may return a newer
/// version than that of the event, or a value after an event with version 0; another call follows
/// for it. Quick puts may be coalesced into one call. To miss nothing, watch first, then get.
///
/// The callback must stay callable with `user` until kvs_unwatch or kvs_close has returned, even if
/// the key is deleted or another callback replaces this one: the library may be calling it at that
/// moment.
///
/// The watch ends, without a call, when the key is deleted. To be called for deletions too, or to
/// watch a key that does not exist yet, watch the whole name of the key as a prefix, and ignore
/// longer keys (protocol v2 only):
///
///     static void on_event(const void *key, size_t key_len,
///                          uint64_t version, void *user)
///     {
///         if (key_len == 7)
///             puts(version == 0 ? "deleted" : "put");
///     }
///
///     code = kvs_watch_prefix(kvs, "celsius", 7, on_event, NULL);
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvs_watch(
    kvs: *mut kvs_t,
    key: *const c_void,
    key_len: usize,
    callback: kvs_watch_fn,
    user: *mut c_void,
) -> c_int {
    guarded("kvs_watch", || {
        // SAFETY: the caller guarantees what `watch` requires.
        unsafe { watch(kvs, "key", key, key_len, WatchTarget::Key, callback, user) }
    })
}

/// Watch all keys that begin with `prefix`, as kvs_watch watches one key.
///
///   kvs       a handle from kvs_open
///   prefix    `prefix_len` bytes, 0 to KVS_MAX_KEY; may be NULL if `prefix_len` is 0, which
///             watches all keys
///   callback  the function to call; it replaces one that was registered for the prefix on this
///             handle before
///   user      passed to `callback`
///
/// Returns 0 when the prefix is watched, or
///   KVS_ERROR_NOT_CONNECTED  the connection is closed
///   KVS_ERROR_INVALID        an argument is NULL, the prefix is longer than a key may be, or other
///                            threads kept the connection busy until the timeout
///   KVS_ERROR_LIMIT          the user has reached a limit
///   KVS_ERROR_UNSUPPORTED    the connection uses protocol v1
///   KVS_ERROR_SEND_REQUEST, KVS_ERROR_RECEIVE_ANSWER
///                            the connection broke and is closed
///
/// No key with the prefix need exist. The callback is also called for deletions, with version 0,
/// and the watch does not end by them. A deletion and a quick put of the same key may be coalesced
/// into one call for the last of them. A change that matches several watches calls the callback of
/// each. A prefix that is the whole name of a key watches one key with its deletions: see
/// kvs_watch.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvs_watch_prefix(
    kvs: *mut kvs_t,
    prefix: *const c_void,
    prefix_len: usize,
    callback: kvs_watch_fn,
    user: *mut c_void,
) -> c_int {
    guarded("kvs_watch_prefix", || {
        // SAFETY: the caller guarantees what `watch` requires.
        unsafe { watch(kvs, "prefix", prefix, prefix_len, WatchTarget::Prefix, callback, user) }
    })
}

/// Stop calling the callback for `key`.
///
///   kvs  a handle from kvs_open
///   key  `key_len` bytes, 1 to KVS_MAX_KEY, any bytes
///
/// Returns 0 when the watch has ended, or
///   KVS_ERROR_NOT_FOUND      the handle does not watch this key, or no longer does, because the
///                            key was deleted
///   KVS_ERROR_NOT_CONNECTED  the connection is closed
///   KVS_ERROR_INVALID        an argument is NULL, the key is empty or too long, other threads kept
///                            the connection busy until the timeout, or the callback has not
///                            returned within the timeout and is still running; it is not called
///                            again
///   KVS_ERROR_SEND_REQUEST, KVS_ERROR_RECEIVE_ANSWER
///                            the connection broke and is closed
///
/// After 0 and KVS_ERROR_NOT_FOUND the callback no longer runs, so that `user` may be released,
/// unless the function was called from a callback of the same handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvs_unwatch(kvs: *mut kvs_t, key: *const c_void, key_len: usize) -> c_int {
    guarded("kvs_unwatch", || {
        // SAFETY: the caller guarantees what `unwatch` requires.
        unsafe { unwatch(kvs, "key", key, key_len, WatchTarget::Key) }
    })
}

/// Stop calling the callback for `prefix`.
///
///   kvs     a handle from kvs_open
///   prefix  `prefix_len` bytes, 0 to KVS_MAX_KEY; may be NULL if `prefix_len` is 0
///
/// Returns 0 when the watch has ended, or an error of kvs_unwatch, or
///   KVS_ERROR_UNSUPPORTED  the connection uses protocol v1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvs_unwatch_prefix(
    kvs: *mut kvs_t,
    prefix: *const c_void,
    prefix_len: usize,
) -> c_int {
    guarded("kvs_unwatch_prefix", || {
        // SAFETY: the caller guarantees what `unwatch` requires.
        unsafe { unwatch(kvs, "prefix", prefix, prefix_len, WatchTarget::Prefix) }
    })
}

/// Register a function that the library calls once when the connection ends other than by
/// kvs_close.
///
///   kvs       a handle from kvs_open
///   callback  the function to call; it replaces one that was registered before
///   user      passed to `callback`
///
/// Returns 0 when the function is registered, or
///   KVS_ERROR_NOT_CONNECTED  the connection has ended already
///   KVS_ERROR_INVALID        an argument is NULL
///
/// The function is called when the group was deleted, when the server exits or is killed, and when
/// an error of a call closes the connection. It runs on the library's thread after the last
/// callback, when all watches have ended. A call on the handle after it returns
/// KVS_ERROR_NOT_CONNECTED, or, when the server was killed, first one of the errors that close the
/// connection. The function may call kvs_close. It must stay callable with `user` until kvs_close
/// has returned.
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
        connection.set_disconnect_handler(DisconnectHandler::C(function, UserPointer(user)))?;
        Ok(0)
    })
}

/// # Safety
/// `kvs` is NULL or comes from `kvs_open`; `pointer` points to `len` bytes; `callback` may be
/// called as the header says.
unsafe fn watch<'a>(
    kvs: *const kvs_t,
    what: &'static str,
    pointer: *const c_void,
    len: usize,
    target: fn(&'a [u8]) -> WatchTarget<'a>,
    callback: kvs_watch_fn,
    user: *mut c_void,
) -> Result<c_int, Error> {
    // SAFETY: see `connection` and `bytes`; the slice does not outlive the call.
    let (connection, bytes) = unsafe { (connection(kvs)?, bytes(what, pointer, len)?) };
    let null = Error::Invalid { what: "callback function", why: Invalid::Null };
    let function = callback.ok_or(null).map_err(|error| connection.invalid(error))?;
    connection.watch_with(target(bytes), WatchCallback::CWatch(function, UserPointer(user)))?;
    Ok(0)
}

/// # Safety
/// `kvs` is NULL or comes from `kvs_open`; `pointer` points to `len` bytes.
unsafe fn unwatch<'a>(
    kvs: *const kvs_t,
    what: &'static str,
    pointer: *const c_void,
    len: usize,
    target: fn(&'a [u8]) -> WatchTarget<'a>,
) -> Result<c_int, Error> {
    // SAFETY: see `connection` and `bytes`; the slice does not outlive the call.
    let (connection, bytes) = unsafe { (connection(kvs)?, bytes(what, pointer, len)?) };
    match connection.unwatch_with(target(bytes))? {
        true => Ok(0),
        false => Err(Error::NotWatched),
    }
}

/// Stores a version for the caller unless `to` is NULL.
///
/// # Safety
/// `to` is NULL or writable.
unsafe fn set(to: *mut u64, version: Version) {
    if !to.is_null() {
        // SAFETY: `to` is not NULL, so by the contract of this function it is writable.
        unsafe { to.write(version) };
    }
}

/// The connection of a handle.
///
/// # Safety
/// `kvs` is NULL, or comes from `kvs_open` and is not released during `'a`.
unsafe fn connection<'a>(kvs: *const kvs_t) -> Result<&'a Connection, Error> {
    // SAFETY: by the contract of this function `kvs` is NULL or a pointer from `Box::into_raw`. The
    // box is never borrowed mutably.
    match unsafe { kvs.as_ref() } {
        Some(kvs) => Ok(&kvs.connection),
        None => Err(Error::Invalid { what: "kvs", why: Invalid::Null }),
    }
}

/// The bytes from a C program.
///
/// # Safety
/// `pointer` is NULL or points to `len` bytes that live, unchanged, for `'a`.
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
    // SAFETY: `pointer` is not NULL, so by the contract of this function it points to `len` bytes
    // that do not change during `'a`. `len` is at most `isize::MAX`.
    Ok(unsafe { slice::from_raw_parts(pointer.cast(), len) })
}
