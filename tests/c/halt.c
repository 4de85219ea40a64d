/*
 * halt.c - preloaded into a program that uses libkvs, sends it a signal after a system call on a
 * socket.
 *
 * KVS_HALT_AT is the number of that call, counted from 1 over all threads; KVS_HALT_SIGNAL is the
 * number of the signal: SIGSTOP or SIGKILL. The call has taken effect, but the program has not yet
 * seen its result.
 */

#define _GNU_SOURCE

#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static int number(const char *name)
{
    const char *value = getenv(name);

    return value ? atoi(value) : 0;
}

static void called(void)
{
    static int calls;

    if (__sync_add_and_fetch(&calls, 1) == number("KVS_HALT_AT"))
        kill(getpid(), number("KVS_HALT_SIGNAL"));
}

/* ISO C has no cast from an object pointer to a function pointer; POSIX shows this way round it. */
#define REAL(function) *(void **)&real = dlsym(RTLD_NEXT, function)

int socket(int domain, int type, int protocol)
{
    int (*real)(int, int, int);
    int result;

    REAL("socket");
    result = real(domain, type, protocol);
    called();
    return result;
}

int bind(int descriptor, __CONST_SOCKADDR_ARG address, socklen_t length)
{
    int (*real)(int, __CONST_SOCKADDR_ARG, socklen_t);
    int result;

    REAL("bind");
    result = real(descriptor, address, length);
    called();
    return result;
}

int connect(int descriptor, __CONST_SOCKADDR_ARG address, socklen_t length)
{
    int (*real)(int, __CONST_SOCKADDR_ARG, socklen_t);
    int result;

    REAL("connect");
    result = real(descriptor, address, length);
    called();
    return result;
}

ssize_t send(int descriptor, const void *bytes, size_t length, int flags)
{
    ssize_t (*real)(int, const void *, size_t, int);
    ssize_t result;

    REAL("send");
    result = real(descriptor, bytes, length, flags);
    called();
    return result;
}

ssize_t recv(int descriptor, void *bytes, size_t length, int flags)
{
    ssize_t (*real)(int, void *, size_t, int);
    ssize_t result;

    REAL("recv");
    result = real(descriptor, bytes, length, flags);
    called();
    return result;
}

int shutdown(int descriptor, int how)
{
    int (*real)(int, int);
    int result;

    REAL("shutdown");
    result = real(descriptor, how);
    called();
    return result;
}

int close(int descriptor)
{
    int (*real)(int);
    struct stat found;
    int is_socket = fstat(descriptor, &found) == 0 && S_ISSOCK(found.st_mode);
    int result;

    REAL("close");
    result = real(descriptor);
    if (is_socket)
        called();
    return result;
}
