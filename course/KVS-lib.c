/*
 * KVS-lib.c - what KVS-lib.o has besides the library: the habits of the course's own library.
 *
 * packaging/build puts these functions around the library's, whose names begin with kvs_course_ here. They say on
 * standard output what has gone wrong, as the programs of the course expect, and keep the variables up to date that the
 * original library shared with its program. The program may define all of these variables, some, or none: what it does
 * not define has the address NULL here.
 *
 * A forced close (the group was deleted, or the server has closed or gone) is told by the library's callback thread,
 * whoever has noticed it first; all else happens on the thread that calls. The mutex is never held while the library is
 * called, or something printed. pthread_cancel takes effect after a call, as in the library.
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

#include "kvs.h"

#define SHARED extern __attribute__((weak))

/* The descriptors of the two sockets; -1 when there is no connection. */
SHARED int cfd, cfd_cb;

/* The addresses of both ends of both. */
SHARED struct sockaddr_un cl_addr, sv_addr, cl_addr_cb, sv_addr_cb;

/* A thread that the program may cancel before it calls close_connection. */
SHARED pthread_t callback_tid;

/* The program's own thread, which is cancelled at a forced close; and then this becomes 1. */
SHARED pthread_t tid;
SHARED int exit_flag;

/* kvs-lib/src/capi/course.rs */
struct kvs_course_sockets {
    int main_fd, callback_fd;
    struct sockaddr_un own, server, own_callback, server_callback;
};
int kvs_course_open(const char *group_id, const char *secret, struct kvs_course_sockets *sockets,
                    kvs_disconnect_fn ended, void *user);

int kvs_course_put_value(const char *key, const char *value);
int kvs_course_get_value(const char *key, char **value);
int kvs_course_delete_value(const char *key);
int kvs_course_register_callback(const char *key, void (*callback_function)(char *));
int kvs_course_close_connection(void);

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

/* Connections are counted. The one that the variables are about; 0: none. */
static uintptr_t current;

/* Given out last; made last; closed last by the program; ended last by itself. */
static uintptr_t given, made, closed, ended;

/* The thread of callback_tid: whether it runs in this process, and that it may end. */
static bool has_stand_in, may_end;
static pthread_cond_t ending = PTHREAD_COND_INITIALIZER;

/*
 * Cancellation waits until what these enclose is over. A thread that does nothing else is cancelled here, before anything
 * has been done, or it would never be.
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

/* The variables are about no connection any more, unless they are about another than this. With the mutex. */
static void forget(uintptr_t connection)
{
    if (current == connection) {
        current = 0;
        set_descriptors(-1, -1);
    }
}

/* The mutex is taken for a fork, so that it is free in the child, which has no connection and none of the threads. */
static void before_fork(void)
{
    pthread_mutex_lock(&mutex);
}

static void after_fork(void)
{
    pthread_mutex_unlock(&mutex);
}

static void in_child(void)
{
    closed = given;
    has_stand_in = false;
    /* The thread that waited for it is not here. */
    ending = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
    forget(current);
    pthread_mutex_unlock(&mutex);
}

/* Before main: nothing is connected. */
__attribute__((constructor)) static void prepare(void)
{
    set_descriptors(-1, -1);
    pthread_atfork(before_fork, after_fork, in_child);
}

/*
 * The thread of callback_tid. The library's own would not survive to be cancelled; this one does nothing, is never
 * cancelled, and stays until the program has closed the connection, so that it may be cancelled at any time before.
 */
static void *stand_in(void *unused)
{
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
    pthread_mutex_lock(&mutex);
    while (!may_end)
        pthread_cond_wait(&ending, &mutex);
    may_end = false;
    pthread_mutex_unlock(&mutex);
    return unused;
}

/* Starts it, unless it runs or the program has no callback_tid. With the mutex. */
static bool start_stand_in(void)
{
    pthread_attr_t attributes;
    sigset_t all, before;

    if (&callback_tid == NULL || has_stand_in)
        return true;
    may_end = false;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, PTHREAD_STACK_MIN + 32 * 1024);
    has_stand_in = pthread_create(&callback_tid, &attributes, stand_in, NULL) == 0;
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return has_stand_in;
}

