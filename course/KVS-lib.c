/*
 * KVS-lib.c - what KVS-lib.o has besides the library: the habits of the course's own library.
 *
 * packaging/build puts these functions around the library's, whose names begin with kvs_course_ here. They say on
 * standard output what has gone wrong, as the programs of the course expect, and keep the variables up to date that the
 * original library shared with its program. The program may define all of these variables, some, or none: what it does
 * not define has the address NULL here.
 *
 * A forced close (the group was deleted, or the server has closed or gone) is told by the library's callback thread; all
 * else happens on the thread that calls. The mutex is never held while the library is called, or something printed.
 */

#define _GNU_SOURCE

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
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

int kvs_course_establish_connection(const char *group_id, const char *secret);
int kvs_course_put_value(const char *key, const char *value);
int kvs_course_get_value(const char *key, char **value);
int kvs_course_delete_value(const char *key);
int kvs_course_register_callback(const char *key, void (*callback_function)(char *));
int kvs_course_close_connection(void);

/* kvs-lib/src/capi/course.rs */
int kvs_course_attach(int *main_fd, int *callback_fd, kvs_disconnect_fn ended, void *user);

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

/* Which connection of this process the variables are about: they are counted. 0: none. */
static uintptr_t current;
static uintptr_t last;

static pthread_once_t once = PTHREAD_ONCE_INIT;

/* Whether the thread of callback_tid runs in this process. */
static bool has_stand_in;

static void set_descriptors(int main_fd, int callback_fd)
{
    if (&cfd != NULL)
        cfd = main_fd;
    if (&cfd_cb != NULL)
        cfd_cb = callback_fd;
}

static void set_address(struct sockaddr_un *address, int fd,
                        int (*get)(int, struct sockaddr *, socklen_t *))
{
    struct sockaddr_un found;
    socklen_t length = sizeof found;

    if (address == NULL)
        return;
    memset(&found, 0, sizeof found);
    if (get(fd, (struct sockaddr *)&found, &length) == 0)
        *address = found;
}

/* glibc's own declarations do not fit a pointer to a function. */
static int own_address(int fd, struct sockaddr *address, socklen_t *length)
{
    return getsockname(fd, address, length);
}

static int peer_address(int fd, struct sockaddr *address, socklen_t *length)
{
    return getpeername(fd, address, length);
}

/* The variables are about no connection any more, unless they are about a later one than this. */
static bool is_over(uintptr_t connection)
{
    bool was_current;

    pthread_mutex_lock(&mutex);
    was_current = connection != 0 && current == connection;
    if (was_current) {
        current = 0;
        set_descriptors(-1, -1);
    }
    pthread_mutex_unlock(&mutex);
    return was_current;
}

/* A child of fork has no connection, and none of the threads. The mutex is free: it was taken for the fork. */
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
    current = 0;
    has_stand_in = false;
    set_descriptors(-1, -1);
    pthread_mutex_unlock(&mutex);
}

static void watch_forks(void)
{
    pthread_atfork(before_fork, after_fork, in_child);
}

/*
 * The thread of callback_tid. The library's own would not survive to be cancelled; this one does nothing, is never
 * cancelled, and stays as long as the process, so that callback_tid is valid whenever a program uses it.
 */
static void *stand_in(void *unused)
{
    (void)unused;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
    for (;;)
        pause();
    return NULL;
}

/* Starts it, unless it runs or the program has no callback_tid. */
static bool start_stand_in(void)
{
    pthread_attr_t attributes;
    sigset_t all, before;
    bool started = true;

    if (&callback_tid == NULL)
        return true;
    pthread_mutex_lock(&mutex);
    if (!has_stand_in) {
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        pthread_attr_init(&attributes);
        pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        started = pthread_create(&callback_tid, &attributes, stand_in, NULL) == 0;
        pthread_attr_destroy(&attributes);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        has_stand_in = started;
    }
    pthread_mutex_unlock(&mutex);
    return started;
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
    if (code >= 0)
        return code;
    switch (code) {
    case -3:
    case -4:
    case -5:
    case -6:
    case -8:
    case -10:
        is_over(connection);
    }
    printf("App: %s\n", kvs_strerror(code));
    return code;
}

/* On the library's thread. */
static void forced(void *connection)
{
    if (!is_over((uintptr_t)connection))
        return;
    printf("App: Closing connection due to deletion of group or closed server\n");
    if (&tid != NULL && tid != 0)
        pthread_cancel(tid);
    if (&exit_flag != NULL)
        __atomic_store_n(&exit_flag, 1, __ATOMIC_RELEASE);
}

int establish_connection(const char *group_id, const char *secret)
{
    int code, main_fd, callback_fd;
    uintptr_t connection = connection_now();

    pthread_once(&once, watch_forks);
    if (!start_stand_in())
        return reported(connection, -15);
    if ((code = kvs_course_establish_connection(group_id, secret)) < 0)
        return reported(connection, code);
    pthread_mutex_lock(&mutex);
    connection = current = ++last;
    pthread_mutex_unlock(&mutex);
    if (kvs_course_attach(&main_fd, &callback_fd, forced, (void *)connection) != 0) {
        /* The server has closed it already. */
        forced((void *)connection);
        return code;
    }
    pthread_mutex_lock(&mutex);
    if (current == connection) {
        set_descriptors(main_fd, callback_fd);
        set_address(&cl_addr, main_fd, own_address);
        set_address(&sv_addr, main_fd, peer_address);
        set_address(&cl_addr_cb, callback_fd, own_address);
        set_address(&sv_addr_cb, callback_fd, peer_address);
    }
    pthread_mutex_unlock(&mutex);
    return code;
}

int put_value(const char *key, const char *value)
{
    uintptr_t connection = connection_now();

    return reported(connection, kvs_course_put_value(key, value));
}

int get_value(const char *key, char **value)
{
    uintptr_t connection = connection_now();

    return reported(connection, kvs_course_get_value(key, value));
}

int delete_value(const char *key)
{
    uintptr_t connection = connection_now();

    return reported(connection, kvs_course_delete_value(key));
}

int register_callback(const char *key, void (*callback_function)(char *))
{
    uintptr_t connection = connection_now();

    return reported(connection, kvs_course_register_callback(key, callback_function));
}

int close_connection(void)
{
    uintptr_t connection = connection_now();
    int code = kvs_course_close_connection();

    /* -15: other threads kept it busy, and it is still there. */
    if (code != -15)
        is_over(connection);
    return reported(connection, code);
}
