/*
 * handles.c - copies pairs from one group to another.
 *
 * Shows handles: a program can have any number of connections, to the same group or to different
 * ones, each with a kvs_t of its own. Keys and values are bytes with a length. Copies each pair
 * whose key begins with PREFIX (all pairs without PREFIX), unless the other group has the key
 * already.
 *
 *     ./handles FROM SECRET TO SECRET [PREFIX]
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kvs.h"

struct copy {
    kvs_t *from, *to;
    int copied, kept;
};

static void check(const char *function, int code)
{
    if (code < 0) {
        fprintf(stderr, "handles: %s: %s\n", function, kvs_strerror(code));
        exit(EXIT_FAILURE);
    }
}

/* kvs_keys calls this for each key, with the last argument of kvs_keys as `user`. */
static void copy_pair(const void *key, size_t key_len, void *user)
{
    struct copy *copy = user;
    uint64_t version = 0; /* put only if there is no such key */
    void *value;
    size_t value_len;
    int code;

    code = kvs_get(copy->from, key, key_len, &value, &value_len, NULL);
    if (code == KVS_ERROR_NOT_FOUND)
        return; /* deleted in the meantime */
    check("kvs_get", code);
    code = kvs_cas(copy->to, key, key_len, value, value_len, &version);
    free(value);
    if (code == KVS_ERROR_CONFLICT) {
        copy->kept++;
        return;
    }
    check("kvs_cas", code);
    copy->copied++;
}

int main(int argc, char *argv[])
{
    struct copy copy = {NULL, NULL, 0, 0};
    const char *prefix;
    uint64_t cursor = 0;

    if (argc < 5 || argc > 6) {
        fprintf(stderr, "usage: %s FROM SECRET TO SECRET [PREFIX]\n", argv[0]);
        return 2;
    }
    prefix = argc == 6 ? argv[5] : "";

    check("kvs_open", kvs_open(&copy.from, argv[1], argv[2]));
    check("kvs_open", kvs_open(&copy.to, argv[3], argv[4]));

    /* The cursor is 0 again after the last page. */
    do
        check("kvs_keys", kvs_keys(copy.from, prefix, strlen(prefix), &cursor, copy_pair, &copy));
    while (cursor != 0);

    check("kvs_close", kvs_close(copy.from));
    check("kvs_close", kvs_close(copy.to));
    printf("%d copied, %d were there already\n", copy.copied, copy.kept);
    return EXIT_SUCCESS;
}
