/*
 * Linked to the test programs when tests/sanitize runs them, with any sanitizer. Only
 * AddressSanitizer, which looks for leaks, uses it.
 *
 * A forked child has the memory of its parent but none of its threads, so memory that only those
 * reach looks leaked there. Leaks are looked for in the first process only.
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
