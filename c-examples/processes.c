/*
 * processes.c - several processes share the pairs of a group.
 *
 * Shows fork: a connection belongs to the process that established it. A child process starts
 * without a connection (KVS_ERROR_NOT_CONNECTED) and opens its own, which does not affect the
 * connection of its parent.
 *
 *     ./processes GROUP SECRET
 */

#define _POSIX_C_SOURCE 200809L

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kvs.h"

#define CHILDREN 3

static void check(const char *function, int code)
{
    if (code < 0) {
        fprintf(stderr, "processes: %s: %s\n", function, kvs_strerror(code));
        exit(EXIT_FAILURE);
    }
}

static void run_child(int number, const char *group, const char *secret)
{
    char key[32], value[32];

    snprintf(key, sizeof key, "process-%d", number);
    snprintf(value, sizeof value, "%ld", (long)getpid());

    if (put_value(key, value) != KVS_ERROR_NOT_CONNECTED) {
        fprintf(stderr, "processes: the child is connected before it has connected\n");
        exit(EXIT_FAILURE);
    }

    check("establish_connection", establish_connection(group, secret));
    check("put_value", put_value(key, value));
    check("close_connection", close_connection());
    exit(EXIT_SUCCESS);
}

int main(int argc, char *argv[])
{
    pid_t children[CHILDREN];
    int result = EXIT_SUCCESS;

    if (argc != 3) {
        fprintf(stderr, "usage: %s GROUP SECRET\n", argv[0]);
        return 2;
    }

    check("establish_connection", establish_connection(argv[1], argv[2]));

    for (int i = 0; i < CHILDREN; i++) {
        children[i] = fork();
        if (children[i] < 0) {
            perror("processes: fork");
            return EXIT_FAILURE;
        }
        if (children[i] == 0)
            run_child(i, argv[1], argv[2]);
    }

    for (int i = 0; i < CHILDREN; i++) {
        char key[32], expected[32];
        char *value;
        int status;

        if (waitpid(children[i], &status, 0) < 0 || status != 0) {
            fprintf(stderr, "processes: child %d failed\n", i);
            result = EXIT_FAILURE;
            continue;
        }

        snprintf(key, sizeof key, "process-%d", i);
        snprintf(expected, sizeof expected, "%ld", (long)children[i]);
        check("get_value", get_value(key, &value));
        printf("%s = %s\n", key, value);
        if (strcmp(value, expected) != 0) {
            fprintf(stderr, "processes: the pid of child %d is %s\n", i, expected);
            result = EXIT_FAILURE;
        }
        free(value);
    }

    check("close_connection", close_connection());
    return result;
}
