/*
 * calls.c - makes the calls that its arguments name, and prints the code of each on a line.
 *
 *     calls 'establish g1 abcde' 'put k v' 'get k' 'delete k' 'register k' close ...
 *
 * `wait` among them makes no call and prints nothing: it waits for a line on standard input.
 *
 * SIGPIPE has its default effect: a library that raises it ends the program.
 */

#define _POSIX_C_SOURCE 200809L

#include "check.h"
#include "kvs.h"

static void callback(char *key)
{
    (void)key;
}

static int get(const char *key)
{
    char *value;
    int code = get_value(key, &value);

    CHECK((code == 1) == (value != NULL));
    free(value);
    return code;
}

static int call(char *words)
{
    const char *function = strtok(words, " ");
    const char *first = strtok(NULL, " ");
    const char *second = strtok(NULL, " ");

    if (strcmp(function, "establish") == 0)
        return establish_connection(first, second);
    if (strcmp(function, "put") == 0)
        return put_value(first, second);
    if (strcmp(function, "get") == 0)
        return get(first);
    if (strcmp(function, "delete") == 0)
        return delete_value(first);
    if (strcmp(function, "register") == 0)
        return register_callback(first, callback);
    CHECK(strcmp(function, "close") == 0);
    return close_connection();
}

int main(int argc, char *argv[])
{
    int before = descriptors();

    limit_run_time(60);
    setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "wait") == 0)
            CHECK(getchar() == '\n');
        else
            printf("%d\n", call(argv[i]));
    }
    printf("descriptors left open: %d\n", descriptors() - before);
    return EXIT_SUCCESS;
}
