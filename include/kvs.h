/*
 * kvs.h - key-value pairs shared by the programs of one machine, with callbacks on changes
 *
 * Generated from build/head.txt and kvs-lib/src/capi; changes belong there.
 *
 * A program, here and in all texts of the project, is a process that uses this library; the
 * server's messages call it a client or an application. A program joins a group at the local server
 * (KVS-LocalServer) with the name and the secret of the group. All programs of a group read and
 * write the same pairs of a key and a value. A program can watch a key: the library then calls a
 * function of the program, the callback, when any program puts that key.
 *
 *     kvs_t *kvs;
 *     if (kvs_open(&kvs, "weather", secret) == 0) {
 *         kvs_put(kvs, "celsius", 7, "21.5", 4, NULL);
 *         kvs_close(kvs);
 *     }
 *
 * Compile and link with
 *
 *     cc program.c -lkvs
 *
 * or, for a library that the compiler does not find without help, with the flags of pkg-config:
 *
 *     cc program.c $(pkg-config --cflags --libs kvs)
 *
 * Set KVS_DEBUG=1 in the environment of a program to see the cause of each error on stderr.
 *
 * Six functions
 *   establish_connection, put_value, get_value, delete_value, register_callback and
 *   close_connection are the functions of the original system. A process has one connection for
 *   them. Keys and values are C strings. These functions return 1 for success, establish_connection
 *   0.
 *
 * kvs_ functions
 *   A process can have any number of connections. kvs_open creates each of them and returns a
 *   pointer to it, a kvs_t *: the handle, which all other functions take. Keys and values are bytes
 *   with a length. Values have versions, so that kvs_cas can replace one only if it is unchanged;
 *   kvs_put_many stores pairs atomically, kvs_keys lists keys, kvs_watch_prefix watches many keys
 *   at once. These functions return 0 for success. A program may use both kinds of functions.
 *
 * Versions
 *   The version of a value is a number greater than 0. Each put takes the next number from one
 *   counter of the group, so versions of all keys grow with time. A version is never reused while
 *   the group exists, not even after the key was deleted. 0 stands for a key that does not exist.
 *
 * Protocols
 *   A local server of this project speaks protocol v2: each call is one round trip, and the server
 *   acknowledges it. The library uses protocol v1, that of the original system, if the server
 *   speaks no other, if the environment has KVS_PROTOCOL=original, or if the group name has more
 *   than 95 bytes. Then keys and values have at most KVS_MAX_TEXT bytes without NUL, a put is not
 *   acknowledged, there are no versions, and the functions that need protocol v2 return
 *   KVS_ERROR_UNSUPPORTED. kvs_protocol returns the protocol of a connection. Programs with both
 *   protocols can be in one group. For a get with v1, a pair whose value has a NUL or more than
 *   KVS_MAX_TEXT bytes does not exist: it returns KVS_ERROR_NOT_FOUND.
 *
 * Limits
 *   Group names and secrets are NUL-terminated and have 1 to KVS_MAX_TEXT bytes. Keys have 1 to
 *   KVS_MAX_KEY bytes, values 0 to as many as the server accepts, at most KVS_MAX_VALUE. A longer
 *   value is rejected with KVS_ERROR_INVALID, and the connection stays open. A pair that programs
 *   with protocol v1 in the same group read must stay within the limits of v1. The server limits
 *   the pairs and the memory of each user: see KVS_ERROR_LIMIT.
 *
 * Memory
 *   The library reads the strings and bytes that are passed to it only during the call. A value
 *   from get_value or kvs_get belongs to the program, which releases it with free().
 *
 * Threads
 *   Any thread may call any function at any time, callbacks included, except that kvs_close must be
 *   the last use of a handle. With protocol v2 threads do not wait for each other; with v1 the
 *   library serialises the calls on a connection.
 *
 * Callbacks
 *   Each connection has one thread of the library, which calls all callbacks of this connection one
 *   after the other, with all signals blocked. A callback may call any function of this library and
 *   may block; meanwhile the events of further changes are queued. Only when many events are
 *   pending does the server coalesce those of one key into a single event with the last version: a
 *   callback may be called for each of many quick puts, or for some of them. The event of the last
 *   change of a key is never lost while the connection is open. If the pending events exceed the
 *   memory that the server grants the user, the server closes the connection. A callback may exit
 *   the process. pthread_exit ends only this call of the callback. A callback must not leave by
 *   longjmp or a C++ exception: no frame of the program is below it.
 *
 * Timeouts
 *   No call waits for the server longer than KVS_TIMEOUT_MS. The code of a timeout says what the
 *   call was waiting for:
 *
 *     KVS_ERROR_CONNECT         the server to accept the connection
 *     KVS_ERROR_NO_GREETING     the server's first response, on a new connection
 *     KVS_ERROR_RECEIVE_ANSWER  the response to a login, a put, a deletion or another request
 *     KVS_ERROR_RECEIVE_READY   get_value and kvs_get: the response; protocol v1: the ready
 *                               flag, by which the server accepts a request
 *     KVS_ERROR_RECEIVE_VALUE   protocol v1: the bytes of a value
 *     KVS_ERROR_SEND_REQUEST, KVS_ERROR_SEND_STRING
 *                               room in the socket to send the request
 *     KVS_ERROR_INVALID         another thread of the program, or a running callback
 *
 *   All but KVS_ERROR_INVALID close the connection.
 *
 * fork
 *   A child process starts without a connection and may open its own. Connections of the parent are
 *   not affected. In the child, functions return KVS_ERROR_NOT_CONNECTED for a handle of the
 *   parent, except kvs_protocol, which still works. The child releases the handle with kvs_close.
 *
 * Signals
 *   The library installs no signal handlers and raises no signals (no SIGPIPE). The functions are
 *   not cancellation points: pthread_cancel takes effect at the first cancellation point after the
 *   call. A thread must not have PTHREAD_CANCEL_ASYNCHRONOUS set during a call.
 *
 * Disconnection
 *   The server closes a connection when the group is deleted, when the server exits, and when the
 *   pending events of a program exceed the limit of its user. After any of the errors that close a
 *   connection, or when the server closes it, calls return KVS_ERROR_NOT_CONNECTED. A program with
 *   the six functions then calls establish_connection again; a kvs_t is of no further use: pass it
 *   to kvs_close. After reconnecting, the program must register its callbacks again.
 *   kvs_on_disconnect reports the end of a kvs_t. The six functions have no such report:
 *   put_value(NULL, NULL) sends nothing and returns KVS_ERROR_INVALID while the process is
 *   connected, KVS_ERROR_NOT_CONNECTED otherwise. When the server was killed, the first call
 *   returns one of the errors that close the connection, usually KVS_ERROR_SEND_REQUEST, and later
 *   ones KVS_ERROR_NOT_CONNECTED. put_value(NULL, NULL) does not count as that first call, nor does
 *   kvs_on_disconnect's function: the first kvs_ call after it may still return such an error.
 *
 * Output
 *   The library prints nothing unless KVS_DEBUG is set. With KVS_DEBUG=1 it prints one line to
 *   stderr for each call that returns an error, with the cause: which argument was invalid, which
 *   system call failed. put_value(NULL, NULL) is not reported. One exception: when the library
 *   finds a bug in itself, it prints one line to stderr, the call returns KVS_ERROR_INVALID, and
 *   the connection closes.
 *
 * Environment
 *   The library reads these variables in establish_connection and kvs_open. An empty variable
 *   counts as unset.
 *
 *     KVS_SOCKET           path of the server's socket; default: /tmp/server_sock
 *     KVS_CALLBACK_SOCKET  path of the server's callback socket; default: that of KVS_SOCKET with
 *                          _cb appended
 *     KVS_TIMEOUT_MS       how long a call waits for the server, in milliseconds, from 1 to
 *                          2147483647; default: 5000
 *     KVS_PROTOCOL         "original" for protocol v1; "best", the default, for v2 if the server
 *                          speaks it
 *     KVS_DEBUG            1, or any other text but 0: print the cause of each error to stderr
 *
 * Errors
 *   Errors are negative, and each function lists those that it returns. These close a connection
 *   that was open: KVS_ERROR_SEND_REQUEST, KVS_ERROR_RECEIVE_READY, KVS_ERROR_NOT_READY,
 *   KVS_ERROR_SEND_STRING, KVS_ERROR_RECEIVE_ANSWER, KVS_ERROR_RECEIVE_VALUE. kvs_strerror returns
 *   the text of an error.
 */

