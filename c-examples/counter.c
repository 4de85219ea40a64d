/*
 * counter.c - counts, together with any number of others, and tells what all of them do.
 *
 * Shows versions and watches of the kvs_ functions: adds 1 to a counter COUNT times, so that nothing is lost when others
 * do the same (kvs_get, kvs_cas, again after a conflict); says in two pairs, which are always stored together, who was
 * the last (kvs_put_many); and prints changes of the counter (kvs_watch) and of these pairs (kvs_watch_prefix), until
 * the pairs have changed or the connection ends (kvs_on_disconnect).
 *
 *     ./counter GROUP SECRET COUNTER [COUNT]
 */

#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kvs.h"

#define LAST "last:"
#define LAST_COUNTER LAST "counter"
#define LAST_PID LAST "pid"

/* What the callbacks need: they get a pointer to it. */
struct counter {
    kvs_t *kvs;
    int ended;      /* set before the semaphore is posted, looked at afterwards */
    sem_t finished; /* posted when it is time to go */
};

static struct counter counter;

static void check(const char *function, int code)
{
    if (code < 0) {
        fprintf(stderr, "counter: %s: %s\n", function, kvs_strerror(code));
        exit(EXIT_FAILURE);
    }
}

/* Runs on the library's thread, one change after the other. */
static void key_changed(const void *key, size_t key_len, uint64_t version, void *user)
{
    struct counter *counter = user;
    void *value;
    int code;

    if (version == 0)
        return; /* deleted */
    code = kvs_get(counter->kvs, key, key_len, &value, NULL, NULL);
    if (code == 0) /* or it was deleted since, or the connection has ended, which the other callback tells */
        printf("%.*s = %s\n", (int)key_len, (const char *)key, (const char *)value);
    free(value);
    if (strcmp(key, LAST_PID) == 0)
        sem_post(&counter->finished);
}

/* The last callback of all, unless the program itself closes the connection. */
static void connection_ended(void *user, int reason)
{
    struct counter *counter = user;

    (void)reason;
    counter->ended = 1;
    sem_post(&counter->finished);
}

/* Adds 1 to the value of `key`, which may not exist yet. */
static void increment(kvs_t *kvs, const char *key)
{
    char text[32];
    void *value;
    uint64_t version;
    int code;

    do {
        code = kvs_get(kvs, key, strlen(key), &value, NULL, &version);
        if (code != KVS_ERROR_NOT_FOUND) /* after which value is NULL, and version 0: "only if there is none" */
            check("kvs_get", code);
        sprintf(text, "%ld", value == NULL ? 1 : atol(value) + 1);
        free(value);
        code = kvs_cas(kvs, key, strlen(key), text, strlen(text), &version);
    } while (code == KVS_ERROR_CONFLICT); /* somebody was faster */
    check("kvs_cas", code);
}

int main(int argc, char *argv[])
{
    kvs_pair_t last[2];
    char pid[20];
    long count;

    if (argc < 4 || argc > 5 || argv[3][0] == '\0') {
        fprintf(stderr, "usage: %s GROUP SECRET COUNTER [COUNT]\n", argv[0]);
        return 2;
    }
    count = argc == 5 ? atol(argv[4]) : 1;
    sprintf(pid, "%ld", (long)getpid());
    sem_init(&counter.finished, 0, 0);
    setvbuf(stdout, NULL, _IOLBF, 0);

    check("kvs_open", kvs_open(&counter.kvs, argv[1], argv[2]));
    check("kvs_on_disconnect", kvs_on_disconnect(counter.kvs, connection_ended, &counter));
    check("kvs_watch_prefix",
          kvs_watch_prefix(counter.kvs, LAST, strlen(LAST), key_changed, &counter));

    /* A key that is watched must exist. */
    increment(counter.kvs, argv[3]);
    check("kvs_watch", kvs_watch(counter.kvs, argv[3], strlen(argv[3]), key_changed, &counter));
    while (--count > 0)
        increment(counter.kvs, argv[3]);

    last[0].key = LAST_COUNTER;
    last[0].key_len = strlen(LAST_COUNTER);
    last[0].value = argv[3];
    last[0].value_len = strlen(argv[3]);
    last[1].key = LAST_PID;
    last[1].key_len = strlen(LAST_PID);
    last[1].value = pid;
    last[1].value_len = strlen(pid);
    check("kvs_put_many", kvs_put_many(counter.kvs, last, 2, NULL));

    sem_wait(&counter.finished);
    if (counter.ended)
        puts("the connection has ended");
    kvs_close(counter.kvs);
    return EXIT_SUCCESS;
}
