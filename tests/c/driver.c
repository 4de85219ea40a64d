/*
 * driver.c - makes the calls that it reads from standard input, and prints the result of each.
 *
 *     establish_connection g1 abcde
 *     get_value k1
 *
 * Each line is one call: the function and its arguments. A missing argument is NULL, and "" is
 * empty. The response is the function, the code, and the value if there is one. Callbacks print to
 * standard error. Unlike the interactive example the driver continues after a forced close, so that
 * a test can check the next calls.
 *
 * The kvs_ functions use one handle: `kvs_open GROUP SECRET` sets it, `kvs_close` closes it;
 * `kvs_put K V`, `kvs_put_many K V` (that pair, twice), `kvs_get K`, `kvs_delete K`, `kvs_cas K V`
 * (if absent), `kvs_keys PREFIX`, `kvs_watch K` and so on. The callback of `kvs_on_disconnect`
 * prints `disconnected`.
 *
 * Other commands: `put_long KEY LENGTH` puts a value of this length; `release` releases the blocked
 * callback; `descriptors`, `threads`, `paths` (of the process's sockets in /tmp) and `memory` (in
 * bytes) return what the process uses; `await_threads N`; `timeout MILLISECONDS` of the next
 * connection; `spare_descriptors N` limits further descriptors. With shim.c preloaded: `fail
 * FUNCTION NTH TIMES ERRNO THREAD`, and the numbers of `failures` and `calls`. In the test build of
 * the library: `panic_at POINT NTH`, with _ for spaces in the name of the point.
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

static int put_long(const char *key, size_t length)
{
    char *value = malloc(length + 1);
    int code;

    CHECK(value != NULL);
    memset(value, 'v', length);
    value[length] = '\0';
    code = put_value(key, value);
    free(value);
    return code;
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

            /* A longer number belongs to another process. */
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
    /* The limit is the first number that is too high. */
    for (int i = 0; i <= count; i++) {
        number = taken[i] = dup(STDIN_FILENO);
        CHECK(number >= 0);
    }
    for (int i = 0; i <= count; i++)
        close(taken[i]);
    limit.rlim_cur = number < 0 ? limit.rlim_max : (rlim_t)number;
    return setrlimit(RLIMIT_NOFILE, &limit);
}

/* A function that exists only in some tests. */
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

static kvs_t *handle;

static void on_change_handle(const void *key, size_t key_len, uint64_t version, void *user)
{
    (void)key_len, (void)version, (void)user;
    fprintf(stderr, "changed %s\n", (const char *)key);
}

static void on_key(const void *key, size_t key_len, void *user)
{
    (void)key, (void)key_len, (void)user;
}

static void on_disconnect(void *user, int reason)
{
    (void)user, (void)reason;
    fprintf(stderr, "disconnected\n");
}

static int call_handle(const char *function, const char *first, const char *second)
{
    size_t length = first == NULL ? 0 : strlen(first), more = second == NULL ? 0 : strlen(second);
    kvs_pair_t pairs[] = {{first, length, second, more}, {first, length, second, more}};
    uint64_t number = 0;
    void *value;
    int code;

    if (strcmp(function, "kvs_open") == 0)
        return kvs_open(&handle, first, second);
    if (strcmp(function, "kvs_close") == 0) {
        code = kvs_close(handle);
        handle = NULL;
        return code;
    }
    if (strcmp(function, "kvs_protocol") == 0)
        return kvs_protocol(handle);
    if (strcmp(function, "kvs_put") == 0)
        return kvs_put(handle, first, length, second, more, NULL);
    if (strcmp(function, "kvs_put_many") == 0)
        return kvs_put_many(handle, pairs, 2, &number);
    if (strcmp(function, "kvs_get") == 0) {
        code = kvs_get(handle, first, length, &value, NULL, NULL);
        CHECK((code == 0) == (value != NULL));
        free(value);
        return code;
    }
    if (strcmp(function, "kvs_delete") == 0)
        return kvs_delete(handle, first, length);
    if (strcmp(function, "kvs_cas") == 0)
        return kvs_cas(handle, first, length, second, more, &number);
    if (strcmp(function, "kvs_keys") == 0)
        return kvs_keys(handle, first, length, &number, on_key, NULL);
    if (strcmp(function, "kvs_watch") == 0)
        return kvs_watch(handle, first, length, on_change_handle, NULL);
    if (strcmp(function, "kvs_watch_prefix") == 0)
        return kvs_watch_prefix(handle, first, length, on_change_handle, NULL);
    if (strcmp(function, "kvs_unwatch") == 0)
        return kvs_unwatch(handle, first, length);
    if (strcmp(function, "kvs_unwatch_prefix") == 0)
        return kvs_unwatch_prefix(handle, first, length);
    CHECK(strcmp(function, "kvs_on_disconnect") == 0);
    return kvs_on_disconnect(handle, on_disconnect, NULL);
}

static int call(const char *function, char *first, const char *second)
{
    if (strcmp(function, "establish_connection") == 0)
        return establish_connection(first, second);
    if (strcmp(function, "put_value") == 0)
        return put_value(first, second);
    if (strcmp(function, "put_long") == 0)
        return put_long(first, (size_t)atol(second));
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
    if (strncmp(function, "kvs_", 4) == 0)
        return call_handle(function, first, second);
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
