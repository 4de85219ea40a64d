/*
 * api.c - what the six functions promise beyond their codes: callbacks, threads, fork, signals.
 *
 *     api GROUP SECRET
 *
 * To check that a callback is not called, the program changes another key afterwards and waits for
 * the callback of that one (a fence). Changes reach an application one after the other, so an
 * earlier callback would have run by then. It uses two fences in turn, as the order of two pending
 * changes is unspecified.
 */

#define _POSIX_C_SOURCE 200809L

#include <signal.h>
#include <stdbool.h>

#include "check.h"
#include "kvs.h"

static const char *group, *secret;
static pthread_t main_thread;

/* The calls of one callback, written under the event lock. */
struct calls {
    int count;
    char key[KVS_MAX_TEXT + 1];
    char value[KVS_MAX_TEXT + 1];
};

static struct calls first, second, fence_calls;

static void record(struct calls *calls, const char *key)
{
    char *value;

    CHECK(!pthread_equal(pthread_self(), main_thread));
    CHECK_CODE(1, get_value(key, &value));
    lock_events();
    strcpy(calls->key, key);
    strcpy(calls->value, value);
    /* Freed before another thread continues: a child that is forked then could not free it. */
    free(value);
    calls->count++;
    unlock_events();
}

static void call_first(char *key)
{
    record(&first, key);
}

static void call_second(char *key)
{
    record(&second, key);
}

static void call_fence(char *key)
{
    record(&fence_calls, key);
}

static void put(const char *key, const char *value)
{
    CHECK_CODE(1, put_value(key, value));
}

static void check_value(const char *key, const char *expected)
{
    char *value;

    CHECK_CODE(1, get_value(key, &value));
    CHECK(strcmp(value, expected) == 0);
    free(value);
}

static void establish(void)
{
    CHECK_CODE(0, establish_connection(group, secret));
    put("fence", "0");
    CHECK_CODE(1, register_callback("fence", call_fence));
}

static void pass_fence(void)
{
    for (int i = 0; i < 2; i++) {
        int before = fence_calls.count;

        put("fence", "x");
        AWAIT(fence_calls.count > before);
        CHECK(fence_calls.count == before + 1);
    }
}

static void watch(const char *key, void (*function)(char *))
{
    put(key, "before");
    CHECK_CODE(1, register_callback(key, function));
    NOTE(memset(&first, 0, sizeof first); memset(&second, 0, sizeof second));
}

/* Runs `run` in a forked child, which must succeed and exits as any program does. */
static void in_child(void (*run)(void))
{
    sigset_t none;
    pid_t child;

    fflush(NULL);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        /* A child forked on the library's thread would have all signals blocked. */
        sigemptyset(&none);
        CHECK(pthread_sigmask(SIG_SETMASK, &none, NULL) == 0);
        limit_run_time(60);
        reset_events();
        main_thread = pthread_self();
        run();
        exit(EXIT_SUCCESS);
    }
    check_child(child);
}

/* --- values ----------------------------------------------------------------------------------- */

static void every_value_comes_back(void)
{
    char value[KVS_MAX_TEXT + 1];

    for (int length = 0; length <= KVS_MAX_TEXT; length++) {
        for (int i = 0; i < length; i++)
            value[i] = (char)(1 + (length * 7 + i) % 255);
        value[length] = '\0';
        put("value", value);
        check_value("value", value);
        if (length > 0) {
            /* A key can be any text. */
            put(value, "v");
            check_value(value, "v");
            CHECK_CODE(1, delete_value(value));
        }
    }
    CHECK_CODE(1, delete_value("value"));
    CHECK_CODE(-7, delete_value("value"));
    put("value", "anew");
    check_value("value", "anew");
}

/* --- callbacks -------------------------------------------------------------------------------- */

static void own_puts_call_on_another_thread_and_the_same_value_counts(void)
{
    watch("own", call_first);
    for (int i = 1; i <= 3; i++) {
        put("own", "same");
        AWAIT(first.count == i);
        CHECK(strcmp(first.key, "own") == 0);
        CHECK(strcmp(first.value, "same") == 0);
    }
    pass_fence();
    CHECK(first.count == 3);
}

static void put_own_in_child(void)
{
    CHECK_CODE(0, establish_connection(group, secret));
    put("others", "from the child");
    CHECK_CODE(1, close_connection());
}

static void puts_of_others_call(void)
{
    watch("others", call_first);
    in_child(put_own_in_child);
    AWAIT(first.count == 1);
    CHECK(strcmp(first.value, "from the child") == 0);
}

