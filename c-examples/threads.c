/*
 * threads.c - several threads on one connection.
 *
 * Shows that any thread may call the functions: all threads share the one connection of the
 * process, and need no locks of their own.
 *
 *     ./threads GROUP SECRET
 */

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kvs.h"

#define THREADS 4
#define ROUNDS 250

static void check(const char *function, int code)
{
    if (code < 0) {
        fprintf(stderr, "threads: %s: %s\n", function, kvs_strerror(code));
        exit(EXIT_FAILURE);
    }
}

/* Counts from 1 to ROUNDS in a key of this thread, and reads each number back. */
static void *count(void *argument)
{
    const int number = *(const int *)argument;
    char key[32], value[32];

    snprintf(key, sizeof key, "thread-%d", number);
    for (int round = 1; round <= ROUNDS; round++) {
        char *answer;

        snprintf(value, sizeof value, "%d", round);
        check("put_value", put_value(key, value));
        check("get_value", get_value(key, &answer));
        if (strcmp(answer, value) != 0) {
            fprintf(stderr, "threads: %s is %s instead of %s\n", key, answer, value);
            exit(EXIT_FAILURE);
        }
        free(answer);
    }
    return NULL;
}

int main(int argc, char *argv[])
{
    pthread_t threads[THREADS];
    int numbers[THREADS];

    if (argc != 3) {
        fprintf(stderr, "usage: %s GROUP SECRET\n", argv[0]);
        return 2;
    }

    check("establish_connection", establish_connection(argv[1], argv[2]));

    for (int i = 0; i < THREADS; i++) {
        int error;

        numbers[i] = i;
        error = pthread_create(&threads[i], NULL, count, &numbers[i]);
        if (error != 0) {
            fprintf(stderr, "threads: pthread_create: %s\n", strerror(error));
            return EXIT_FAILURE;
        }
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);

    check("close_connection", close_connection());
    printf("%d threads, %d rounds each: every value was right\n", THREADS, ROUNDS);
    return EXIT_SUCCESS;
}
