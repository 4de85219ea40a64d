/*
 * callbacks.c - callbacks and threads without restraint.
 *
 *     callbacks GROUP SECRET
 *
 * Callbacks that never return, that exit the process, that exit their thread a thousand times;
 * signals all the time; threads that are cancelled within every call. What callbacks may call is in
 * api.c, forks are in forks.c.
 */

#define _POSIX_C_SOURCE 200809L

#include <signal.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include "check.h"
#include "kvs.h"

#define EXITS 1000
#define CANCELLATIONS 200

static const char *group, *secret;
static pthread_t main_thread;

static int changes;

static void count_change(char *key)
{
    (void)key;
    NOTE(changes++);
}

static void check_value(const char *key, const char *expected)
{
    char *value;

    CHECK_CODE(1, get_value((char *)key, &value));
    CHECK(strcmp(value, expected) == 0);
    free(value);
}

static void connect_watching(const char *key, void (*function)(char *))
{
    CHECK_CODE(0, establish_connection(group, secret));
    CHECK_CODE(1, put_value(key, "before"));
    CHECK_CODE(1, register_callback(key, function));
    NOTE(changes = 0);
}

/* Waits until the library has only `more` threads. */
static void await_library_threads(int more)
{
    CHECK(await_threads(1 + more) == 1 + more);
}

/* Runs `run` in a process of its own, and returns how it ended. */
static int status_of(void (*run)(void))
{
    pid_t child;
    int status;

    fflush(NULL);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        limit_run_time(60);
        reset_events();
        main_thread = pthread_self();
        run();
        exit(EXIT_SUCCESS);
    }
    CHECK(waitpid(child, &status, 0) == child);
    return status;
}

/*
 * --- callbacks that never return ---------------------------------------------------------------
 */

static int blocked;

static void block_for_ever(char *key)
{
    (void)key;
    NOTE(blocked++);
    for (;;)
        pause();
}

static void callbacks_that_never_return(void)
{
    for (int i = 1; i <= 3; i++) {
        connect_watching("blocking", block_for_ever);
        CHECK_CODE(1, put_value("blocking", "now"));
        AWAIT(blocked == i);

        /* All calls still work. */
        CHECK_CODE(1, put_value("other", "value"));
        check_value("other", "value");
        CHECK_CODE(1, register_callback("other", count_change));
        CHECK_CODE(1, put_value("blocking", "again"));
        CHECK_CODE(1, delete_value("blocking"));
        CHECK_CODE(-16, establish_connection(group, secret));
        CHECK_CODE(1, close_connection());

        /* The next connection has callbacks of its own. */
        connect_watching("free", count_change);
        CHECK_CODE(1, put_value("free", "now"));
        AWAIT(changes == 1);
        CHECK_CODE(1, close_connection());
    }
    await_library_threads(3);
    /* This is the last part: the exit of this process does not wait for the callbacks. */
}

static void end_while_connected(void)
{
    connect_watching("blocking", block_for_ever);
    CHECK_CODE(1, put_value("blocking", "now"));
    AWAIT(blocked == 1);
}

/* --- exit ------------------------------------------------------------------------------------- */

static void close_at_exit(void)
{
    /* exit may be called on any thread, that of callbacks included. */
    CHECK_CODE(1, put_value("exiting", "at exit"));
    CHECK_CODE(1, close_connection());
}

static void call_exit(char *key)
{
    (void)key;
    exit(42);
}

/* The main thread is inside the library at this moment. */
static void exit_in_a_callback(void)
{
    connect_watching("exiting", call_exit);
    CHECK_CODE(1, put_value("exiting", "now"));
    for (;;) {
        char *value;

        /* -2 if the connection has been closed at exit. */
        if (get_value("exiting", &value) == 1)
            free(value);
    }
}

static void exit_in_a_callback_with_a_handler(void)
{
    CHECK(atexit(close_at_exit) == 0);
    exit_in_a_callback();
}

