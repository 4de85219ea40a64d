/*
 * kvs.h - key-value pairs shared by the programs of one machine, with a callback when a key changes.
 *
 * Generated from kvs-lib/src/capi; changes belong there.
 *
 *   cc program.c -lkvs
 *
 * Two ways   The six functions of the original system: one connection for the process, strings. And the kvs_
 *            functions: any number of connections (kvs_t), bytes with their lengths, versions, prefixes. Both
 *            may be used in one program.
 * Sessions   With a KVS-LocalServer of this project, sessions are framed: every call is one round trip and
 *            acknowledged. With one of the original system, with KVS_PROTOCOL=original in the environment, and in
 *            a group whose name has more than 95 bytes, they are as they were. The program need not know; what an original session cannot do returns -17.
 * Strings    Group names and secrets are NUL-terminated and have 1 to KVS_MAX_TEXT bytes. For keys and values
 *            see KVS_MAX_KEY and KVS_MAX_VALUE; in original sessions, and for the programs of the original system
 *            in the same group, they have at most KVS_MAX_TEXT bytes without NUL.
 * Threads    Every function may be called by any thread at any time, callbacks included. In a framed session
 *            threads do not wait for each other; in an original one calls take turns. Callbacks run on one thread
 *            of the library for each connection.
 * Time       No call waits longer for the server than KVS_TIMEOUT_MS (environment, 5000 unless set).
 * fork       A child starts unconnected and may establish a connection of its own; the parent's is not
 *            affected.
 * Signals    The library handles none, raises none (no SIGPIPE), and its thread has all blocked.
 *            pthread_cancel takes effect after the call, where the program next may be cancelled: the functions are no such
 *            places. PTHREAD_CANCEL_ASYNCHRONOUS must not be set during a call.
 * Closed     kvs_on_disconnect tells the end of a kvs_t. For the six functions there is no such event: a program
 *            that only waits for callbacks asks now and then: put_value(NULL, NULL) sends nothing, and
 *            returns -15 while connected and -2 when not. After connecting again the callbacks must be registered again.
 * Output     The library prints nothing, unless KVS_DEBUG=1 is in the environment: then one line to
 *            stderr for each call that fails. (A bug in the library, which is caught and makes a call
 *            return -15 and the connection close, says so there in any case.)
 *
 * Codes      Functions return 0 or 1 (see each), or a negative code. After -3 -4 -5 -6 -8 and -10 of a
 *            connected program the connection is closed; calls return -2 until establish_connection
 *            succeeds again; a kvs_t is for kvs_close. The same holds after the server has closed the connection, because the
 *            group was deleted or the server quits. When the server was killed, the first call returns one of these codes,
 *            mostly -3, and later ones -2; close_connection and kvs_close return -3 if they are the first.
 *            What each code means is said at the constants KVS_ERROR_CLOSE and following.
 */

#ifndef KVS_H
#define KVS_H

#include <stddef.h>
#include <stdint.h>

/*
 Closing a socket failed.
 */
#define KVS_ERROR_CLOSE -1

/*
 Not connected, or no socket could be created.
 */
#define KVS_ERROR_NOT_CONNECTED -2

/*
 Sending the function code failed.
 */
#define KVS_ERROR_SEND_REQUEST -3

/*
 Receiving the ready flag failed.
 */
#define KVS_ERROR_RECEIVE_READY -4

/*
 The server is not ready, or (six functions) the user is at its limit.
 */
#define KVS_ERROR_NOT_READY -5

/*
 Sending a key, group name, value or secret failed.
 */
#define KVS_ERROR_SEND_STRING -6

/*
 No such key, group or watch.
 */
#define KVS_ERROR_NOT_FOUND -7

/*
 Receiving the answer to a key, group name or secret failed.
 */
#define KVS_ERROR_RECEIVE_ANSWER -8

/*
 Wrong secret.
 */
