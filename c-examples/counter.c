/*
 * counter.c - counts together with other processes, and prints the changes.
 *
 * Shows versions and watches of the kvs_ functions:
 *
 * - adds 1 to a counter COUNT times; no count is lost when other processes do the same (kvs_get,
 *   kvs_cas, and a new attempt after a conflict)
 * - stores two pairs atomically, which say who counted last (kvs_put_many)
 * - prints changes of the counter (kvs_watch) and of these pairs (kvs_watch_prefix), until the
 *   pairs change or the connection ends (kvs_on_disconnect)
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

/* The state that the callbacks share with main. They receive a pointer to it. */
struct counter {
    kvs_t *kvs;
    int ended;      /* set before sem_post, read after sem_wait */
    sem_t finished; /* posted when main is to exit */
};

static struct counter counter;

static void check(const char *function, int code)
{
    if (code < 0) {
        fprintf(stderr, "counter: %s: %s\n", function, kvs_strerror(code));
        exit(EXIT_FAILURE);
    }
}

/* Runs on the library's thread, which calls the callbacks one after the other. */
static void key_changed(const void *key, size_t key_len, uint64_t version, void *user)
{
    struct counter *counter = user;
    void *value;
    int code;

    if (version == 0)
        return; /* deleted */
    code = kvs_get(counter->kvs, key, key_len, &value, NULL, NULL);
    /* Otherwise the key was deleted in the meantime, or the connection has ended. */
    if (code == 0)
        printf("%.*s = %s\n", (int)key_len, (const char *)key, (const char *)value);
    free(value);
    if (strcmp(key, LAST_PID) == 0)
        sem_post(&counter->finished);
}

/* The last callback. It does not run if the program itself closes the connection. */
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
        /* For a missing key the value is NULL, and the version 0: put only if there is no key. */
        if (code != KVS_ERROR_NOT_FOUND)
            check("kvs_get", code);
        sprintf(text, "%ld", value == NULL ? 1 : atol(value) + 1);
        free(value);
        code = kvs_cas(kvs, key, strlen(key), text, strlen(text), &version);
    } while (code == KVS_ERROR_CONFLICT); /* another process has changed the key */
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

    /* Only an existing key can be watched. */
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