static void callbacks_that_exit(void)
{
    int status = status_of(exit_in_a_callback);

    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 42);
    status = status_of(exit_in_a_callback_with_a_handler);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 42);
    status = status_of(callbacks_that_never_return);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SUCCESS);
    status = status_of(end_while_connected);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SUCCESS);
}

/* --- pthread_exit ----------------------------------------------------------------------------- */

static void count_and_end_thread(char *key)
{
    count_change(key);
    pthread_exit(NULL);
}

static void callbacks_that_end_their_thread(void)
{
    int before;

    connect_watching("ending", count_and_end_thread);
    before = descriptors();
    for (int i = 1; i <= EXITS; i++) {
        CHECK_CODE(1, put_value("ending", "now"));
        AWAIT(changes == i);
    }
    await_library_threads(1);
    CHECK(descriptors() == before);
    CHECK_CODE(1, close_connection());
    await_library_threads(0);
}

/* --- signals ---------------------------------------------------------------------------------- */

static volatile sig_atomic_t alarms, alarms_elsewhere;

static void on_alarm(int number)
{
    (void)number;
    alarms++;
    if (!pthread_equal(pthread_self(), main_thread))
        alarms_elsewhere++;
}

/*
 * Sent to the process, twice per millisecond; the signals interrupt the waits of the main thread.
 */
static void signals_all_the_time(void)
{
    const struct itimerval often = {{0, 500}, {0, 500}}, never = {{0, 0}, {0, 0}};
    struct sigaction action, before;

    memset(&action, 0, sizeof action);
    action.sa_handler = on_alarm;
    CHECK(sigaction(SIGALRM, &action, &before) == 0);
    CHECK(setitimer(ITIMER_REAL, &often, NULL) == 0);
    for (int i = 0; i < 200 || alarms < 200; i++) {
        connect_watching("alarmed", count_change);
        for (int j = 1; j <= 5; j++) {
            CHECK_CODE(1, put_value("alarmed", "now"));
            check_value("alarmed", "now");
            AWAIT(changes == j);
        }
        CHECK_CODE(1, close_connection());
    }
    CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0);
    CHECK(sigaction(SIGALRM, &before, NULL) == 0);
    CHECK(alarms_elsewhere == 0);
    /* The timer was the one that limits the run time. */
    limit_run_time(100);
}

static pthread_t library_thread;

/* A callback that changes the state of its thread. */
static void unsettle(char *key)
{
    sigset_t none;

    sigemptyset(&none);
    CHECK(pthread_sigmask(SIG_SETMASK, &none, NULL) == 0);
    CHECK(pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL) == 0);
    library_thread = pthread_self();
    count_change(key);
}

static void the_next_callback_finds_its_thread_as_before(void)
{
    connect_watching("settled", unsettle);
    CHECK_CODE(1, put_value("settled", "now"));
    AWAIT(changes == 1);
    CHECK_CODE(1, put_value("fence", "before"));
    CHECK_CODE(1, register_callback("fence", count_change));
    CHECK_CODE(1, put_value("fence", "now"));
    AWAIT(changes == 2);
    /* The thread waits for the next change, or is about to. */
    CHECK(pthread_cancel(library_thread) == 0);
    CHECK_CODE(1, put_value("fence", "again"));
    AWAIT(changes == 3);
    CHECK_CODE(1, close_connection());
    await_library_threads(0);
}

/* --- pthread_cancel --------------------------------------------------------------------------- */

static volatile long calls;

static void do_establish(void)
{
    establish_connection(group, secret);
    close_connection();
}

static void do_put(void)
{
    CHECK_CODE(1, put_value("cancelled", "value"));
}

static void do_put_nothing(void)
{
    CHECK_CODE(1, put_value("cancelled", ""));
}

/* The key does not exist: a value that arrives while the thread is cancelled would leak. */
static void do_get(void)
{
    char *value;

    CHECK_CODE(-7, get_value("missing", &value));
}

static void do_delete(void)
{
    CHECK_CODE(-7, delete_value("missing"));
}

static void do_register(void)
{
    CHECK_CODE(1, register_callback("kept", count_change));
}

static void do_close(void)
{
    close_connection();
    establish_connection(group, secret);
}

