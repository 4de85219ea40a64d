/*
 * silence.c - two threads that connect at the same time to a server that says nothing.
 *
 *     silence MILLISECONDS
 *
 * Both calls must fail, each within MILLISECONDS. The second begins a fifth of a second after the
 * first and waits for it; its own timeout runs during this wait.
 */

#define _POSIX_C_SOURCE 200809L

#include "check.h"
#include "kvs.h"

static double limit;

static void *connect_to_silence(void *code)
{
    double start = seconds_now(), seconds;

    *(int *)code = establish_connection("g", "abcde");
    seconds = seconds_now() - start;
    if (seconds > limit)
        fail(__FILE__, __LINE__, "it took %.2f s", seconds);
    return NULL;
}

int main(int argc, char *argv[])
{
    const struct timespec later = {.tv_nsec = 200 * 1000 * 1000};
    int codes[2], before = descriptors();
    pthread_t threads[2];

    CHECK(argc == 2);
    limit = atoi(argv[1]) / 1000.0;
    limit_run_time(60);

    CHECK(pthread_create(&threads[0], NULL, connect_to_silence, &codes[0]) == 0);
    CHECK(nanosleep(&later, NULL) == 0);
    CHECK(pthread_create(&threads[1], NULL, connect_to_silence, &codes[1]) == 0);
    for (int i = 0; i < 2; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
        printf("%d\n", codes[i]);
    }
    CHECK(descriptors() == before);
    CHECK_CODE(-2, put_value("k", "v"));
    return EXIT_SUCCESS;
}
