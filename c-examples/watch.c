/*
 * watch.c - prints the changes of keys.
 *
 * Shows register_callback: prints each change of the given keys with the new value, until it has
 * printed COUNT changes, the user presses Ctrl-C, or the group is deleted. The keys must exist.
 *
 *     ./watch [-n COUNT] GROUP SECRET KEY...
 */

#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <semaphore.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "kvs.h"

/* Posted when main is to exit. A signal handler may call sem_post. */
static sem_t finished;

/* The number of changes to print; 0: no limit. */
static long limit = 0;

/*
 * Runs on the library's thread, which calls the callbacks one after the other: `seen` needs no
 * lock.
 */
static void key_changed(char *key)
{
    static long seen = 0;
    char *value;
    int code;

    if (limit > 0 && seen == limit)
        return;
    seen++;

    code = get_value(key, &value);
    if (code == KVS_ERROR_NOT_FOUND) {
        printf("%s was changed, and deleted since\n", key);
    } else if (code < 0) {
        printf("%s was changed; get_value: %s\n", key, kvs_strerror(code));
    } else {
        printf("%s = %s\n", key, value);
        free(value);
    }

    if (limit > 0 && seen == limit)
        sem_post(&finished);
}

static void interrupted(int signal_number)
{
    (void)signal_number;
    sem_post(&finished);
}

/*
 * Waits until main is to exit. Returns false when the connection has ended.
 *
 * The six functions do not report the end of a connection, so the program checks for it five times
 * a second: a call with invalid arguments sends nothing, and returns KVS_ERROR_INVALID while
 * connected and KVS_ERROR_NOT_CONNECTED otherwise. (A kvs_t has kvs_on_disconnect.)
 */
static bool wait_until_finished(void)
{
    for (;;) {
        struct timespec deadline;

        clock_gettime(CLOCK_REALTIME, &deadline);
        deadline.tv_nsec += 200 * 1000 * 1000;
        if (deadline.tv_nsec >= 1000 * 1000 * 1000) {
            deadline.tv_nsec -= 1000 * 1000 * 1000;
            deadline.tv_sec++;
        }

        if (sem_timedwait(&finished, &deadline) == 0)
            return true;
        if (errno == ETIMEDOUT && put_value(NULL, NULL) == KVS_ERROR_NOT_CONNECTED)
            return false;
    }
}

static void check(const char *what, int code)
{
    if (code < 0) {
        fprintf(stderr, "watch: %s: %s\n", what, kvs_strerror(code));
        exit(EXIT_FAILURE);
    }
}

static int usage(void)
{
    fprintf(stderr, "usage: watch [-n COUNT] GROUP SECRET KEY...\n");
    return 2;
}

int main(int argc, char *argv[])
{
    struct sigaction action;
    int option;
    int key_count;
    char **keys;

    while ((option = getopt(argc, argv, "n:")) != -1) {
        if (option != 'n' || (limit = strtol(optarg, NULL, 10)) <= 0)
            return usage();
    }
    if (argc - optind < 3)
        return usage();
    keys = argv + optind + 2;
    key_count = argc - optind - 2;

    setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
    sem_init(&finished, 0, 0);
    memset(&action, 0, sizeof action);
    action.sa_handler = interrupted;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);

    check("establish_connection", establish_connection(argv[optind], argv[optind + 1]));
    for (int i = 0; i < key_count; i++) {
        int code = register_callback(keys[i], key_changed);

        if (code == KVS_ERROR_NOT_FOUND) {
            fprintf(stderr, "watch: %s: no such key: put it before you watch it\n", keys[i]);
            return EXIT_FAILURE;
        }
        check(keys[i], code);
    }
    printf("watching %d %s\n", key_count, key_count == 1 ? "key" : "keys");

    if (!wait_until_finished()) {
        puts("the group was deleted or the server closed");
        return EXIT_SUCCESS;
    }
    check("close_connection", close_connection());
    return EXIT_SUCCESS;
}
