/*
 * kvs.h - key-value pairs shared by the programs of one machine, with a callback when a key changes.
 *
 * Generated from kvs-lib/src/capi/mod.rs; changes belong there.
 *
 *   cc program.c -lkvs
 *
 * Strings    Group names, secrets, keys and values are NUL-terminated and have at most KVS_MAX_TEXT
 *            bytes; all but values must not be empty.
 * Threads    Every function may be called by any thread at any time, callbacks included. Calls on the
 *            connection take turns. Callbacks run on one thread of the library.
 * Time       No call takes longer than KVS_TIMEOUT_MS (environment, 5000 unless set).
 * fork       A child starts unconnected and may establish a connection of its own; the parent's is not
 *            affected.
 * Signals    The library handles none, raises none (no SIGPIPE), and its thread has all blocked.
 *            pthread_cancel takes effect after the call.
 * Closed     There is no event for the end of a connection. A program that only waits for callbacks asks
 *            now and then: put_value(NULL, NULL) sends nothing, and returns -15 while connected and -2
 *            when not. After connecting again the callbacks must be registered again.
 * Output     The library prints nothing, unless KVS_DEBUG=1 is in the environment: then one line to
 *            stderr for each call that fails. (A bug in the library, which is caught and makes a call
 *            return -15 and the connection close, says so there in any case.)
 *
 * Codes      Functions return 0 or 1 (see each), or a negative code. After -3 -4 -5 -6 -8 and -10 of a
 *            connected program the connection is closed; calls return -2 until establish_connection
 *            succeeds again. The same holds after the server has closed the connection, because the
 *            group was deleted or the server quits.
 *
 *    -1 closing a socket failed                    -9 wrong secret
 *    -2 not connected, or no socket created       -10 receiving the value failed
 *    -3 sending the function code failed          -11 bind(2) failed
 *    -4 receiving the ready flag failed           -12 connect(2) failed
 *    -5 the server is not ready                   -13 receiving the server's greeting failed
 *    -6 sending a string failed                   -14 the server refused the connection
 *    -7 no such key or group                      -15 invalid argument, or any other error
 *    -8 receiving an answer failed                -16 already connected
 */

#ifndef KVS_H
#define KVS_H

/*
 The most bytes that a group name, secret, key or value may have, its terminating NUL not counted.
 */
#define KVS_MAX_TEXT 99

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/*
 Joins the group `group_id` at the local server.

 A process has one connection at a time. The environment is read here: `KVS_SOCKET` (path of the
 server's socket, `/tmp/server_sock` unless set), `KVS_CALLBACK_SOCKET` (that path followed by `_cb`
 unless set), `KVS_TIMEOUT_MS` (the longest time that any call may take, 5000 unless set), `KVS_DEBUG`
 (anything but empty or 0: one line to stderr for each call that returns a negative code).

 Both strings are only read, and not used after the call.

 Returns 0, or: -2 no socket could be created; -6 the name or the secret could not be sent; -7 no such
 group; -8 no answer to the name or the secret (the authentication server may be away); -9 wrong
 secret; -11 the client's own socket could not be bound; -12 no server at that path; -13 the server
 did not greet; -14 the server refused; -15 a string is NULL, empty or too long, `KVS_TIMEOUT_MS` is no
 number of milliseconds, another thread was connecting for all of the time, or the system gives no
 thread; -16 connected already. After an error nothing is left open.

 Each argument is NULL or points to a NUL-terminated string.
 */
int establish_connection(const char *group_id,
                         const char *secret);

/*
 Stores `value` under `key`, in place of the value before, if any, and thereby calls the callbacks of
 all who watch the key. The value may be the empty string.

 The original protocol has no answer to a put: when the function returns, the value has been sent. Every
 later call in this process sees it; another process may see the value before for an instant. (An empty
 value is followed by a get of the same key, as it cannot be sent otherwise.)

 Both strings are only read, and not used after the call.

 Returns 1, or: -2 not connected; -3 -4 -5 -6 -8 the connection broke and is closed; -15 a string is
 NULL or too long, the key is empty, or other threads kept the connection busy; nothing was sent.

 Each argument is NULL or points to a NUL-terminated string.
 */
int put_value(const char *key,
              const char *value);

/*
 Gets the value of `key`: `*value` points to a copy of it, NUL-terminated, made with `malloc`. The caller
 releases it with `free`.

 Returns 1, or, with NULL in `*value`: -2 not connected; -7 no such key; -3 -4 -5 -6 -10 the
 connection broke and is closed; -15 an argument is NULL, the key is empty or too long, or other threads
 kept the connection busy (nothing was sent), or there is no memory.

 `key` is NULL or points to a NUL-terminated string, `value` is NULL or points to a writable pointer.
 */
int get_value(const char *key,
              char **value);

/*
 Deletes the pair of `key`, and the watches of all applications of the group on it. No callback is
 called.

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
 misses meanwhile are told once. It may end its thread (`pthread_exit`), which ends this one call of it, and
 may end the process. It must not leave by `longjmp`, nor by a C++ exception, as there is nothing of the
 program's below it to go to. The key is its own copy, valid until it returns. The new value is
 stored before: `get_value` in the callback finds it, or a newer one.

 Returns 1, or: -2 not connected; -7 no such key; -3 -4 -5 -6 -8 the connection broke and is closed;
 -15 an argument is NULL, the key is empty or too long, or other threads kept the connection busy; nothing
 was sent.

 `key` is NULL or points to a NUL-terminated string; `callback_function` is NULL or may be called from
 another thread until the connection is closed or the key is deleted.
 */
int register_callback(const char *key,
                      void (*callback_function)(char*));

/*
 Leaves the group: forgets the callbacks, tells the server, closes both sockets. No callback begins
 after it has returned, but one that had been taken up already may still run to its end.

 Returns 1, or: -2 not connected; -1 closing a socket failed; -3 the server could not be told; the
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
 The version of the library, such as "0.1.0". The string is constant.
 */
const char *kvs_version(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* KVS_H */
