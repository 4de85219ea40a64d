/*
 * driver.c - makes the calls that its standard input says, and prints what each returned.
 *
 *     establish_connection g1 abcde
 *     get_value k1
 *
 * One call a line: the function and its arguments; what is left out is NULL. It answers with the
 * function, the code, and the value if there may be one. What callbacks have to say goes to standard
 * error. Unlike the interactive example it goes on after a forced close, so that a test can see what
 * the next calls return.
 *
 * SIGPIPE has its default effect: a library that raises it ends the program.
 */

#define _POSIX_C_SOURCE 200809L

#include <stdbool.h>

#include "check.h"
#include "kvs.h"

static bool released = false;

static void on_change(char *key)
{
    fprintf(stderr, "changed %s\n", key);
}

static void on_change_read(char *key)
{
    char *value;
    int code = get_value(key, &value);

    fprintf(stderr, "read %s %d %s\n", key, code, value ? value : "-");
    free(value);
}

static void on_change_blocked(char *key)
{
    fprintf(stderr, "blocked %s\n", key);
    lock_events();
    while (!released)
        pthread_cond_wait(&event, &event_mutex);
    unlock_events();
    fprintf(stderr, "released %s\n", key);
}

static void get(const char *key)
{
    char *value;
    int code = get_value(key, &value);

    CHECK((code == 1) == (value != NULL));
    printf("get_value %d %s\n", code, value ? value : "-");
    free(value);
}

static int call(const char *function, const char *first, const char *second)
{
    if (strcmp(function, "establish_connection") == 0)
        return establish_connection(first, second);
    if (strcmp(function, "put_value") == 0)
        return put_value(first, second);
    if (strcmp(function, "delete_value") == 0)
        return delete_value(first);
    if (strcmp(function, "register_callback") == 0)
        return register_callback(first, on_change);
    if (strcmp(function, "register_reading_callback") == 0)
        return register_callback(first, on_change_read);
    if (strcmp(function, "register_blocked_callback") == 0)
        return register_callback(first, on_change_blocked);
    if (strcmp(function, "close_connection") == 0)
        return close_connection();
    if (strcmp(function, "release") == 0) {
        NOTE(released = true);
        return 1;
    }
    /* How many it has open. */
    CHECK(strcmp(function, "descriptors") == 0);
    return descriptors();
}

int main(void)
{
    char line[512];

    limit_run_time(100);
    setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
    while (fgets(line, sizeof line, stdin) != NULL) {
        const char *function = strtok(line, " \n");
        const char *first = strtok(NULL, " \n");
        const char *second = strtok(NULL, " \n");

        CHECK(function != NULL);
        if (strcmp(function, "get_value") == 0)
            get(first);
        else if (strcmp(function, "kvs_strerror") == 0)
            printf("%s %s %s\n", function, first, kvs_strerror(atoi(first)));
        else
            printf("%s %d\n", function, call(function, first, second));
    }
    return EXIT_SUCCESS;
}
