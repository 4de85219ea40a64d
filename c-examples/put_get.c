/*
 * put_get.c - stores, reads, replaces and deletes one pair.
 *
 * Shows that the value from get_value belongs to the program, and that KVS_ERROR_NOT_FOUND for a
 * missing key is an ordinary result after which the connection stays open.
 *
 *     ./put_get GROUP SECRET
 */

#include <stdio.h>
#include <stdlib.h>

#include "kvs.h"

static void check(const char *function, int code)
{
    if (code < 0) {
        fprintf(stderr, "put_get: %s: %s\n", function,
                kvs_strerror(code));
        exit(EXIT_FAILURE);
    }
}

static void show(const char *key)
{
    char *value;
    int code = get_value(key, &value);

    if (code == KVS_ERROR_NOT_FOUND) {
        printf("%s: no such key\n", key);
        return;
    }
    check("get_value", code);
    printf("%s = %s\n", key, value);
    free(value); /* the value belongs to the program */
}

int main(int argc, char *argv[])
{
    if (argc != 3) {
        fprintf(stderr, "usage: %s GROUP SECRET\n", argv[0]);
        return 2;
    }

    check("establish_connection",
          establish_connection(argv[1], argv[2]));

    check("put_value", put_value("example", "hello"));
    show("example");

    check("put_value", put_value("example", "good morning"));
    show("example");

    check("delete_value", delete_value("example"));
    show("example");

    check("close_connection", close_connection());
    return EXIT_SUCCESS;
}