static void registering_again_replaces_the_function(void)
{
    watch("replaced", call_first);
    CHECK_CODE(1, register_callback("replaced", call_second));
    put("replaced", "1");
    AWAIT(second.count == 1);
    pass_fence();
    CHECK(first.count == 0 && second.count == 1);
}

/* Each key has its own function. */
static void functions_belong_to_keys(void)
{
    put("left", "0");
    watch("right", call_second);
    CHECK_CODE(1, register_callback("left", call_first));
    put("left", "1");
    AWAIT(first.count == 1);
    put("right", "2");
    AWAIT(second.count == 1);
    CHECK(strcmp(first.key, "left") == 0 && strcmp(second.key, "right") == 0);
    pass_fence();
    CHECK(first.count == 1 && second.count == 1);
}

static int numbers_seen, last_number;

static void call_number(char *key)
{
    char *value;
    int number;

    CHECK_CODE(1, get_value(key, &value));
    number = atoi(value);
    free(value);
    /* The n-th call is for the n-th put or a later one. */
    CHECK(number >= last_number && number > numbers_seen);
    NOTE(numbers_seen++; last_number = number);
}

static void a_get_in_a_callback_sees_the_new_value_or_a_newer_one(void)
{
    watch("number", call_number);
    for (int i = 1; i <= 500; i++) {
        char number[16];

        sprintf(number, "%d", i);
        put("number", number);
    }
    AWAIT(last_number == 500);
}

/* A callback may write to its copy of the key. */
static void call_scribble(char *key)
{
    CHECK(strcmp(key, "scribble") == 0);
    memset(key, '#', strlen(key));
    NOTE(first.count++);
}

static void a_callback_may_write_on_its_key(void)
{
    watch("scribble", call_scribble);
    for (int i = 1; i <= 2; i++) {
        put("scribble", "x");
        AWAIT(first.count == i);
    }
}

static void call_everything(char *key)
{
    CHECK_CODE(-16, establish_connection(group, secret));
    put("made", "in a callback");
    check_value("made", "in a callback");
    CHECK_CODE(1, register_callback("made", call_second));
    CHECK_CODE(1, delete_value("doomed"));
    CHECK_CODE(-7, delete_value("doomed"));
    CHECK_CODE(1, register_callback(key, call_first));
    put("made", "again");
    NOTE(first.count = 100);
}

static void a_callback_may_call_every_function(void)
{
    put("doomed", "x");
    watch("everything", call_everything);
    put("everything", "1");
    AWAIT(first.count == 100);
    /* The callback registered one for `made` and put that key, and another one for its own key. */
    AWAIT(second.count == 1);
    CHECK(strcmp(second.value, "again") == 0);
    put("everything", "2");
    AWAIT(first.count == 101);
}

static void call_delete_own_key(char *key)
{
    CHECK_CODE(1, delete_value(key));
    NOTE(first.count++);
}

static void a_callback_may_delete_its_own_key(void)
{
    watch("deleting itself", call_delete_own_key);
    put("deleting itself", "1");
    AWAIT(first.count == 1);
    put("deleting itself", "2");
    pass_fence();
    CHECK(first.count == 1);
    check_value("deleting itself", "2");
}

static void call_exit(char *key)
{
    (void)key;
    NOTE(first.count++);
    pthread_exit(NULL);
}

static void a_callback_may_end_its_thread(void)
{
    watch("ending", call_exit);
    for (int i = 1; i <= 3; i++) {
        put("ending", "x");
        AWAIT(first.count == i);
        pass_fence();
    }
}

/* --- deleting --------------------------------------------------------------------------------- */

static void deleting_calls_nothing_and_ends_the_watch(void)
{
    watch("deleted", call_first);
    CHECK_CODE(1, delete_value("deleted"));
    pass_fence();
    CHECK(first.count == 0);

    put("deleted", "anew");
    pass_fence();
    CHECK(first.count == 0);

    CHECK_CODE(1, register_callback("deleted", call_second));
    put("deleted", "watched again");
    AWAIT(second.count == 1);
    pass_fence();
    CHECK(first.count == 0 && second.count == 1);
}

static void delete_and_put_in_child(void)
{
    CHECK_CODE(0, establish_connection(group, secret));
    CHECK_CODE(1, delete_value("deleted elsewhere"));
    put("deleted elsewhere", "anew");
    CHECK_CODE(1, close_connection());
}