#ifndef KVS_H
#define KVS_H

#include <stddef.h>
#include <stdint.h>

/* Closing a socket failed; it is closed nevertheless. */
#define KVS_ERROR_CLOSE (-1)
/* There is no connection, or a socket could not be created. */
#define KVS_ERROR_NOT_CONNECTED (-2)
/* Sending a request failed; the connection is closed. */
#define KVS_ERROR_SEND_REQUEST (-3)
/*
 * get_value and kvs_get: receiving the response failed or timed out. Protocol v1: the server did
 * not send the ready flag, which says whether it accepts a request. The connection is closed.
 */
#define KVS_ERROR_RECEIVE_READY (-4)
/*
 * Protocol v1 and the six functions: the server refused the request, usually because the user has
 * reached a limit; the connection is closed.
 */
#define KVS_ERROR_NOT_READY (-5)
/* Sending a key, a value, a group name or a secret failed; the connection is closed. */
#define KVS_ERROR_SEND_STRING (-6)
/* There is no such key, group or watch, depending on the function. */
#define KVS_ERROR_NOT_FOUND (-7)
/*
 * Receiving the response to a login or a request other than get failed or timed out; the
 * connection is closed.
 */
#define KVS_ERROR_RECEIVE_ANSWER (-8)
/* The group has another secret. */
#define KVS_ERROR_WRONG_SECRET (-9)
/* Receiving a value failed; the connection is closed. */
#define KVS_ERROR_RECEIVE_VALUE (-10)
/* bind(2) of a socket of the library failed. */
#define KVS_ERROR_BIND (-11)
/* connect(2) to the server failed, or the path of its socket is too long. */
#define KVS_ERROR_CONNECT (-12)
/*
 * The server accepted the connection but did not send its first response, the greeting, within
 * the timeout.
 */
