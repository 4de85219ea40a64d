/*
 * check.h - shared by the test programs.
 *
 * A failed check prints a message on standard error and ends its process at once with exit code 1,
 * in main, in a callback and in a forked child alike. A wait is for an event, and bounded by
 * TIMEOUT_S. Programs call limit_run_time first, which ends a program whose call hangs.
 */

#ifndef CHECK_H
#define CHECK_H

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Far longer than any wait of a correct program, even under valgrind. */
#define TIMEOUT_S 15

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition))                                                                          \
            fail(__FILE__, __LINE__, "not true: %s", #condition);                                  \
    } while (0)

/* The call must return this code. */
#define CHECK_CODE(expected, call) check_code(__FILE__, __LINE__, #call, expected, call)

/* Changes a variable that other threads wait for. */
#define NOTE(statement)                                                                            \
    do {                                                                                           \
        lock_events();                                                                             \
        statement;                                                                                 \
        unlock_events();                                                                           \
    } while (0)

/* Waits until another thread has made the condition true with NOTE. */
#define AWAIT(condition)                                                                           \
    do {                                                                                           \
        struct timespec event_deadline = timeout_from_now();                                      \
        lock_events();                                                                             \
        while (!(condition))                                                                       \
            if (wait_for_event(&event_deadline) == ETIMEDOUT)                                      \
                fail(__FILE__, __LINE__, "did not come true: %s", #condition);                     \
        unlock_events();                                                                           \
    } while (0)

static pthread_mutex_t event_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t event = PTHREAD_COND_INITIALIZER;

/* For a forked child: a thread of the parent may have held the lock. */
static inline void reset_events(void)
{
    pthread_mutex_init(&event_mutex, NULL);
    pthread_cond_init(&event, NULL);
}

static inline void lock_events(void)
{
    pthread_mutex_lock(&event_mutex);
}

static inline void unlock_events(void)
{
    pthread_cond_broadcast(&event);
    pthread_mutex_unlock(&event_mutex);
}

static inline int wait_for_event(const struct timespec *deadline)
{
    return pthread_cond_timedwait(&event, &event_mutex, deadline);
}

static inline void fail(const char *file, int line, const char *format, ...)
{
    char message[512];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    fprintf(stderr, "%s:%d: [%ld] %s\n", file, line, (long)getpid(), message);
    fflush(NULL);
    _exit(EXIT_FAILURE);
}

static inline void check_code(const char *file, int line, const char *call, int expected, int code)
{
    if (code != expected)
        fail(file, line, "%s is %d instead of %d", call, code, expected);
}

static inline void limit_run_time(unsigned seconds)
{
    alarm(seconds); /* whose signal ends the process */
}

static inline struct timespec timeout_from_now(void)
{
    struct timespec deadline;

    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += TIMEOUT_S;
    return deadline;
}

static inline double seconds_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/*
 * The number of this process's open descriptors. Valgrind keeps its own descriptors above the limit
 * that it reports, and opens some of them at any time.
 */
static inline int descriptors(void)
{
    DIR *directory = opendir("/proc/self/fd");
    struct dirent *entry;
    struct rlimit limit;
    int count = -1; /* the directory itself */

    CHECK(directory != NULL);
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    while ((entry = readdir(directory)) != NULL)
        if (entry->d_name[0] != '.' && strtoul(entry->d_name, NULL, 10) < limit.rlim_cur)
            count++;
    closedir(directory);
    return count;
}

/* The number of this process's threads. */
static inline int thread_count(void)
{
    DIR *directory = opendir("/proc/self/task");
    struct dirent *entry;
    int count = 0;

    CHECK(directory != NULL);
    while ((entry = readdir(directory)) != NULL)
        if (entry->d_name[0] != '.')
            count++;
    closedir(directory);
    return count;
}

/*
 * Waits until this process has this many threads, and returns their number, which differs after the
 * timeout. The system does not report the end of a detached thread.
 */
static inline int await_threads(int count)
{
    const struct timespec pause = {.tv_nsec = 1000 * 1000};

    for (double end = seconds_now() + TIMEOUT_S; seconds_now() < end; nanosleep(&pause, NULL))
        if (thread_count() == count)
            return count;
    return thread_count();
}

/*
 * Waits until this process has this many open descriptors, and returns their number, which differs
 * after the timeout. A callback that is in a call while another thread closes the connection closes
 * the socket when its call returns, and no event reports that.
 */
static inline int await_descriptors(int count)
{
    const struct timespec pause = {.tv_nsec = 1000 * 1000};

    for (double end = seconds_now() + TIMEOUT_S; seconds_now() < end; nanosleep(&pause, NULL))
        if (descriptors() == count)
            return count;
    return descriptors();
}

/* Waits for a forked child, which must have ended with exit code 0. */
static inline void check_child(pid_t child)
{
    int status;

    CHECK(child > 0);
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 0);
}

static inline void write_all(int descriptor, const void *bytes, size_t length)
{
    CHECK(write(descriptor, bytes, length) == (ssize_t)length);
}

static inline void read_all(int descriptor, void *bytes, size_t length)
{
    size_t have = 0;

    while (have < length) {
        ssize_t count = read(descriptor, (char *)bytes + have, length - have);

        CHECK(count > 0);
        have += (size_t)count;
    }
}

#endif