#define KVS_ERROR_WRONG_SECRET -9

/*
 Receiving the value failed.
 */
#define KVS_ERROR_RECEIVE_VALUE -10

/*
 bind(2) failed.
 */
#define KVS_ERROR_BIND -11

/*
 connect(2) failed, or the path is too long.
 */
#define KVS_ERROR_CONNECT -12

/*
 Receiving the server's greeting failed.
 */
#define KVS_ERROR_NO_GREETING -13

/*
 The server refused the connection.
 */
#define KVS_ERROR_REFUSED -14

/*
 Invalid argument, or any other error.
 */
#define KVS_ERROR_INVALID -15

/*
 Already connected (six functions).
 */
#define KVS_ERROR_ALREADY_CONNECTED -16

/*
 An original session cannot do that.
 */
#define KVS_ERROR_UNSUPPORTED -17

/*
 kvs_cas: the key has another version.
 */
#define KVS_ERROR_CONFLICT -18

/*
 The user is at its limit (kvs_ functions).
 */
#define KVS_ERROR_LIMIT -19

/*
 The most bytes that a group name or secret may have, its terminating NUL not counted; with a server of the original
 system, a key or value, too.
 */
#define KVS_MAX_TEXT 99

/*
 The most bytes that a key may have.
 */
#define KVS_MAX_KEY 65536

/*
 The most bytes that a value may have at any server. Each has a limit of its own, 16777216 unless its administrator says
 otherwise.
 */
#define KVS_MAX_VALUE 67108864

/*
 A connection to a group; see kvs_open. Its inside is nobody's business.
 */
typedef struct kvs_t kvs_t;

/*
 A key and its value, for kvs_put_many.
 */
typedef struct kvs_pair_t {
  /*
   `key_len` bytes.
   */
  const void *key;
  size_t key_len;
  /*
   `value_len` bytes; may be NULL when that is 0.
   */
  const void *value;
  size_t value_len;
} kvs_pair_t;

/*
 Called for one key, on the thread that has called kvs_keys. The key has `key_len` bytes, with no NUL behind them, and
 is valid until the function returns.
 */
typedef void (*kvs_key_fn)(const void *key, size_t key_len, void *user);

/*
 Called when a watched key has changed, with what it was registered with. The key has `key_len` bytes, is followed by
 a NUL, and is valid until the function returns. `version` is that of the value that was put, or 0 when the key was
 deleted; in an original session it is always 0. A watch of a key is not told of its deletion; if the key was put and deleted
 before the callback ran, that change comes with version 0. What holds for callbacks is said at register_callback.
 */
typedef void (*kvs_watch_fn)(const void *key, size_t key_len, uint64_t version, void *user);

/*
 Called when the connection has ended, with what it was registered with, and the reason: KVS_ERROR_NOT_CONNECTED (the server
 closed it: the group was deleted, or the server is shutting down), KVS_ERROR_RECEIVE_ANSWER (it was lost, a call timed out, or the
 server violated the protocol), KVS_ERROR_NOT_READY (protocol v1: the server refused an operation, as at a limit), or
 KVS_ERROR_INVALID (the library could not go on).
 */
typedef void (*kvs_disconnect_fn)(void *user, int reason);

