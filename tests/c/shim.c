/*
 * shim.c - makes system calls of libkvs.so fail, and no others: preloaded into a test program.
 *
 *     shim_fail("connect", 2, 1, ECONNREFUSED, SHIM_CALLER)
 *
 * From then on the 2nd call of connect that comes from the code of libkvs.so on the main thread
 * does nothing but return the error; 1 says how many in a row do so. What the program itself or the
 * C library calls is never touched. SHIM_SHORT in place of an error lets send and recv move one
 * byte only, as the kernel may at any time. close closes all the same, as it does in reality
 * whatever it returns.
 *
 * The program finds the functions with dlsym: they are there only when this is preloaded.
 */

#define _GNU_SOURCE

#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SHIM_CALLER = 0, SHIM_LIBRARY_THREAD = 1 };
enum { SHIM_SHORT = -1 };

void shim_fail(const char *function, int nth, int times, int error, int thread);
int shim_calls(void);
int shim_failures(void);

/*
 * The calls that fail. Changed only while no thread of the library makes such a call, or the result
 * does not matter.
 */
static char wanted[32];
static int wanted_nth, wanted_times, wanted_error, wanted_thread;
static int calls, failures;

/* The address range of the code of libkvs.so. */
static uintptr_t library_begin, library_end;

static int find_library(struct dl_phdr_info *object, size_t size, void *unused)
{
    (void)size;
    (void)unused;
    if (strstr(object->dlpi_name, "libkvs.so") == NULL)
        return 0;
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &object->dlpi_phdr[i];

        if (part->p_type == PT_LOAD && (part->p_flags & PF_X) != 0) {
            library_begin = object->dlpi_addr + part->p_vaddr;
            library_end = library_begin + part->p_memsz;
        }
    }
    return 1;
}

void shim_fail(const char *function, int nth, int times, int error, int thread)
{
    if (library_end == 0)
        dl_iterate_phdr(find_library, NULL);
    if (library_end == 0)
        abort(); /* otherwise no call would ever fail */
    __atomic_store_n(&wanted_nth, 0, __ATOMIC_SEQ_CST);
    strncpy(wanted, function, sizeof wanted - 1);
    wanted_times = times;
    wanted_error = error;
    wanted_thread = thread;
    __atomic_store_n(&calls, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&failures, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&wanted_nth, nth, __ATOMIC_SEQ_CST);
}

/* The number of calls of the function, and of those that have failed. */
int shim_calls(void)
{
    return __atomic_load_n(&calls, __ATOMIC_SEQ_CST);
}

int shim_failures(void)
{
    return __atomic_load_n(&failures, __ATOMIC_SEQ_CST);
}

/* 0, or the result of this call of `function`. */
static int failure(const char *function, void *return_address)
{
    uintptr_t from = (uintptr_t)return_address;
    int nth = __atomic_load_n(&wanted_nth, __ATOMIC_SEQ_CST), thread, call;

    if (nth == 0 || from < library_begin || from >= library_end || strcmp(function, wanted) != 0)
        return 0;
    thread = syscall(SYS_gettid) == getpid() ? SHIM_CALLER : SHIM_LIBRARY_THREAD;
    if (thread != wanted_thread)
        return 0;
    call = __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST);
    if (call < nth || call - nth >= wanted_times)
        return 0;
    __atomic_add_fetch(&failures, 1, __ATOMIC_SEQ_CST);
    return wanted_error;
}

/* ISO C has no cast from what dlsym returns to a function. */
#define FIND(real, name)                                                                           \
    do {                                                                                           \
        void *found = dlsym(RTLD_NEXT, name);                                                      \
                                                                                                   \
        memcpy(&(real), &found, sizeof found);                                                     \
    } while (0)

