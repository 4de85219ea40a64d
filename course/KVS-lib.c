/*
 * KVS-lib.c - KVS-lib.o: the six functions with the behaviour of the original library.
 *
 * packaging/build links these functions with those of the library, whose names begin with
 * kvs_course_ here. The wrappers print errors on standard output, as the programs of the course
 * expect, and maintain the variables that the original library shared with its program. A program
 * may define all of these variables, some, or none. The variables are weak symbols: one that the
 * program does not define has the address NULL here.
 *
 * The library's callback thread reports a forced close: the group was deleted, or the server has
 * closed the connection or was killed. Everything else happens on the thread of the caller.
 * The mutex is never held during a call of the library or while printing. As in the library,
 * pthread_cancel takes effect after a call.
 */

#define _GNU_SOURCE

#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "kvs-course.h"
#include "kvs.h"

#define SHARED extern __attribute__((weak))

/* The descriptors of the two sockets, -1 without a connection. */
SHARED int cfd, cfd_cb;

/* The addresses of both ends of both sockets. */
SHARED struct sockaddr_un cl_addr, sv_addr, cl_addr_cb, sv_addr_cb;

/* A thread that the program may cancel before it calls close_connection. See placeholder(). */
SHARED pthread_t callback_tid;

/* A forced close cancels the program's thread tid, then sets exit_flag to 1. */
SHARED pthread_t tid;
SHARED int exit_flag;

/* The six functions of the library; packaging/build gives them these names. */
int kvs_course_put_value(const char *key, const char *value);
int kvs_course_get_value(const char *key, char **value);
int kvs_course_delete_value(const char *key);
int kvs_course_register_callback(const char *key, void (*callback_function)(char *));
int kvs_course_close_connection(void);

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

/* Connections have numbers, counted from 1. The connection that the variables describe; 0: none. */
static uintptr_t current;

/*
 * The highest number in use; the last connection that was opened, that the program closed, and that
 * ended otherwise.
 */
static uintptr_t last_number, last_opened, last_closed, last_ended;

/* The thread of callback_tid: whether it runs in this process, and whether it is to exit. */
static bool has_placeholder, placeholder_exits;
static pthread_cond_t placeholder_exit = PTHREAD_COND_INITIALIZER;

/*
 * begin() and end() enclose each function and defer cancellation to its end. begin() is a
 * cancellation point: otherwise a thread that does nothing but call these functions could never be
 * cancelled.
 */
static int begin(void)
{
    int before;

    pthread_testcancel();
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
    return before;
}

static int end(int before, int code)
{
    pthread_setcancelstate(before, NULL);
    return code;
}

static void set_descriptors(int main_fd, int callback_fd)
{
    if (&cfd != NULL)
        cfd = main_fd;
    if (&cfd_cb != NULL)
        cfd_cb = callback_fd;
}

static void set_address(struct sockaddr_un *variable, const struct sockaddr_un *address)
{
    if (variable != NULL)
        *variable = *address;
}

/* Resets the variables if they describe this connection. The caller holds the mutex. */
static void clear_variables(uintptr_t connection)
{
    if (current == connection) {
        current = 0;
        set_descriptors(-1, -1);
    }
}

/* fork() runs with the mutex held, so that it is unlocked in the child. */
static void before_fork(void)
{
    pthread_mutex_lock(&mutex);
}

static void after_fork(void)
{
    pthread_mutex_unlock(&mutex);
}

/* The child has no connection and none of the threads. */
static void in_child(void)
{
    last_closed = last_number;
    has_placeholder = false;
    /* The condition variable of the parent has a waiter that does not exist here. */
    placeholder_exit = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
    clear_variables(current);
    pthread_mutex_unlock(&mutex);
}

/* Runs before main. */
__attribute__((constructor)) static void prepare(void)
{
    set_descriptors(-1, -1);
    pthread_atfork(before_fork, after_fork, in_child);
}

/*
 * The thread of callback_tid, which programs of the course cancel. The library's callback thread
 * must not be cancelled, so this thread takes its place: it does nothing, ignores cancellation, and
 * runs until the program closes the connection, so that callback_tid stays valid until then.
 */
static void *placeholder(void *unused)
{
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
    pthread_mutex_lock(&mutex);
    while (!placeholder_exits)
        pthread_cond_wait(&placeholder_exit, &mutex);
    placeholder_exits = false;
    pthread_mutex_unlock(&mutex);
    return unused;
}

/* Starts the placeholder if the program has a callback_tid. The caller holds the mutex. */
static bool start_placeholder(void)
{
    pthread_attr_t attributes;
    sigset_t all, before;

    if (&callback_tid == NULL || has_placeholder)
        return true;
    placeholder_exits = false;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, PTHREAD_STACK_MIN + 32 * 1024);
    has_placeholder = pthread_create(&callback_tid, &attributes, placeholder, NULL) == 0;
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return has_placeholder;
}