#define KVS_ERROR_NO_GREETING (-13)
/* The server refused the connection. */
#define KVS_ERROR_REFUSED (-14)
/* An argument is invalid, or an error occurred that has no code of its own. */
#define KVS_ERROR_INVALID (-15)
/* establish_connection: the process is connected already. */
#define KVS_ERROR_ALREADY_CONNECTED (-16)
/* The function needs protocol v2, and the connection uses protocol v1. */
#define KVS_ERROR_UNSUPPORTED (-17)
/* kvs_cas: the key has another version. */
#define KVS_ERROR_CONFLICT (-18)
/*
 * kvs_ functions with protocol v2: the user has reached a limit of the server; nothing was
 * changed.
 */
#define KVS_ERROR_LIMIT (-19)

/*
 * The longest group name and secret, in bytes without the terminating NUL; with protocol v1 also
 * the longest key and value.
 */
#define KVS_MAX_TEXT 99

/* The longest key, in bytes. */
#define KVS_MAX_KEY 65536

/*
 * The longest value that any server accepts, in bytes. Each server has a limit of its own,
 * 16777216 unless its administrator changes it.
 */
#define KVS_MAX_VALUE 67108864

/*
 * A connection to a group. An opaque type: kvs_open creates it, kvs_close releases it. A pointer
 * to it is called a handle.
 */
typedef struct kvs_t kvs_t;

/* A key and its value, for kvs_put_many. */
typedef struct kvs_pair_t {
    /* `key_len` bytes, 1 to KVS_MAX_KEY. */
    const void *key;
    size_t key_len;
    /* `value_len` bytes; may be NULL if `value_len` is 0. */
    const void *value;
    size_t value_len;
} kvs_pair_t;

/*
 * The type of a function that kvs_keys calls for each key, on the thread that has called kvs_keys.
 *
 *   key   `key_len` bytes without a NUL after them, valid until the function returns
 *   user  the pointer that was passed to kvs_keys
 */
typedef void (*kvs_key_fn)(const void *key, size_t key_len, void *user);

/*
 * The type of a function that kvs_watch or kvs_watch_prefix registers. See Callbacks at the top of
 * kvs.h and in kvs(3).
 *
 *   key      the key that has changed: `key_len` bytes followed by a NUL, valid until the function
 *            returns
 *   version  the version of the value that was put; 0 if the key was deleted, and always 0 with
 *            protocol v1
 *   user     the pointer that was registered with the function
 *
 * The callback of a key is not called when the key is deleted. If another connection puts and then
 * deletes the key before the callback ran for the put, the callback still runs, with the version
 * of that put; if the watching connection deletes the key, the pending call is dropped. If the
 * connection also watches a prefix of the key, the server may coalesce the events of the put and
 * the deletion; then both callbacks run with version 0.
 */
typedef void (*kvs_watch_fn)(const void *key, size_t key_len, uint64_t version, void *user);

/*
 * The type of a function that kvs_on_disconnect registers.
 *
 *   user    the pointer that was registered with the function
 *   reason  why the connection ended, as one of the codes below. Print a text of your own for it:
 *           kvs_strerror describes results of calls
 *
 * `reason` is
 *   KVS_ERROR_NOT_CONNECTED  the server closed the connection: the group was deleted, or the
 *                            server is shutting down; the two cannot be distinguished
 *   KVS_ERROR_RECEIVE_ANSWER
 *                            the connection was lost, because the server was killed or the pending
 *                            events exceeded the user's limit; a call timed out; or the server
 *                            violated the protocol
 *   KVS_ERROR_NOT_READY      protocol v1: the server refused a request, for example at a limit
 *   KVS_ERROR_INVALID        the library could not continue, for example for lack of memory
 *
 * The call that fails at the same time may return another code, such as KVS_ERROR_SEND_REQUEST.
 */
typedef void (*kvs_disconnect_fn)(void *user, int reason);

