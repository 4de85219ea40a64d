/*
 * Linked to the programs of the tests when tests/sanitize runs them, with whichever sanitizer. Only
 * AddressSanitizer, which looks for leaks, asks what is said here.
 *
 * A forked child has its parent's memory but none of its threads, so what only those point to looks lost
 * there. Leaks are looked for in the process that was started, and nowhere else.
 */
#include <sys/types.h>
#include <unistd.h>

#ifdef __cplusplus
extern "C" {
#endif

int __lsan_is_turned_off(void);

static pid_t started;

__attribute__((constructor)) static void remember(void)
{
    started = getpid();
}

int __lsan_is_turned_off(void)
{
    return getpid() != started;
}

#ifdef __cplusplus
}
#endif