/* The caller holds the mutex. */
static void end_placeholder(void)
{
    if (has_placeholder) {
        has_placeholder = false;
        placeholder_exits = true;
        pthread_cond_signal(&placeholder_exit);
    }
}

static uintptr_t current_connection(void)
{
    uintptr_t connection;

    pthread_mutex_lock(&mutex);
    connection = current;
    pthread_mutex_unlock(&mutex);
    return connection;
}

/* Prints the error of a call, and resets the variables if it closed this connection. */
static int report(uintptr_t connection, int code)
{
    switch (code) {
    case KVS_ERROR_SEND_REQUEST:
    case KVS_ERROR_RECEIVE_READY:
    case KVS_ERROR_NOT_READY:
    case KVS_ERROR_SEND_STRING:
    case KVS_ERROR_RECEIVE_ANSWER:
    case KVS_ERROR_RECEIVE_VALUE:
        pthread_mutex_lock(&mutex);
        clear_variables(connection);
        pthread_mutex_unlock(&mutex);
    }
    if (code < 0)
        printf("App: %s\n", kvs_strerror(code));
    return code;
}

/* The connection has ended other than by close_connection. Runs on the library's thread. */
static void forced_close(void *user, int reason)
{
    uintptr_t connection = (uintptr_t)user;
    bool is_forced;

    (void)reason;
    pthread_mutex_lock(&mutex);
    last_ended = connection;
    clear_variables(connection);
    /* After a failed call the program may have closed the connection or opened another one. */
    is_forced = connection > last_closed && connection >= last_opened;
    pthread_mutex_unlock(&mutex);
    if (!is_forced)
        return;
    printf("App: Closing connection due to deletion of group or closed server\n");
    if (&tid != NULL && tid != 0)
        pthread_cancel(tid);
    if (&exit_flag != NULL)
        __atomic_store_n(&exit_flag, 1, __ATOMIC_RELEASE);
}

int establish_connection(const char *group_id, const char *secret)
{
    kvs_course_sockets sockets;
    int code, before = begin();
    uintptr_t connection, previous;
    bool is_ready;

    pthread_mutex_lock(&mutex);
    previous = current;
    connection = ++last_number;
    is_ready = start_placeholder();
    pthread_mutex_unlock(&mutex);
    if (!is_ready)
        return end(before, report(0, KVS_ERROR_INVALID));
    code = kvs_course_open(group_id, secret, &sockets, forced_close, (void *)connection);
    if (code < 0)
        /* An error does not affect a connection that existed before. */
        return end(before, report(0, code));

    pthread_mutex_lock(&mutex);
    last_opened = connection;
    /* The previous connection had broken, and no call had noticed that. */
    clear_variables(previous);
    if (last_ended != connection) {
        current = connection;
        set_descriptors(sockets.main_fd, sockets.callback_fd);
        set_address(&cl_addr, &sockets.own);
        set_address(&sv_addr, &sockets.server);
        set_address(&cl_addr_cb, &sockets.own_callback);
        set_address(&sv_addr_cb, &sockets.server_callback);
    }
    pthread_mutex_unlock(&mutex);
    return end(before, code);
}

int put_value(const char *key, const char *value)
{
    int before = begin();
    uintptr_t connection = current_connection();
    int code = kvs_course_put_value(key, value);

    /* This only asks whether the process is connected: see Disconnection in kvs.h. */
    if (key == NULL && value == NULL)
        return end(before, code);
    return end(before, report(connection, code));
}

int get_value(const char *key, char **value)
{
    int before = begin();
    uintptr_t connection = current_connection();

    return end(before, report(connection, kvs_course_get_value(key, value)));
}

int delete_value(const char *key)
{
    int before = begin();
    uintptr_t connection = current_connection();

    return end(before, report(connection, kvs_course_delete_value(key)));
}

int register_callback(const char *key, void (*callback_function)(char *))
{
    int before = begin();
    uintptr_t connection = current_connection();

    return end(before, report(connection, kvs_course_register_callback(key, callback_function)));
}

int close_connection(void)
{
    int code, before = begin();
    uintptr_t connection = current_connection();

    code = kvs_course_close_connection();
    /* After KVS_ERROR_INVALID the connection is still open. */
    if (code != KVS_ERROR_INVALID) {
        pthread_mutex_lock(&mutex);
        /* After KVS_ERROR_NOT_CONNECTED it was a forced close, which is reported as such. */
        if (code != KVS_ERROR_NOT_CONNECTED && connection > last_closed)
            last_closed = connection;
        clear_variables(connection);
        end_placeholder();
        pthread_mutex_unlock(&mutex);
    }
    return end(before, report(0, code));
}
