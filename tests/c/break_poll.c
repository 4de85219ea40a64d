/*
 * break_poll.c - preloaded into a server, makes epoll_wait fail on one of its threads as soon as a
 * file exists.
 *
 * KVS_BREAK_THREAD is the name of the thread, KVS_BREAK_FILE the path of the file. A sleeping
 * thread checks for the file when it wakes up.
 */

#define _GNU_SOURCE

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <unistd.h>

static int is_broken(void)
{
    const char *thread = getenv("KVS_BREAK_THREAD"), *file = getenv("KVS_BREAK_FILE");
    char name[16] = "";

    prctl(PR_GET_NAME, name);
    return thread && file && strcmp(name, thread) == 0 && access(file, F_OK) == 0;
}

int epoll_wait(int descriptor, struct epoll_event *events, int count, int timeout)
{
    int (*real)(int, struct epoll_event *, int, int);

    if (is_broken()) {
        errno = EBADF;
        return -1;
    }
    *(void **)&real = dlsym(RTLD_NEXT, "epoll_wait");
    return real(descriptor, events, count, timeout);
}