/* A function that returns -1 and sets errno. */
#define SYSTEM_CALL(name, parameters, arguments)                                                   \
    int name parameters;                                                                           \
    int name parameters                                                                            \
    {                                                                                              \
        int(*real) parameters, error = failure(#name, __builtin_return_address(0));                \
                                                                                                   \
        FIND(real, #name);                                                                         \
        if (error == 0)                                                                            \
            return real arguments;                                                                 \
        if (strcmp(#name, "close") == 0)                                                           \
            real arguments;                                                                        \
        errno = error;                                                                             \
        return -1;                                                                                 \
    }

/* One that returns the error. */
#define THREAD_CALL(name, parameters, arguments)                                                   \
    int name parameters;                                                                           \
    int name parameters                                                                            \
    {                                                                                              \
        int(*real) parameters, error = failure(#name, __builtin_return_address(0));                \
                                                                                                   \
        FIND(real, #name);                                                                         \
        return error == 0 ? real arguments : error;                                                \
    }

/* One that moves bytes. */
#define TRANSFER(name, parameters, arguments)                                                      \
    ssize_t name parameters;                                                                       \
    ssize_t name parameters                                                                        \
    {                                                                                              \
        ssize_t(*real) parameters;                                                                 \
        int error = failure(#name, __builtin_return_address(0));                                   \
                                                                                                   \
        FIND(real, #name);                                                                         \
        if (error == SHIM_SHORT && length > 1)                                                     \
            length = 1;                                                                            \
        if (error <= 0)                                                                            \
            return real arguments;                                                                 \
        errno = error;                                                                             \
        return -1;                                                                                 \
    }

SYSTEM_CALL(socket, (int domain, int type, int protocol), (domain, type, protocol))
SYSTEM_CALL(bind, (int descriptor, __CONST_SOCKADDR_ARG address, socklen_t length),
            (descriptor, address, length))
SYSTEM_CALL(connect, (int descriptor, __CONST_SOCKADDR_ARG address, socklen_t length),
            (descriptor, address, length))
SYSTEM_CALL(setsockopt,
            (int descriptor, int level, int option, const void *value, socklen_t length),
            (descriptor, level, option, value, length))
SYSTEM_CALL(shutdown, (int descriptor, int how), (descriptor, how))
SYSTEM_CALL(close, (int descriptor), (descriptor))
SYSTEM_CALL(poll, (struct pollfd * set, nfds_t count, int timeout), (set, count, timeout))
SYSTEM_CALL(unlink, (const char *path), (path))
SYSTEM_CALL(statx,
            (int directory, const char *path, int flags, unsigned mask, struct statx *answer),
            (directory, path, flags, mask, answer))

int ioctl(int descriptor, unsigned long request, ...)
{
    int (*real)(int, unsigned long, ...), error = failure("ioctl", __builtin_return_address(0));
    va_list arguments;
    void *argument;

    FIND(real, "ioctl");
    va_start(arguments, request);
    argument = va_arg(arguments, void *);
    va_end(arguments);
    if (error == 0)
        return real(descriptor, request, argument);
    errno = error;
    return -1;
}

TRANSFER(send, (int descriptor, const void *bytes, size_t length, int flags),
         (descriptor, bytes, length, flags))
TRANSFER(recv, (int descriptor, void *bytes, size_t length, int flags),
         (descriptor, bytes, length, flags))
TRANSFER(getrandom, (void *bytes, size_t length, unsigned flags), (bytes, length, flags))

THREAD_CALL(pthread_create,
            (pthread_t * id, const pthread_attr_t *attributes, void *(*run)(void *),
              void *argument),
            (id, attributes, run, argument))
THREAD_CALL(pthread_attr_init, (pthread_attr_t * attributes), (attributes))
THREAD_CALL(pthread_key_create, (pthread_key_t * key, void (*destructor)(void *)),
            (key, destructor))
THREAD_CALL(pthread_sigmask, (int how, const sigset_t *set, sigset_t *before), (how, set, before))
THREAD_CALL(__register_atfork,
            (void (*prepare)(void), void (*parent)(void), void (*child)(void), void *handle),
            (prepare, parent, child, handle))
