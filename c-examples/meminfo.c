/*
 * meminfo.c - publishes the state of this machine.
 *
 * Shows a program that updates a group regularly: it puts each line of /proc/meminfo (the key is
 * the name before the colon) and /proc/loadavg (as loadavg, and as load1, load5, load15, tasks and
 * lastpid). It does so ROUNDS times (default: 10; 0: until the group is deleted), with a pause of
 * INTERVAL milliseconds (default: 1000).
 *
 *     ./meminfo [-i INTERVAL] [-n ROUNDS] GROUP SECRET
 */

#define _POSIX_C_SOURCE 200809L

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "kvs.h"

static void check(const char *function, int code)
{
    if (code < 0) {
        fprintf(stderr, "meminfo: %s: %s\n", function, kvs_strerror(code));
        exit(EXIT_FAILURE);
    }
}

static void put(const char *key, const char *value)
{
    int code = put_value(key, value);

    if (code == KVS_ERROR_NOT_CONNECTED) {
        puts("the group was deleted or the server closed");
        exit(EXIT_SUCCESS);
    }
    check("put_value", code);
}

static void fail(const char *path)
{
    fprintf(stderr, "meminfo: %s: %s\n", path, strerror(errno));
    exit(EXIT_FAILURE);
}

/* Removes blanks at both ends, and truncates the text to the longest value of protocol v1. */
static char *trim(char *text)
{
    size_t length;

    while (isspace((unsigned char)*text))
        text++;
    length = strlen(text);
    if (length > KVS_MAX_TEXT)
        length = KVS_MAX_TEXT;
    while (length > 0 && isspace((unsigned char)text[length - 1]))
        length--;
    text[length] = '\0';
    return text;
}

static int publish_meminfo(void)
{
    static const char path[] = "/proc/meminfo";
    FILE *file = fopen(path, "r");
    char line[256];
    int pairs = 0;

    if (file == NULL)
        fail(path);
    while (fgets(line, sizeof line, file) != NULL) {
        char *colon = strchr(line, ':');

        if (colon == NULL || colon == line)
            continue;
        *colon = '\0';
        put(trim(line), trim(colon + 1));
        pairs++;
    }
    fclose(file);
    return pairs;
}

static int publish_loadavg(void)
{
    static const char path[] = "/proc/loadavg";
    static const char *const names[] = {"load1", "load5", "load15", "tasks", "lastpid"};
    const int name_count = (int)(sizeof names / sizeof names[0]);
    FILE *file = fopen(path, "r");
    char line[256];
    char *word;
    int pairs = 0;

    if (file == NULL || fgets(line, sizeof line, file) == NULL)
        fail(path);
    fclose(file);

    put("loadavg", trim(line));
    word = strtok(line, " \n");
    while (word != NULL && pairs < name_count) {
        put(names[pairs], word);
        pairs++;
        word = strtok(NULL, " \n");
    }
    return pairs + 1;
}

/* Parses a non-negative number; returns -1 if the text is not one. */
static long number(const char *text)
{
    char *end;
    long result = strtol(text, &end, 10);

    return end == text || *end != '\0' || result < 0 ? -1 : result;
}

static double milliseconds_since(const struct timespec *start)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - start->tv_sec) * 1e3 +
           (double)(now.tv_nsec - start->tv_nsec) / 1e6;
}

int main(int argc, char *argv[])
{
    long interval = 1000, rounds = 10;
    struct timespec pause;
    int option;

    while ((option = getopt(argc, argv, "i:n:")) != -1) {
        if (option == 'i')
            interval = number(optarg);
        else if (option == 'n')
            rounds = number(optarg);
        else
            interval = -1;
    }
    if (argc - optind != 2 || interval < 0 || rounds < 0) {
        fprintf(stderr, "usage: meminfo [-i INTERVAL] [-n ROUNDS] GROUP SECRET\n");
        return 2;
    }
    pause.tv_sec = interval / 1000;
    pause.tv_nsec = interval % 1000 * 1000 * 1000;

    setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
    check("establish_connection", establish_connection(argv[optind], argv[optind + 1]));

    for (long round = 1; rounds == 0 || round <= rounds; round++) {
        struct timespec start;
        int pairs;

        if (round > 1)
            nanosleep(&pause, NULL);
        clock_gettime(CLOCK_MONOTONIC, &start);
        pairs = publish_meminfo() + publish_loadavg();
        printf("round %ld: %d pairs in %.1f ms\n", round, pairs, milliseconds_since(&start));
    }

    check("close_connection", close_connection());
    return EXIT_SUCCESS;
}