static void another_application_that_deletes_a_key_ends_the_watch(void)
{
    watch("deleted elsewhere", call_first);
    in_child(delete_and_put_in_child);
    pass_fence();
    CHECK(first.count == 0);
}

/* --- closing ---------------------------------------------------------------------------------- */

static void closing_ends_all_watches(void)
{
    watch("closed", call_first);
    CHECK_CODE(1, close_connection());
    establish();
    put("closed", "1");
    pass_fence();
    CHECK(first.count == 0);
}

static int close_code;

static void call_close(char *key)
{
    int code = close_connection();

    CHECK_CODE(-2, put_value(key, "too late"));
    CHECK_CODE(-2, close_connection());
    NOTE(close_code = code; first.count++);
}

static void call_reopen(char *key)
{
    CHECK_CODE(1, close_connection());
    CHECK_CODE(0, establish_connection(group, secret));
    check_value(key, "1");
    NOTE(first.count++);
}

static void a_callback_may_close_the_connection(void)
{
    int before = descriptors();

    watch("closing", call_close);
    put("closing", "1");
    AWAIT(first.count == 1);
    CHECK(close_code == 1);
    CHECK_CODE(-2, put_value("closing", "2"));
    establish();
    check_value("closing", "1");
    put("closing", "2");
    pass_fence();
    CHECK(first.count == 1);
    CHECK(descriptors() == before);

    watch("reopening", call_reopen);
    put("reopening", "1");
    AWAIT(first.count == 1);
    check_value("reopening", "1");
    /* The new connection has a callback channel that works. */
    CHECK_CODE(1, register_callback("reopening", call_second));
    put("reopening", "2");
    AWAIT(second.count == 1);
    CHECK_CODE(1, close_connection());
    establish();
    CHECK(descriptors() == before);
}

static bool stop_working;
static int established;

/* 1, or -2 while there is no connection; then wait for the next one. */
static void check_working(int code, int established_before)
{
    CHECK(code == 1 || code == -2);
    if (code == -2)
        AWAIT(stop_working || established > established_before);
}

static void *work_until_stopped(void *argument)
{
    const char *key = argument;
    bool stopped = false;

    while (!stopped) {
        int established_before;
        char *value;
        int code;

        NOTE(stopped = stop_working; established_before = established);
        check_working(put_value(key, key), established_before);
        NOTE(established_before = established);
        code = get_value(key, &value);
        CHECK((code == 1) == (value != NULL));
        CHECK(value == NULL || strcmp(value, key) == 0);
        free(value);
        check_working(code, established_before);
    }
    return NULL;
}

static void closing_while_other_threads_call_gives_them_no_connection(void)
{
    static char keys[][8] = {"thread1", "thread2", "thread3"};
    pthread_t threads[3];
    int before = descriptors();

    for (int i = 0; i < 3; i++) {
        put(keys[i], keys[i]);
        CHECK(pthread_create(&threads[i], NULL, work_until_stopped, keys[i]) == 0);
    }
    for (int i = 0; i < 50; i++) {
        pass_fence();
        CHECK_CODE(1, close_connection());
        establish();
        NOTE(established++);
    }
    NOTE(stop_working = true);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    CHECK(descriptors() == before);
}

/* --- fork ------------------------------------------------------------------------------------- */

static void check_unconnected(void)
{
    char *value = (char *)"";

    CHECK_CODE(-2, put_value("forked", "by a child"));
    CHECK_CODE(-2, get_value("forked", &value));
    CHECK(value == NULL);
    CHECK_CODE(-2, delete_value("forked"));
    CHECK_CODE(-2, register_callback("forked", call_first));
    CHECK_CODE(-2, close_connection());
}

static void leave_at_once(void)
{
}

static void work_in_child(void)
{
    check_unconnected();
    establish();
    check_value("forked", "by the parent");
    watch("forked in child", call_first);
    put("forked in child", "1");
    AWAIT(first.count == 1);
    put("forked", "by a child");
    CHECK_CODE(1, close_connection());
    check_unconnected();
}

/* Forks on the library's thread, during a callback. A put of the child calls the callback again. */
static void call_fork(char *key)
{
    if (second.count == 0)
        in_child(work_in_child);
    record(&second, key);
}

static void a_forked_child_starts_unconnected_and_leaves_the_parent_alone(void)
{
    int before = descriptors();

    watch("forked", call_first);
    put("forked", "by the parent");
    AWAIT(first.count == 1);

    in_child(leave_at_once);
    in_child(check_unconnected);
    in_child(work_in_child);
    AWAIT(first.count == 2);
    CHECK(strcmp(first.value, "by a child") == 0);

    CHECK_CODE(1, register_callback("forked", call_fork));
    put("forked", "by the parent");
    AWAIT(second.count == 2);
    CHECK(strcmp(second.value, "by a child") == 0);
    CHECK(descriptors() == before);
}

