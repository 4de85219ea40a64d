/*
 * tour.c - one call of each function of the library, in an order in which each matters to the next.
 *
 *     tour GROUP SECRET KEY
 *
 * The program prints the name of each function before the call, and the name and the code (and the
 * value) after it. It continues whatever a call returns and ends with exit code 0: its output is
 * the result.
 */

#define _POSIX_C_SOURCE 200809L

#include <stdbool.h>

#include "check.h"
#include "kvs.h"

#define CALL(name, call)                                                                           \
    do {                                                                                           \
        puts(name);                                                                                \
        printf("%s %d\n", name, call);                                                             \
    } while (0)

static bool changed;

static void on_change(char *key)
{
    (void)key;
    NOTE(changed = true);
}

static void get(const char *key)
{
    char *value;
    int code;

    puts("get");
    code = get_value(key, &value);
    printf("get %d %s\n", code, value ? value : "-");
    free(value);
}

/*
 * Waits until the callback has run or can never run: put_value(NULL, NULL) checks the connection.
 */
static void await_change(void)
{
    const struct timespec pause = {.tv_nsec = 1000 * 1000};
    bool done = false;

    puts("await");
    while (!done && put_value(NULL, NULL) != -2) {
        NOTE(done = changed);
        nanosleep(&pause, NULL);
    }
    NOTE(done = changed);
    printf("await %d\n", done ? 1 : -2);
}

int main(int argc, char **argv)
{
    const char *key = argv[argc - 1];

    limit_run_time(100);
    setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
    CHECK(argc == 4);
    CALL("establish", establish_connection(argv[1], argv[2]));
    CALL("put first", put_value(key, "first"));
    get(key);
    CALL("register", register_callback(key, on_change));
    CALL("put second", put_value(key, "second"));
    await_change();
    get(key);
    CALL("delete", delete_value(key));
    CALL("close", close_connection());
    return EXIT_SUCCESS;
}
