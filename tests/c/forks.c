/*
 * forks.c - forking while another thread is anywhere in the library.
 *
 *     forks GROUP SECRET CHILDREN
 *
 * One thread connects and closes in a loop, while the main thread forks CHILDREN processes, one
 * after the other. Each of them connects, puts a value, gets it back, closes, and ends as any
 * program does. Then the thread tries to connect where no server listens, which keeps it inside the
 * library nearly all of the time, and five times as many children do the same once.
 *
 * A child that hangs on something that the thread held when it was forked is ended by its alarm,
 * and the program fails.
 */

#define _POSIX_C_SOURCE 200809L

#include <stdbool.h>

#include "check.h"
#include "kvs.h"

static const char *group, *secret;

static bool stop;
static long logins;

static void connect_and_close(void)
{
    CHECK_CODE(0, establish_connection(group, secret));
    CHECK_CODE(1, close_connection());
}

static void connect_in_vain(void)
{
    CHECK_CODE(-12, establish_connection(group, secret));
}

static void work(int number)
{
    char key[32], value[32];
    char *answer;

    sprintf(key, "key-%d", number % 100);
    sprintf(value, "value-%d", number);
    CHECK_CODE(0, establish_connection(group, secret));
    CHECK_CODE(1, put_value(key, value));
    CHECK_CODE(1, get_value(key, &answer));
    CHECK(strcmp(answer, value) == 0);
    free(answer);
    CHECK_CODE(1, close_connection());
}

static void try_in_vain(int number)
{
    (void)number;
    connect_in_vain();
}

struct roles {
    void (*of_thread)(void);
    void (*of_child)(int number);
};

static void *loop(void *argument)
{
    const struct roles *roles = argument;
    bool stopped = false;

    while (!stopped) {
        roles->of_thread();
        NOTE(logins++; stopped = stop);
    }
    return NULL;
}

static void fork_during(struct roles roles, int count)
{
    double start = seconds_now();
    pthread_t thread;

    NOTE(logins = 0; stop = false);
    CHECK(pthread_create(&thread, NULL, loop, &roles) == 0);
    AWAIT(logins > 0);
    for (int i = 0; i < count; i++) {
        pid_t child = fork();

        CHECK(child >= 0);
        if (child == 0) {
            limit_run_time(10);
            roles.of_child(i);
            exit(EXIT_SUCCESS);
        }
        check_child(child);
    }
    NOTE(stop = true);
    CHECK(pthread_join(thread, NULL) == 0);
    printf("%d forks during %ld logins; %.2f s\n", count, logins, seconds_now() - start);
    /* Otherwise each child would print the buffer again. */
    fflush(stdout);
}

int main(int argc, char *argv[])
{
    static const struct roles real = {connect_and_close, work};
    static const struct roles vain = {connect_in_vain, try_in_vain};
    int count;

    CHECK(argc == 4);
    group = argv[1];
    secret = argv[2];
    count = atoi(argv[3]);
    limit_run_time(80);

    fork_during(real, count);
    setenv("KVS_SOCKET", "/nonexistent/socket", 1);
    fork_during(vain, 5 * count);
    return EXIT_SUCCESS;
}