#ifdef __cplusplus
extern "C" {
#endif /* __cplusplus */

/*
 Joins the group `group_id` at the local server.

 The six functions have one connection at a time. The environment is read here; a variable that is empty counts as unset:
 `KVS_SOCKET` (path of the server's socket, `/tmp/server_sock` unless set), `KVS_CALLBACK_SOCKET` (that path followed by
 `_cb` unless set), `KVS_TIMEOUT_MS` (the longest time that any call waits for the server, 1 to 2147483647, 5000 unless set),
 `KVS_PROTOCOL` ("original": the original protocol in any case; "best", as when unset: framed sessions, if the server speaks
 them), `KVS_DEBUG` (anything but empty or 0: one line to stderr for each call that returns a negative code).

 Both strings are only read, and not used after the call.

 Returns 0, or: -2 no socket could be created; -6 the name or the secret could not be sent; -7 no such
 group; -8 no answer to the name or the secret (the authentication server may be away); -9 wrong
 secret; -11 the client's own socket could not be bound; -12 no server at that path, or the path is too long; -13 the server
 did not greet; -14 the server refused; -15 a string is NULL, empty or too long, `KVS_TIMEOUT_MS` is no
 number of milliseconds, `KVS_PROTOCOL` no protocol, another thread was connecting for all of the time, or the system gives no
 thread; -16 connected already. After an error nothing is left open.

 Each argument is NULL or points to a NUL-terminated string.
 */
int establish_connection(const char *group_id,
                         const char *secret);

/*
 Stores `value` under `key`, in place of the value before, if any, and thereby calls the callbacks of
 all who watch the key. The value may be the empty string, and as long as the server takes (see KVS_MAX_VALUE). When the
 function returns, the value is stored.

 With a server of the original system, key and value have at most KVS_MAX_TEXT bytes, and there is no answer to a put:
 when the function returns, the value has been sent. Every
 later call in this process sees it; another process may see the value before for an instant. (An empty
 value is followed by a get of the same key, as it cannot be sent otherwise.)

 Both strings are only read, and not used after the call.

 Returns 1, or: -2 not connected; -3 -4 -5 -6 -8 the connection broke, or the user is at its limit (-5), and is closed;
 -15 a string is NULL or too long, the key is empty, or other threads kept the connection busy; nothing was changed.

 Each argument is NULL or points to a NUL-terminated string.
 */
int put_value(const char *key,
              const char *value);

/*
 Gets the value of `key`: `*value` points to a copy of it, NUL-terminated, made with `malloc`. The caller
 releases it with `free`. (A value with a NUL in it, which kvs_put can store, is copied whole, and ends there for who takes
 it for a string.)

 Returns 1, or, with NULL in `*value`: -2 not connected; -7 no such key; -3 -4 -5 -6 -10 the connection broke and is closed
 (-5 also when the values that programs of this user have asked for, and do not read, fill the user's memory at the server);
 -15 an argument is NULL, the key is empty or too long, or other threads kept the connection busy (nothing was sent), or
 there is no memory.

 `key` is NULL or points to a NUL-terminated string, `value` is NULL or points to a writable pointer.
 */
int get_value(const char *key,
              char **value);

/*
 Deletes the pair of `key`, and the watches of all applications of the group on it. No callback is
 called, but those that applications have for prefixes (kvs_watch_prefix).

 The string is only read, and not used after the call.

 Returns 1, or: -2 not connected; -7 no such key; -3 -4 -5 -6 -8 the connection broke and is closed;
 -15 the key is NULL, empty or too long, or other threads kept the connection busy; nothing was sent.

 `key` is NULL or points to a NUL-terminated string.
 */
int delete_value(const char *key);

/*
 Has `callback_function` called with the key whenever any application of the group, this one included,
 puts `key`. The key must exist. A function registered before for the key is replaced.

 The function runs on a thread of the library, with all signals blocked, one call after the other. It may
 call every function of this library, and may take as long as it likes: changes of a key that it
 misses meanwhile may be told once. It may end its thread (`pthread_exit`), which ends this one call of it, and
 may end the process. It must not leave by `longjmp`, nor by a C++ exception, as there is nothing of the
 program's below it to go to. The key is its own copy, valid until it returns. The new value is
 stored before: `get_value` in the callback finds it, or a newer one.

 Returns 1, or: -2 not connected; -7 no such key; -3 -4 -5 -6 -8 the connection broke and is closed;
 -15 an argument is NULL, the key is empty or too long, or other threads kept the connection busy; nothing
 was sent.

 `key` is NULL or points to a NUL-terminated string; `callback_function` is NULL or may be called from
 another thread until the connection is closed, whatever happens to the key.
 */
int register_callback(const char *key,
                      void (*callback_function)(char*));

/*
 Leaves the group: forgets the callbacks, tells the server, closes both sockets. No callback begins
 after it has returned, but one that had been taken up already may still run to its end.

 Returns 1, or: -2 not connected; -1 closing a socket failed; -3 the server could not be told (it was killed, perhaps); the
 connection is closed all the same; -15 other threads kept the connection busy: call again.
 */
int close_connection(void);

/*
 The text for a code that a function returned, in English, without a line feed. For 0 and 1 it says
 that there was no error; for an unknown code it says so.

 The string is constant: it must not be changed or released. Needs no connection.
 */
const char *kvs_strerror(int code);

/*
 The version of the library, such as "1.0.0". The string is constant.
 */
const char *kvs_version(void);

/*
 Joins the group `group` at the local server, with a connection of its own: a process may have any number of them, of
 the same or of different groups, besides that of establish_connection. The environment is read as there.

 `*kvs` is what the other kvs_ functions take, until kvs_close gives it back; NULL after an error. Both strings are only
 read, and not used after the call.

 A kvs_t may be used by any number of threads at once, and by callbacks: in a framed session none waits for the round
 trip of another. In a forked child it is dead (-2): the child gives it back with kvs_close and opens its own.

 Returns 0, or a code as establish_connection does; never -16.

 `kvs` points to a writable pointer; each string is NULL or NUL-terminated.
 */
int kvs_open(struct kvs_t **kvs,
             const char *group,
             const char *secret);

/*
 Leaves the group and gives `kvs` back, whatever it returns: it must not be used again, so no other thread may be in a
 call with it. No callback begins after it has returned, and none runs, unless it is called from one of them.

 Returns 0, or: -2 it was closed already, by the server or by a failure; -1 closing a socket failed; -3 the server
 could not be told (it was killed, perhaps); -15 it is NULL, or a callback has not come to its end within the time-out,
 and is still running.

 `kvs` is NULL or comes from kvs_open, and was not given back before.
 */
int kvs_close(struct kvs_t *kvs);

/*
 The version of the protocol that the session speaks: 2, or 1 if the server speaks the original protocol only, or
 `KVS_PROTOCOL` is "original", or the group name has more than 95 bytes. In protocol 1 keys and values have at most
 KVS_MAX_TEXT bytes without NUL, a put is not acknowledged, versions are 0, and kvs_cas, kvs_put_many, kvs_keys and
 prefixes are not supported (-17). -15: `kvs` is NULL.

 `kvs` is NULL or comes from kvs_open.
 */
int kvs_protocol(const struct kvs_t *kvs);

/*
 Stores `value` under `key`, in place of the value before, if any. Any bytes; the key has 1 to KVS_MAX_KEY, the value as
 many as the server takes (16 MiB unless its administrator says otherwise, never more than KVS_MAX_VALUE). When this
 returns 0, the value is stored, and `*version` is its version (0 in protocol 1, and after an error). `version` may be NULL.

 Returns 0, or: -2 not connected; -15 an argument is NULL or too long, the key is empty, or (in an original session) other
 threads kept the connection busy; nothing was changed; -19 the user is at its limit, in a framed session; -3 -4 -5 -6 -8 -10
 the connection broke and is closed (-5 also: the user is at its limit, in an original session).

 `kvs` comes from kvs_open; `key` points to `key_len` bytes, `value` to `value_len`, or is NULL when that is 0;
 `version` is NULL or writable.
 */
int kvs_put(struct kvs_t *kvs,
            const void *key,
            size_t key_len,
            const void *value,
            size_t value_len,
            uint64_t *version);

/*
 Stores all of `pairs`, or with an error none of them: nobody ever sees some of them without the others. Of equal keys
 the last counts. There are 1 to 10,000 pairs; all keys and values, with 8 bytes for each pair, have at most 65,600 bytes
 more than the longest value. `*version` is that of the last pair (0 after an error), and may be NULL. Where many applications are connected to the group, and keys or prefixes of it are watched, it
 is fewer: their number, plus that of the different lengths of watched prefixes, times the pairs is 200,000 at most.

 Returns 0, or: -15 there is no pair, or there are too many in one of these ways, or an argument is NULL or too long, or a
 key is empty; -17 in an original session; -19 the user is at its limit; -2 not connected; -3 -8 the connection broke and is
 closed.

 `pairs` points to `count` pairs; `version` is NULL or writable.
 */
int kvs_put_many(struct kvs_t *kvs,
                 const struct kvs_pair_t *pairs,
                 size_t count,
                 uint64_t *version);

/*
 Gets the value of `key`: `*value` points to a copy of its `*value_len` bytes, made with malloc, and followed by a NUL
 that does not count. The caller releases it with free. `*version` is its version. `value_len` and `version` may be NULL.

 After an error `*value` is NULL, `*value_len` and `*version` are 0. So after -7, too, kvs_cas with this version is right: it
 stores a value if there still is no such key.

 Returns 0, or: -7 no such key; -2 not connected; -15 an argument is NULL, the key is empty or too long, there is no memory,
 or (in an original session) other threads kept the connection busy; -19 the values that programs of this user have asked
 for, and do not read, fill the user's memory at the server, in a framed session; -3 -4 -5 -6 -8 -10 the connection broke and
 is closed (-5 also: as -19, in an original session).

 `kvs` comes from kvs_open; `key` points to `key_len` bytes; `value` to a writable pointer; the others are NULL or
 writable.
 */
int kvs_get(struct kvs_t *kvs,
            const void *key,
            size_t key_len,
            void **value,
            size_t *value_len,
            uint64_t *version);

/*
 Deletes the pair of `key`, and all watches on the key. Callbacks are not called, but those of watched prefixes.

 Returns 0, or: -7 no such key; -2 not connected; -15 an argument is NULL, the key is empty or too long, or other threads
 kept the connection busy; -3 -4 -5 -6 -8 the connection broke and is closed.

 `kvs` comes from kvs_open; `key` points to `key_len` bytes.
 */
int kvs_delete(struct kvs_t *kvs,
               const void *key,
               size_t key_len);

/*
 Stores `value` under `key` if the key has the version `*version`; with 0, if there is no such key ("put if absent").
 Afterwards `*version` is that of the key: of the new value (0 returned), or the one that stood in the way (-18), 0 for
 "no such key". After any other code it is unchanged.

 Returns 0, or: -18 the key has another version, and nothing was changed; -17 in an original session; -2 not connected; -15
 an argument is NULL or too long, or the key is empty; -19 the user is at its limit; -3 -8 the connection broke and is closed
 (whether the value was stored is not known).

 As for kvs_put; `version` is NULL (-15) or may be read and written.
 */
int kvs_cas(struct kvs_t *kvs,
            const void *key,
            size_t key_len,
            const void *value,
            size_t value_len,
            uint64_t *version);

/*
 Calls `each` for the keys that begin with `prefix` (all keys, if it is empty), one page at a time: `*cursor` is 0 before
 the first call, and each call moves it on to the next page, or to 0 after the last one. A page has 10,000 keys at most,
 in no order, and may have none although more follow:

    uint64_t cursor = 0;
    do {
       code = kvs_keys(kvs, "user:", 5, &cursor, print, NULL);
    } while (code == 0 && cursor != 0);

 Every key that is there from the first page to the last is told exactly once; keys that come or go meanwhile may be missing.

 Returns 0, or, with `*cursor` unchanged: -17 in an original session; -2 not connected; -15 an argument is NULL, or the
 prefix is longer than a key may be; -3 -8 the connection broke and is closed.

 `kvs` comes from kvs_open; `prefix` points to `prefix_len` bytes, or is NULL when that is 0; `cursor` may be read and
 written; `each` must return: it must not leave by longjmp or end its thread.
 */
int kvs_keys(struct kvs_t *kvs,
             const void *prefix,
             size_t prefix_len,
             uint64_t *cursor,
             kvs_key_fn each,
             void *user);

/*
 Has `callback` called with `user` whenever any application of the group, this one included, puts `key`, until the key is
 deleted. The key must exist. One registered before for the key on this kvs_t is replaced. What holds for callbacks is
 said at register_callback; changes that it misses meanwhile may be merged, and then the last one is told.

 Returns 0, or: -7 no such key; -2 not connected; -15 an argument is NULL, the key is empty or too long, or other threads
 kept the connection busy; -19 the user is at its limit, in a framed session; -3 -4 -5 -6 -8 the connection broke and is
 closed (-5 also: the user is at its limit, in an original session).

 `kvs` comes from kvs_open; `key` points to `key_len` bytes; `callback` may be called with `user` from another thread
 until kvs_unwatch or kvs_close has returned, whatever happens to the key. (To replace it, or to delete the key, waits for
 nothing: the one before may be running still.)
 */
int kvs_watch(struct kvs_t *kvs,
              const void *key,
              size_t key_len,
              kvs_watch_fn callback,
              void *user);

/*
 As kvs_watch, for every key that begins with `prefix` (every key at all, if it is empty). There need not be such a key.
 It is told of deletions, too (version 0), and does not end by them. Callbacks for a key and for other prefixes are
 called as well.

 Returns 0, or: -17 in an original session; -2 not connected; -15 an argument is NULL, the prefix is longer than a key may be,
 or other threads kept the connection busy; -19 the user is at its limit; -3 -8 the connection broke and is closed.

 As for kvs_watch; `prefix` may be NULL when `prefix_len` is 0.
 */
int kvs_watch_prefix(struct kvs_t *kvs,
                     const void *prefix,
                     size_t prefix_len,
                     kvs_watch_fn callback,
                     void *user);

/*
 Has the callback of `key` called no more. When it returns 0 or -7, the callback does not run any more either, so that what
 `user` points to may be released; unless this is called from a callback of this kvs_t.

 Returns 0, or: -7 it is not watched (any more, if the key was deleted); -2 not connected; -15 an argument is NULL, the key is
 empty or too long, other threads kept the connection busy, or the callback has not come to its end within the time-out (it
 will not be called again); -3 -8 the connection broke and is closed.

 `kvs` comes from kvs_open; `key` points to `key_len` bytes.
 */
int kvs_unwatch(struct kvs_t *kvs,
                const void *key,
                size_t key_len);

/*
 Has the callback of `prefix` called no more, as kvs_unwatch.

 Returns as kvs_unwatch, or -17 in an original session.

 `kvs` comes from kvs_open; `prefix` points to `prefix_len` bytes, or is NULL when that is 0.
 */
int kvs_unwatch_prefix(struct kvs_t *kvs, const void *prefix, size_t prefix_len);

/*
 Has `callback` called once with `user`, when the connection has ended other than by kvs_close: the group was deleted, the
 server quits or is gone, or a call has failed in a way that closes it. It runs on the library's thread, after the last
 callback, and all watches are gone then. It may call kvs_close. One registered before is replaced.

 Returns 0, or: -2 that has already happened; -15 an argument is NULL.

 `kvs` comes from kvs_open; `callback` may be called with `user` from another thread until kvs_close has returned.
 */
int kvs_on_disconnect(struct kvs_t *kvs,
                      kvs_disconnect_fn callback,
                      void *user);

#ifdef __cplusplus
} /* extern "C" */
#endif /* __cplusplus */

#endif  /* KVS_H */
