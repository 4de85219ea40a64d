/*
 * The locks of Rust's standard library, as ThreadSanitizer should see them.
 *
 * The library comes compiled, without instrumentation. What of its locks is inlined into our code
 * is seen there; what is not, the slow path of a mutex and waiting for a condition, is invisible,
 * and what it orders would be reported as a race. So the linker puts these functions around those
 * (--wrap, see tests/sanitize, which finds their names), and they say what the real ones do:
 * nothing more, so no race is hidden.
 *
 * One more thing: Arc counts down with release order, and the last one orders itself after the
 * others with a fence. ThreadSanitizer knows no fences. So counting down with release order
 * acquires, too; nothing else in Rust's library or ours counts down with that order.
 */
#include <stdbool.h>
#include <stdint.h>

void __tsan_acquire(void *address);
void __tsan_release(void *address);

#define JOIN(left, right) left##right
#define NAME(prefix, symbol) JOIN(prefix, symbol)

/* Only where std itself is linked do the real ones exist. */
#define REAL(symbol) __attribute__((weak)) NAME(__real_, symbol)
#define WRAP(symbol) NAME(__wrap_, symbol)

/* Mutex::lock_contended(&self): returns with the lock. */
void REAL(LOCK_CONTENDED)(void *mutex);
void WRAP(LOCK_CONTENDED)(void *mutex);
void WRAP(LOCK_CONTENDED)(void *mutex)
{
    NAME(__real_, LOCK_CONTENDED)(mutex);
    __tsan_acquire(mutex);
}

/* Condvar::wait(&self, &Mutex): gives the lock away and takes it again. */
void REAL(CONDVAR_WAIT)(void *condition, void *mutex);
void WRAP(CONDVAR_WAIT)(void *condition, void *mutex);
void WRAP(CONDVAR_WAIT)(void *condition, void *mutex)
{
    __tsan_release(mutex);
    NAME(__real_, CONDVAR_WAIT)(condition, mutex);
    __tsan_acquire(mutex);
}

/* Condvar::wait_timeout(&self, &Mutex, Duration) -> bool: likewise. */
bool REAL(CONDVAR_WAIT_TIMEOUT)(void *condition, void *mutex, uint64_t seconds, uint32_t nanos);
bool WRAP(CONDVAR_WAIT_TIMEOUT)(void *condition, void *mutex, uint64_t seconds, uint32_t nanos);
bool WRAP(CONDVAR_WAIT_TIMEOUT)(void *condition, void *mutex, uint64_t seconds, uint32_t nanos)
{
    bool in_time;

    __tsan_release(mutex);
    in_time = NAME(__real_, CONDVAR_WAIT_TIMEOUT)(condition, mutex, seconds, nanos);
    __tsan_acquire(mutex);
    return in_time;
}

enum { RELEASE = 3, ACQUIRE_RELEASE = 4 };

uint64_t __real___tsan_atomic64_fetch_sub(volatile uint64_t *place, uint64_t value, int order);
uint64_t __wrap___tsan_atomic64_fetch_sub(volatile uint64_t *place, uint64_t value, int order);
uint64_t __wrap___tsan_atomic64_fetch_sub(volatile uint64_t *place, uint64_t value, int order)
{
    return __real___tsan_atomic64_fetch_sub(place, value,
                                           order == RELEASE ? ACQUIRE_RELEASE : order);
}