/* --- signals ---------------------------------------------------------------------------------- */

static volatile sig_atomic_t signals_on_main, signals_elsewhere;

static void on_signal(int number)
{
    (void)number;
    if (pthread_equal(pthread_self(), main_thread))
        signals_on_main++;
    else
        signals_elsewhere++;
}

static const int signals[] = {SIGHUP,  SIGINT,  SIGQUIT, SIGUSR1, SIGUSR2,
                              SIGPIPE, SIGALRM, SIGTERM, SIGCHLD, SIGWINCH};
static const int signal_count = (int)(sizeof signals / sizeof signals[0]);

static void call_look_at_mask(char *key)
{
    sigset_t mask;
    int cancel_state;

    (void)key;
    CHECK(pthread_sigmask(SIG_SETMASK, NULL, &mask) == 0);
    for (int i = 0; i < signal_count; i++)
        CHECK(sigismember(&mask, signals[i]) == 1);
    CHECK(sigismember(&mask, SIGRTMIN) == 1 && sigismember(&mask, SIGRTMAX) == 1);
    CHECK(pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel_state) == 0);
    CHECK(cancel_state == PTHREAD_CANCEL_DISABLE);
    NOTE(first.count++);
}

static void signals_never_run_on_the_thread_of_the_library(void)
{
    struct sigaction action, previous[sizeof signals / sizeof signals[0]];
    sigset_t ours, before, pending;

    watch("mask", call_look_at_mask);
    put("mask", "1");
    AWAIT(first.count == 1);

    /* All other threads block the signal, so it must stay pending. */
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    sigemptyset(&ours);
    for (int i = 0; i < signal_count; i++) {
        sigaddset(&ours, signals[i]);
        CHECK(sigaction(signals[i], &action, &previous[i]) == 0);
    }
    CHECK(pthread_sigmask(SIG_BLOCK, &ours, &before) == 0);
    for (int i = 0; i < signal_count; i++)
        CHECK(kill(getpid(), signals[i]) == 0);
    pass_fence();
    CHECK(signals_on_main == 0 && signals_elsewhere == 0);
    CHECK(sigpending(&pending) == 0);
    for (int i = 0; i < signal_count; i++)
        CHECK(sigismember(&pending, signals[i]) == 1);

    CHECK(pthread_sigmask(SIG_SETMASK, &before, NULL) == 0);
    CHECK(signals_on_main == signal_count && signals_elsewhere == 0);
    for (int i = 0; i < signal_count; i++)
        CHECK(sigaction(signals[i], &previous[i], NULL) == 0);
    pass_fence();
}

static void check_mask_is_empty(void)
{
    sigset_t mask;

    CHECK(pthread_sigmask(SIG_SETMASK, NULL, &mask) == 0);
    for (int i = 0; i < signal_count; i++)
        CHECK(sigismember(&mask, signals[i]) == 0);
}

int main(int argc, char *argv[])
{
    int descriptors_before = descriptors();

    CHECK(argc == 3);
    group = argv[1];
    secret = argv[2];
    main_thread = pthread_self();
    limit_run_time(100);

    check_mask_is_empty();
    establish();
    /* Starting a thread of the library does not change the caller's signal mask. */
    check_mask_is_empty();

    every_value_comes_back();
    own_puts_call_on_another_thread_and_the_same_value_counts();
    puts_of_others_call();
    registering_again_replaces_the_function();
    functions_belong_to_keys();
    a_get_in_a_callback_sees_the_new_value_or_a_newer_one();
    a_callback_may_write_on_its_key();
    a_callback_may_call_every_function();
    a_callback_may_delete_its_own_key();
    a_callback_may_end_its_thread();
    deleting_calls_nothing_and_ends_the_watch();
    another_application_that_deletes_a_key_ends_the_watch();
    closing_ends_all_watches();
    a_callback_may_close_the_connection();
    closing_while_other_threads_call_gives_them_no_connection();
    a_forked_child_starts_unconnected_and_leaves_the_parent_alone();
    signals_never_run_on_the_thread_of_the_library();

    CHECK_CODE(1, close_connection());
    CHECK(descriptors() == descriptors_before);
    puts("everything is as promised");
    return EXIT_SUCCESS;
}