#ifdef __cplusplus
extern "C" {
#endif /* __cplusplus */

/* The six functions: one connection per process ------------------------------------------------ */

/*
 * Join a group by connecting the process to the local server.
 *
 *   group_id  name of the group, 1 to KVS_MAX_TEXT bytes
 *   secret    secret of the group, 1 to KVS_MAX_TEXT bytes
 *
 * Returns 0 when the process is connected, or
 *   KVS_ERROR_NOT_FOUND      there is no group with this name
 *   KVS_ERROR_WRONG_SECRET   the group has another secret
 *   KVS_ERROR_ALREADY_CONNECTED
 *                            the process is connected already
 *   KVS_ERROR_CONNECT        no server listens at the path, or the path is too long
 *   KVS_ERROR_REFUSED        the server refused the connection
 *   KVS_ERROR_RECEIVE_ANSWER
 *                            the server did not answer the login within the timeout: the
 *                            authentication server may be unreachable; or, at once: this user has
 *                            just sent several wrong secrets. A right one is then refused, too,
 *                            unless a login of this user to the group has succeeded before
 *   KVS_ERROR_SEND_STRING    the group name or the secret could not be sent
 *   KVS_ERROR_NO_GREETING    the server accepted the connection but did not send its first
 *                            response within the timeout
 *   KVS_ERROR_BIND           a socket of the library could not be bound
 *   KVS_ERROR_NOT_CONNECTED  a socket could not be created
 *   KVS_ERROR_INVALID        a string is NULL, empty or too long, KVS_TIMEOUT_MS or KVS_PROTOCOL
 *                            has an invalid value, another thread was connecting until the
 *                            timeout, or the system refused a thread or memory
 *
 * The function reads the environment variables (see Environment at the top of kvs.h and in
 * kvs(3)). After an error nothing stays open, and a connection that existed before is not
 * affected.
 */
int establish_connection(const char *group_id, const char *secret);

/*
 * Store `value` under `key`, replacing any previous value, and notify every watch on the key.
 *
 *   key    NUL-terminated, 1 to KVS_MAX_KEY bytes
 *   value  NUL-terminated, may be empty; for its longest length see KVS_MAX_VALUE
 *
 * Returns 1 when the value is stored, or
 *   KVS_ERROR_NOT_CONNECTED  there is no connection
 *   KVS_ERROR_INVALID        an argument is NULL or too long (the value: for this server), the key
 *                            is empty, or other threads kept the connection busy until the
 *                            timeout; nothing was changed, and the connection stays open
 *   KVS_ERROR_NOT_READY      the user has reached a limit, or the connection broke; it is closed
 *   KVS_ERROR_SEND_REQUEST, KVS_ERROR_RECEIVE_READY, KVS_ERROR_SEND_STRING,
 *   KVS_ERROR_RECEIVE_ANSWER, KVS_ERROR_RECEIVE_VALUE
 *                            the connection broke and is closed; whether the value was stored is
 *                            unknown
 *
 * With protocol v1 key and value have at most KVS_MAX_TEXT bytes, and the server does not
 * acknowledge a put: the function returns when the value has been sent. Every later call in this
 * process sees the value; another process may still see the previous one for a moment.
 */
int put_value(const char *key, const char *value);

/*
 * Read the value of `key`.
 *
 *   key    NUL-terminated, 1 to KVS_MAX_KEY bytes
 *   value  receives a NUL-terminated copy of the value; the caller releases it with free(). NULL
 *          after an error
 *
 * Returns 1 when `*value` is set, or
 *   KVS_ERROR_NOT_FOUND      there is no such key
 *   KVS_ERROR_NOT_CONNECTED  there is no connection
 *   KVS_ERROR_INVALID        an argument is NULL, the key is empty or too long, other threads kept
 *                            the connection busy until the timeout, or there is no memory
 *   KVS_ERROR_NOT_READY      the values that programs of this user have requested and not yet read
 *                            use all memory that the server grants the user, or the connection
 *                            broke; it is closed
 *   KVS_ERROR_SEND_REQUEST, KVS_ERROR_RECEIVE_READY, KVS_ERROR_SEND_STRING,
 *   KVS_ERROR_RECEIVE_VALUE
 *                            the connection broke and is closed
 *
 * A value that kvs_put has stored may contain NUL bytes. The copy has all bytes of it, but string
 * functions stop at the first NUL.
 */
int get_value(const char *key, char **value);

/*
 * Delete the pair of `key` and the watches on this key of all programs in the group.
 *
 *   key  NUL-terminated, 1 to KVS_MAX_KEY bytes
 *
 * Returns 1 when the pair is deleted, or
 *   KVS_ERROR_NOT_FOUND      there is no such key
 *   KVS_ERROR_NOT_CONNECTED  there is no connection
 *   KVS_ERROR_INVALID        the key is NULL, empty or too long, or other threads kept the
 *                            connection busy until the timeout; nothing was changed
 *   KVS_ERROR_SEND_REQUEST, KVS_ERROR_RECEIVE_READY, KVS_ERROR_NOT_READY, KVS_ERROR_SEND_STRING,
 *   KVS_ERROR_RECEIVE_ANSWER
 *                            the connection broke and is closed
 *
 * A deletion calls only callbacks of prefixes (see kvs_watch_prefix), not those of the key.
 */
int delete_value(const char *key);

/*
 * Watch a key by having a function called whenever any program of the group, this one included,
 * puts the key.
 *
 *   key                NUL-terminated, 1 to KVS_MAX_KEY bytes; the key must exist
 *   callback_function  the function to call; it replaces one that was registered for the key
 *                      before. Its argument is a NUL-terminated copy of the key, valid until it
 *                      returns
 *
 * Returns 1 when the key is watched, or
 *   KVS_ERROR_NOT_FOUND      there is no such key
 *   KVS_ERROR_NOT_CONNECTED  there is no connection
 *   KVS_ERROR_INVALID        an argument is NULL, the key is empty or too long, or other threads
 *                            kept the connection busy until the timeout; nothing was changed
 *   KVS_ERROR_NOT_READY      the user has reached a limit, or the connection broke; it is closed
 *   KVS_ERROR_SEND_REQUEST, KVS_ERROR_RECEIVE_READY, KVS_ERROR_SEND_STRING,
 *   KVS_ERROR_RECEIVE_ANSWER
 *                            the connection broke and is closed
 *
 * The function runs on a thread of the library: see Callbacks at the top of kvs.h and in kvs(3).
 * The value is stored before the function is called: get_value in the function returns this value
 * or a newer one, and another call follows for the newer one. Quick puts may be coalesced into one
 * call. To miss nothing, register the function first, then get the value.
 *
 * The watch ends, without a call, when the key is deleted or the connection is closed. A program
 * that expects the key to be deleted and put again can register the function again periodically,
 * for example once a second: a registration replaces the previous one, so that the function is
 * called once per change. Until the connection is closed, the function must stay callable.
 */
int register_callback(const char *key, void (*callback_function)(char *));

/*
 * Leave the group, end all watches and close the connection.
 *
 * Returns 1 when the connection is closed, or
 *   KVS_ERROR_NOT_CONNECTED  there is no connection
 *   KVS_ERROR_CLOSE          closing a socket failed; the connection is closed nevertheless
 *   KVS_ERROR_SEND_REQUEST   the server could not be notified, because it was killed for example;
 *                            the connection is closed nevertheless
 *   KVS_ERROR_INVALID        other threads kept the connection busy until the timeout; it stays
 *                            open
 *
 * No callback begins after the function has returned, but one that has begun before may still be
 * running.
 */
int close_connection(void);

/* For every program ---------------------------------------------------------------------------- */

/*
 * Return the English text of a code that a function has returned.
 *
 *   code  any number
 *
 * Returns a constant string without a line feed, which must not be changed or released: "no error"
 * for 0 and 1, a text for each KVS_ERROR_ code, and "unknown error code" for all others. It needs
 * no connection.
 */
const char *kvs_strerror(int code);

/*
 * Return the version of the library, such as "1.0.0".
 *
 * Returns a constant string, which must not be changed or released.
 */
const char *kvs_version(void);

/* The kvs_ functions: any number of connections ------------------------------------------------ */

/*
 * Join a group by opening a connection to the local server.
 *
 *   kvs     receives the handle for the other kvs_ functions, NULL after an error; the caller
 *           releases it with kvs_close
 *   group   name of the group, 1 to KVS_MAX_TEXT bytes
 *   secret  secret of the group, 1 to KVS_MAX_TEXT bytes
 *
 * Returns 0 when the connection is open, or an error of establish_connection, but never
 * KVS_ERROR_ALREADY_CONNECTED. KVS_ERROR_INVALID also if `kvs` is NULL.
 *
 * A process can have any number of these connections, to the same group or to different ones,
 * besides that of establish_connection. The function reads the same environment variables. Any
 * number of threads and callbacks can use a handle at the same time; with protocol v2 no thread
 * waits for the round trip of another.
 *
 * After fork a handle is of no use in the child: functions except kvs_protocol return
 * KVS_ERROR_NOT_CONNECTED. The child releases the handle with kvs_close and opens its own.
 */
int kvs_open(kvs_t **kvs, const char *group, const char *secret);

/*
 * Leave the group, close the connection and release the handle.
 *
 *   kvs  a handle from kvs_open, or NULL. It is released whatever the function returns, so this
 *        must be the last use of the handle, and no other thread may be using it
 *
 * Returns 0 when the connection is closed, or
 *   KVS_ERROR_NOT_CONNECTED  the connection was closed before: by the server, or by an error
 *   KVS_ERROR_CLOSE          closing a socket failed; the connection is closed nevertheless
 *   KVS_ERROR_SEND_REQUEST   the server could not be notified, because it was killed for example;
 *                            the connection is closed nevertheless
 *   KVS_ERROR_INVALID        `kvs` is NULL, or a callback has not returned within the timeout and
 *                            is still running
 *
 * When the function has returned, no callback of the handle runs or will run, with two exceptions:
 * the callback that kvs_close was called from, and one that has exceeded the timeout.
 */
int kvs_close(kvs_t *kvs);

/*
 * Return the protocol of the connection.
 *
 *   kvs  a handle from kvs_open
 *
 * Returns 2 for protocol v2, 1 for protocol v1 (see Protocols at the top of kvs.h and in kvs(3)),
 * or
 *   KVS_ERROR_INVALID  `kvs` is NULL
 */
int kvs_protocol(const kvs_t *kvs);

/*
 * Store `value` under `key`, replacing any previous value, and notify every watch on the key.
 *
 *   kvs      a handle from kvs_open
 *   key      `key_len` bytes, 1 to KVS_MAX_KEY, any bytes
 *   value    `value_len` bytes, any bytes; may be NULL if `value_len` is 0. For the longest value
 *            see KVS_MAX_VALUE
 *   version  receives the new version of the key (see Versions at the top of kvs.h and in kvs(3)),
 *            0 with protocol v1 and after an error; may be NULL
 *
 * Returns 0 when the value is stored, or
 *   KVS_ERROR_NOT_CONNECTED  the connection is closed
 *   KVS_ERROR_INVALID        an argument is NULL or too long (the value: for this server), the key
 *                            is empty, or (protocol v1) other threads kept the connection busy
 *                            until the timeout; nothing was changed, and the connection stays open
 *   KVS_ERROR_LIMIT          protocol v2: the user has reached the limit of pairs or bytes;
 *                            nothing was changed
 *   KVS_ERROR_NOT_READY      protocol v1: the user has reached a limit, or the connection broke;
 *                            it is closed
 *   KVS_ERROR_SEND_REQUEST, KVS_ERROR_RECEIVE_READY, KVS_ERROR_SEND_STRING,
 *   KVS_ERROR_RECEIVE_ANSWER, KVS_ERROR_RECEIVE_VALUE
 *                            the connection broke and is closed; whether the value was stored is
 *                            unknown
 *
 * With protocol v1 the server does not acknowledge a put: see put_value.
 */
int kvs_put(kvs_t *kvs, const void *key, size_t key_len, const void *value, size_t value_len,
            uint64_t *version);

/*
 * Store all of `pairs` atomically: after an error none is stored, and no reader ever sees only a
 * part of them.
 *
 *   kvs      a handle from kvs_open
 *   pairs    `count` pairs; if a key occurs several times, its last value counts
 *   count    1 to 10,000
 *   version  receives the version of the last pair, 0 after an error; may be NULL
 *
 * Returns 0 when the pairs are stored, or
 *   KVS_ERROR_NOT_CONNECTED  the connection is closed
 *   KVS_ERROR_INVALID        there is no pair, there are too many, an argument is NULL or too
 *                            long, or a key is empty; nothing was changed
 *   KVS_ERROR_LIMIT          the user has reached the limit of pairs or bytes; nothing was changed
 *   KVS_ERROR_UNSUPPORTED    the connection uses protocol v1
 *   KVS_ERROR_SEND_REQUEST, KVS_ERROR_RECEIVE_ANSWER
 *                            the connection broke and is closed; whether the pairs were stored is
 *                            unknown
 *
 * All keys and values together, with 8 bytes for each pair, may exceed the longest value of the
 * server by 65,600 bytes at most. In a group with watches the number of pairs is limited further:
 * the number of connected programs plus the number of different lengths of watched prefixes,
 * multiplied by the number of pairs, must not exceed 200,000.
 */
int kvs_put_many(kvs_t *kvs, const kvs_pair_t *pairs, size_t count, uint64_t *version);

/*
 * Read the value and the version of `key`.
 *
 *   kvs        a handle from kvs_open
 *   key        `key_len` bytes, 1 to KVS_MAX_KEY, any bytes
 *   value      receives a copy of the value, followed by a NUL that `*value_len` does not count;
 *              the caller releases it with free(). NULL after an error
 *   value_len  receives the length of the value in bytes, 0 after an error; may be NULL
 *   version    receives the version of the value, 0 after an error and with protocol v1; may be
 *              NULL
 *
 * Returns 0 when `*value` is set, or
 *   KVS_ERROR_NOT_FOUND      there is no such key
 *   KVS_ERROR_NOT_CONNECTED  the connection is closed
 *   KVS_ERROR_INVALID        an argument is NULL, the key is empty or too long, there is no
 *                            memory, or (protocol v1) other threads kept the connection busy until
 *                            the timeout
 *   KVS_ERROR_LIMIT          protocol v2: the values that programs of this user have requested and
 *                            not yet read use all memory that the server grants the user
 *   KVS_ERROR_NOT_READY      protocol v1: as KVS_ERROR_LIMIT, or the connection broke; it is
 *                            closed
 *   KVS_ERROR_SEND_REQUEST, KVS_ERROR_RECEIVE_READY, KVS_ERROR_SEND_STRING,
 *   KVS_ERROR_RECEIVE_ANSWER, KVS_ERROR_RECEIVE_VALUE
 *                            the connection broke and is closed
 *
 * After KVS_ERROR_NOT_FOUND, too, `*version` can be passed to kvs_cas, which then stores a value
 * only if there still is no such key.
 */
int kvs_get(kvs_t *kvs, const void *key, size_t key_len, void **value, size_t *value_len,
            uint64_t *version);

/*
 * Delete the pair of `key` and the watches on this key of all programs in the group.
 *
 *   kvs  a handle from kvs_open
 *   key  `key_len` bytes, 1 to KVS_MAX_KEY, any bytes
 *
 * Returns 0 when the pair is deleted, or
 *   KVS_ERROR_NOT_FOUND      there is no such key
 *   KVS_ERROR_NOT_CONNECTED  the connection is closed
 *   KVS_ERROR_INVALID        an argument is NULL, the key is empty or too long, or other threads
 *                            kept the connection busy until the timeout; nothing was changed
 *   KVS_ERROR_SEND_REQUEST, KVS_ERROR_RECEIVE_READY, KVS_ERROR_NOT_READY, KVS_ERROR_SEND_STRING,
 *   KVS_ERROR_RECEIVE_ANSWER
 *                            the connection broke and is closed
 *
 * A deletion calls only callbacks of prefixes (see kvs_watch_prefix), not those of the key. The C
 * interface has no conditional deletion, as kvs_cas is for puts.
 */
int kvs_delete(kvs_t *kvs, const void *key, size_t key_len);

/*
 * Store `value` under `key` if the key has a given version (compare and swap).
 *
 *   kvs      a handle from kvs_open
 *   key      `key_len` bytes, 1 to KVS_MAX_KEY, any bytes
 *   value    `value_len` bytes, any bytes; may be NULL if `value_len` is 0. For the longest value
 *            see KVS_MAX_VALUE
 *   version  the expected version, 0 for "there is no such key". Receives the version of the key:
 *            the new one after 0, the current one after KVS_ERROR_CONFLICT (0 for no such key);
 *            unchanged after other errors
 *
 * Returns 0 when the value is stored, or
 *   KVS_ERROR_CONFLICT       the key has another version; nothing was changed
 *   KVS_ERROR_NOT_CONNECTED  the connection is closed
 *   KVS_ERROR_INVALID        an argument is NULL or too long (the value: for this server), or the
 *                            key is empty; nothing was changed, and the connection stays open
 *   KVS_ERROR_LIMIT          the user has reached the limit of pairs or bytes; nothing was changed
 *   KVS_ERROR_UNSUPPORTED    the connection uses protocol v1
 *   KVS_ERROR_SEND_REQUEST, KVS_ERROR_RECEIVE_ANSWER
 *                            the connection broke and is closed; whether the value was stored is
 *                            unknown
 */
int kvs_cas(kvs_t *kvs, const void *key, size_t key_len, const void *value, size_t value_len,
            uint64_t *version);

/*
 * List the keys that begin with `prefix`, one page per call:
 *
 *     uint64_t cursor = 0;
 *     do {
 *         code = kvs_keys(kvs, "user:", 5, &cursor, print, NULL);
 *     } while (code == 0 && cursor != 0);
 *
 *   kvs     a handle from kvs_open
 *   prefix  `prefix_len` bytes, 0 to KVS_MAX_KEY; may be NULL if `prefix_len` is 0, which lists
 *           all keys
 *   cursor  where the page begins: 0 for the first one. Receives where the next page begins, 0
 *           after the last one; unchanged after an error
 *   each    called for each key of the page; it must return, and not leave by longjmp or
 *           pthread_exit
 *   user    passed to `each`
 *
 * Returns 0 when the page is complete, or
 *   KVS_ERROR_NOT_CONNECTED  the connection is closed
 *   KVS_ERROR_INVALID        an argument is NULL, or the prefix is longer than a key may be
 *   KVS_ERROR_UNSUPPORTED    the connection uses protocol v1
 *   KVS_ERROR_SEND_REQUEST, KVS_ERROR_RECEIVE_ANSWER
 *                            the connection broke and is closed
 *
 * A page has 0 to 10,000 keys in no particular order; an empty page is not necessarily the last
 * one. A key that exists from the first page to the last is listed exactly once. A key that is put
 * or deleted in the meantime may be missing.
 */
int kvs_keys(kvs_t *kvs, const void *prefix, size_t prefix_len, uint64_t *cursor, kvs_key_fn each,
             void *user);

/*
 * Watch a key by having a function called whenever any program of the group, this one included,
 * puts the key.
 *
 *     static void on_change(const void *key, size_t key_len,
 *                           uint64_t version, void *user)
 *     {
 *         printf("changed: %.*s\n", (int)key_len, (const char *)key);
 *     }
 *
 *     code = kvs_watch(kvs, "celsius", 7, on_change, NULL);
 *
 *   kvs       a handle from kvs_open
 *   key       `key_len` bytes, 1 to KVS_MAX_KEY, any bytes; the key must exist
 *   callback  the function to call; it replaces one that was registered for the key on this handle
 *             before
 *   user      passed to `callback`
 *
 * Returns 0 when the key is watched, or
 *   KVS_ERROR_NOT_FOUND      there is no such key
 *   KVS_ERROR_NOT_CONNECTED  the connection is closed
 *   KVS_ERROR_INVALID        an argument is NULL, the key is empty or too long, or other threads
 *                            kept the connection busy until the timeout
 *   KVS_ERROR_LIMIT          protocol v2: the user has reached a limit
 *   KVS_ERROR_NOT_READY      protocol v1: the user has reached a limit, or the connection broke;
 *                            it is closed
 *   KVS_ERROR_SEND_REQUEST, KVS_ERROR_RECEIVE_READY, KVS_ERROR_SEND_STRING,
 *   KVS_ERROR_RECEIVE_ANSWER
 *                            the connection broke and is closed
 *
 * The callback runs on a thread of the library: see Callbacks at the top of kvs.h and in kvs(3).
 * The value is stored before the callback is called. kvs_get in the callback may return a newer
 * version than that of the event, or a value after an event with version 0; another call follows
 * for it. Quick puts may be coalesced into one call. To miss nothing, watch first, then get.
 *
 * The callback must stay callable with `user` until kvs_unwatch or kvs_close has returned, even if
 * the key is deleted or another callback replaces this one: the library may be calling it at that
 * moment.
 *
 * The watch ends, without a call, when the key is deleted. To be called for deletions too, or to
 * watch a key that does not exist yet, watch the whole name of the key as a prefix, and ignore
 * longer keys (protocol v2 only):
 *
 *     static void on_event(const void *key, size_t key_len,
 *                          uint64_t version, void *user)
 *     {
 *         if (key_len == 7)
 *             puts(version == 0 ? "deleted" : "put");
 *     }
 *
 *     code = kvs_watch_prefix(kvs, "celsius", 7, on_event, NULL);
 */
int kvs_watch(kvs_t *kvs, const void *key, size_t key_len, kvs_watch_fn callback, void *user);

/*
 * Watch all keys that begin with `prefix`, as kvs_watch watches one key.
 *
 *   kvs       a handle from kvs_open
 *   prefix    `prefix_len` bytes, 0 to KVS_MAX_KEY; may be NULL if `prefix_len` is 0, which
 *             watches all keys
 *   callback  the function to call; it replaces one that was registered for the prefix on this
 *             handle before
 *   user      passed to `callback`
 *
 * Returns 0 when the prefix is watched, or
 *   KVS_ERROR_NOT_CONNECTED  the connection is closed
 *   KVS_ERROR_INVALID        an argument is NULL, the prefix is longer than a key may be, or other
 *                            threads kept the connection busy until the timeout
 *   KVS_ERROR_LIMIT          the user has reached a limit
 *   KVS_ERROR_UNSUPPORTED    the connection uses protocol v1
 *   KVS_ERROR_SEND_REQUEST, KVS_ERROR_RECEIVE_ANSWER
 *                            the connection broke and is closed
 *
 * No key with the prefix need exist. The callback is also called for deletions, with version 0,
 * and the watch does not end by them. A deletion and a quick put of the same key may be coalesced
 * into one call for the last of them. A change that matches several watches calls the callback of
 * each. A prefix that is the whole name of a key watches one key with its deletions: see
 * kvs_watch.
 */
int kvs_watch_prefix(kvs_t *kvs, const void *prefix, size_t prefix_len, kvs_watch_fn callback,
                     void *user);

/*
 * Stop calling the callback for `key`.
 *
 *   kvs  a handle from kvs_open
 *   key  `key_len` bytes, 1 to KVS_MAX_KEY, any bytes
 *
 * Returns 0 when the watch has ended, or
 *   KVS_ERROR_NOT_FOUND      the handle does not watch this key, or no longer does, because the
 *                            key was deleted
 *   KVS_ERROR_NOT_CONNECTED  the connection is closed
 *   KVS_ERROR_INVALID        an argument is NULL, the key is empty or too long, other threads kept
 *                            the connection busy until the timeout, or the callback has not
 *                            returned within the timeout and is still running; it is not called
 *                            again
 *   KVS_ERROR_SEND_REQUEST, KVS_ERROR_RECEIVE_ANSWER
 *                            the connection broke and is closed
 *
 * After 0 and KVS_ERROR_NOT_FOUND the callback no longer runs, so that `user` may be released,
 * unless the function was called from a callback of the same handle.
 */
int kvs_unwatch(kvs_t *kvs, const void *key, size_t key_len);

/*
 * Stop calling the callback for `prefix`.
 *
 *   kvs     a handle from kvs_open
 *   prefix  `prefix_len` bytes, 0 to KVS_MAX_KEY; may be NULL if `prefix_len` is 0
 *
 * Returns 0 when the watch has ended, or an error of kvs_unwatch, or
 *   KVS_ERROR_UNSUPPORTED  the connection uses protocol v1
 */
int kvs_unwatch_prefix(kvs_t *kvs, const void *prefix, size_t prefix_len);

/*
 * Register a function that the library calls once when the connection ends other than by
 * kvs_close.
 *
 *   kvs       a handle from kvs_open
 *   callback  the function to call; it replaces one that was registered before
 *   user      passed to `callback`
 *
 * Returns 0 when the function is registered, or
 *   KVS_ERROR_NOT_CONNECTED  the connection has ended already
 *   KVS_ERROR_INVALID        an argument is NULL
 *
 * The function is called when the group was deleted, when the server exits or is killed, and when
 * an error of a call closes the connection. It runs on the library's thread after the last
 * callback, when all watches have ended. A call on the handle after it returns
 * KVS_ERROR_NOT_CONNECTED, or, when the server was killed, first one of the errors that close the
 * connection. The function may call kvs_close. It must stay callable with `user` until kvs_close
 * has returned.
 */
int kvs_on_disconnect(kvs_t *kvs, kvs_disconnect_fn callback, void *user);

#ifdef __cplusplus
} /* extern "C" */
#endif /* __cplusplus */

#endif  /* KVS_H */