static void *call_for_ever(void *argument)
{
    void (*const *call)(void) = argument;

    for (;;) {
        NOTE(calls++);
        (*call)();
        pthread_testcancel();
    }
    return NULL;
}

static void spin(int microseconds)
{
    double end = seconds_now() + microseconds / 1e6;

    while (seconds_now() < end)
        ;
}

static void threads_that_are_cancelled(void)
{
    static void (*const all[])(void) = {do_establish, do_put,      do_put_nothing, do_get,
                                        do_delete,    do_register, do_close};
    int before = descriptors();

    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        for (int n = 0; n < CANCELLATIONS; n++) {
            bool connects = all[i] == do_establish;
            pthread_t thread;
            void *result;

            if (!connects) {
                CHECK_CODE(0, establish_connection(group, secret));
                CHECK_CODE(1, put_value("kept", "value"));
            }
            NOTE(calls = 0);
            CHECK(pthread_create(&thread, NULL, call_for_ever, (void *)&all[i]) == 0);
            AWAIT(calls > 0);
            /* At a different moment each time. */
            spin(n * 3 % 200);
            CHECK(pthread_cancel(thread) == 0);
            CHECK(pthread_join(thread, &result) == 0);
            CHECK(result == PTHREAD_CANCELED);

            /* No lock is held, and nothing is half done. */
            close_connection();
            CHECK_CODE(0, establish_connection(group, secret));
            CHECK_CODE(1, put_value("kept", "value"));
            check_value("kept", "value");
            CHECK_CODE(1, close_connection());
        }
    await_library_threads(0);
    CHECK(descriptors() == before);
}

static void *establish_in_silence(void *unused)
{
    (void)unused;
    NOTE(calls++);
    CHECK_CODE(-13, establish_connection(group, secret));
    NOTE(calls++);
    pthread_testcancel();
    return NULL;
}

/* A thread that is cancelled while it waits for a silent server waits until the timeout. */
static void a_thread_that_is_cancelled_in_silence(void)
{
    struct sockaddr_un silent = {.sun_family = AF_UNIX};
    char *right = strdup(getenv("KVS_SOCKET"));
    int before = descriptors(), listener = socket(AF_UNIX, SOCK_STREAM, 0), accepted;
    pthread_t thread;
    void *result;

    snprintf(silent.sun_path, sizeof silent.sun_path, "%s.silent", right);
    CHECK(bind(listener, (struct sockaddr *)&silent, sizeof silent) == 0);
    CHECK(listen(listener, 1) == 0);
    setenv("KVS_SOCKET", silent.sun_path, 1);
    setenv("KVS_TIMEOUT_MS", "500", 1);
    NOTE(calls = 0);
    CHECK(pthread_create(&thread, NULL, establish_in_silence, NULL) == 0);
    /* The thread has connected, so it is inside the library. */
    accepted = accept(listener, NULL, NULL);
    CHECK(accepted >= 0);
    CHECK(pthread_cancel(thread) == 0);
    CHECK(pthread_join(thread, &result) == 0);
    CHECK(result == PTHREAD_CANCELED);
    CHECK(calls == 2);
    close(accepted);
    close(listener);
    CHECK(unlink(silent.sun_path) == 0);
    CHECK(descriptors() == before);
    setenv("KVS_SOCKET", right, 1);
    unsetenv("KVS_TIMEOUT_MS");
    free(right);
    connect_watching("afterwards", count_change);
    CHECK_CODE(1, close_connection());
}

int main(int argc, char *argv[])
{
    CHECK(argc == 3);
    group = argv[1];
    secret = argv[2];
    main_thread = pthread_self();
    limit_run_time(100);

    callbacks_that_exit();
    callbacks_that_end_their_thread();
    signals_all_the_time();
    the_next_callback_finds_its_thread_as_before();
    threads_that_are_cancelled();
    a_thread_that_is_cancelled_in_silence();
    printf("%d ended threads, %d signals, %d cancelled threads in each of 7 calls\n", EXITS,
           (int)alarms, CANCELLATIONS);
    return EXIT_SUCCESS;
}
