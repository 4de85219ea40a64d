/*
 * driver.c - makes the calls that its standard input says, and prints what each returned.
 *
 *     establish_connection g1 abcde
 *     get_value k1
 *
 * One call a line: the function and its arguments; what is left out is NULL, and "" is empty. It answers with the
 * function, the code, and the value if there may be one. What callbacks have to say goes to standard
 * error. Unlike the interactive example it goes on after a forced close, so that a test can see what
 * the next calls return.
 *
 * Besides the functions of the library it knows: `release` the blocked callback; how many `descriptors`,
 * `threads`, `paths` (of its sockets in /tmp) and bytes of `memory` it has; `await_threads N`; `timeout
 * MILLISECONDS` of the next connection; `spare_descriptors N`, how many it may still open; and, when shim.c
 * is preloaded, `fail FUNCTION NTH TIMES ERRNO THREAD`, and how many `failures` of `calls` there were; and,
 * in the test build of the library, `panic_at POINT NTH` with _ for spaces in the name of the point.
 *
 * SIGPIPE has its default effect: a library that raises it ends the program.
 */

#define _POSIX_C_SOURCE 200809L

#include <dlfcn.h>
#include <malloc.h>
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

static void on_change_exit(char *key)
{
    fprintf(stderr, "exiting %s\n", key);
    pthread_exit(NULL);
}

static void get(const char *key)
{
    char *value;
    int code = get_value(key, &value);

    CHECK((code == 1) == (value != NULL));
    printf("get_value %d %s\n", code, value ? value : "-");
    free(value);
}

static int paths(void)
{
    DIR *directory = opendir("/tmp");
    struct dirent *entry;
    char own[2][64];
    int count = 0;

    CHECK(directory != NULL);
    sprintf(own[0], "app_socket_%ld", (long)getpid());
    sprintf(own[1], "app_socket_cb_%ld", (long)getpid());
    while ((entry = readdir(directory)) != NULL)
        for (int i = 0; i < 2; i++) {
            size_t length = strlen(own[i]);
            const char *name = entry->d_name;

            /* A longer number is another process. */
            if (strncmp(name, own[i], length) == 0 && (name[length] == 0 || name[length] == '_'))
                count++;
        }
    closedir(directory);
    return count;
}

static int spare_descriptors(int count)
{
    int taken[16], number = -1;
    struct rlimit limit;

    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    CHECK(count < 16);
    /* The limit is the number that the first one too many would get. */
    for (int i = 0; i <= count; i++) {
        number = taken[i] = dup(STDIN_FILENO);
        CHECK(number >= 0);
    }
    for (int i = 0; i <= count; i++)
        close(taken[i]);
    limit.rlim_cur = number < 0 ? limit.rlim_max : (rlim_t)number;
    return setrlimit(RLIMIT_NOFILE, &limit);
}

/* A function that is there only in some tests. */
static void *extra(const char *name)
{
    void *function = dlsym(dlopen(NULL, RTLD_NOW), name);

    CHECK(function != NULL);
    return function;
}

static int shim_count(const char *name)
{
    int (*count)(void);

    *(void **)&count = extra(name);
    return count();
}

static int panic_at(char *point, const char *nth)
{
    int (*at)(const char *, int);

    /* Spaces separate the words of a command. */
    for (char *c = point; *c != '\0'; c++)
        if (*c == '_')
            *c = ' ';
    *(void **)&at = extra("kvs_panic_at");
    return at(point, atoi(nth));
}

static int shim_fail(const char *function, const char *nth)
{
    void (*fail)(const char *, int, int, int, int);
    int numbers[3];

    for (int i = 0; i < 3; i++)
        numbers[i] = atoi(strtok(NULL, " \n"));
    *(void **)&fail = extra("shim_fail");
    fail(function, atoi(nth), numbers[0], numbers[1], numbers[2]);
    return 1;
}

static int call(const char *function, char *first, const char *second)
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
    if (strcmp(function, "register_exiting_callback") == 0)
        return register_callback(first, on_change_exit);
    if (strcmp(function, "close_connection") == 0)
        return close_connection();
    if (strcmp(function, "release") == 0) {
        NOTE(released = true);
        return 1;
    }
    if (strcmp(function, "threads") == 0)
        return thread_count();
    if (strcmp(function, "await_threads") == 0)
        return await_threads(atoi(first));
    if (strcmp(function, "paths") == 0)
        return paths();
    if (strcmp(function, "memory") == 0)
        return (int)(mallinfo2().uordblks + mallinfo2().hblkhd);
    if (strcmp(function, "timeout") == 0)
        return setenv("KVS_TIMEOUT_MS", first, 1);
    if (strcmp(function, "spare_descriptors") == 0)
        return spare_descriptors(atoi(first));
    if (strcmp(function, "fail") == 0)
        return shim_fail(first, second);
    if (strcmp(function, "panic_at") == 0)
        return panic_at(first, second);
    if (strcmp(function, "calls") == 0)
        return shim_count("shim_calls");
    if (strcmp(function, "failures") == 0)
        return shim_count("shim_failures");
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
        char *first = strtok(NULL, " \n");
        const char *second = strtok(NULL, " \n");

        CHECK(function != NULL);
        if (second != NULL && strcmp(second, "\"\"") == 0)
            second = "";
        if (strcmp(function, "get_value") == 0)
            get(first);
        else if (strcmp(function, "kvs_strerror") == 0)
            printf("%s %s %s\n", function, first, kvs_strerror(atoi(first)));
        else
            printf("%s %d\n", function, call(function, first, second));
    }
    return EXIT_SUCCESS;
}
