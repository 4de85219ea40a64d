/*
 * put_get.c - one pair: put it, get it, replace it, delete it.
 *
 * Shows who owns the value that get_value returns, and that a missing key (-7) is an ordinary
 * answer and not the end of the connection.
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
    free(value); /* it is the caller's */
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