/* With the mutex. */
static void end_stand_in(void)
{
    if (has_stand_in) {
        has_stand_in = false;
        may_end = true;
        pthread_cond_signal(&ending);
    }
}

static uintptr_t connection_now(void)
{
    uintptr_t connection;

    pthread_mutex_lock(&mutex);
    connection = current;
    pthread_mutex_unlock(&mutex);
    return connection;
}

/* What has come of a call on this connection: says what has gone wrong, and takes note when that has closed it. */
static int reported(uintptr_t connection, int code)
{
    switch (code) {
    case KVS_ERROR_SEND_REQUEST:
    case KVS_ERROR_RECEIVE_READY:
    case KVS_ERROR_NOT_READY:
    case KVS_ERROR_SEND_STRING:
    case KVS_ERROR_RECEIVE_ANSWER:
    case KVS_ERROR_RECEIVE_VALUE:
        pthread_mutex_lock(&mutex);
        forget(connection);
        pthread_mutex_unlock(&mutex);
    }
    if (code < 0)
        printf("App: %s\n", kvs_strerror(code));
    return code;
}

/* The connection has ended, and not by close_connection. On the library's thread. */
static void forced(void *user, int reason)
{
    uintptr_t connection = (uintptr_t)user;
    bool is_news;

    (void)reason;
    pthread_mutex_lock(&mutex);
    ended = connection;
    forget(connection);
    /* Not when the program has closed it, or made another one, after a call that has failed. */
    is_news = connection > closed && connection >= made;
    pthread_mutex_unlock(&mutex);
    if (!is_news)
        return;
    printf("App: Closing connection due to deletion of group or closed server\n");
    if (&tid != NULL && tid != 0)
        pthread_cancel(tid);
    if (&exit_flag != NULL)
        __atomic_store_n(&exit_flag, 1, __ATOMIC_RELEASE);
}

int establish_connection(const char *group_id, const char *secret)
{
    struct kvs_course_sockets sockets;
    int code, before = begin();
    uintptr_t connection, previous;
    bool is_ready;

    pthread_mutex_lock(&mutex);
    previous = current;
    connection = ++given;
    is_ready = start_stand_in();
    pthread_mutex_unlock(&mutex);
    if (!is_ready)
        return end(before, reported(0, KVS_ERROR_INVALID));
    code = kvs_course_open(group_id, secret, &sockets, forced, (void *)connection);
    if (code < 0)
        /* A connection that there was before is not affected, whatever the code. */
        return end(before, reported(0, code));

    pthread_mutex_lock(&mutex);
    made = connection;
    /* The one before had broken, unnoticed. */
    forget(previous);
    if (ended != connection) {
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
    uintptr_t connection = connection_now();
    int code = kvs_course_put_value(key, value);

    /* The question whether there is a connection: see kvs.h. */
    if (key == NULL && value == NULL)
        return end(before, code);
    return end(before, reported(connection, code));
}

int get_value(const char *key, char **value)
{
    int before = begin();
    uintptr_t connection = connection_now();

    return end(before, reported(connection, kvs_course_get_value(key, value)));
}

int delete_value(const char *key)
{
    int before = begin();
    uintptr_t connection = connection_now();

    return end(before, reported(connection, kvs_course_delete_value(key)));
}

int register_callback(const char *key, void (*callback_function)(char *))
{
    int before = begin();
    uintptr_t connection = connection_now();

    return end(before, reported(connection, kvs_course_register_callback(key, callback_function)));
}

int close_connection(void)
{
    int code, before = begin();
    uintptr_t connection = connection_now();

    code = kvs_course_close_connection();
    /* With -15 the connection is still there. */
    if (code != KVS_ERROR_INVALID) {
        pthread_mutex_lock(&mutex);
        /* With -2 it was the server, and that is told. */
        if (code != KVS_ERROR_NOT_CONNECTED && connection > closed)
            closed = connection;
        forget(connection);
        end_stand_in();
        pthread_mutex_unlock(&mutex);
    }
    return end(before, reported(0, code));
}
