/*
 * rounds.c - several processes at work on one group, in a ring of watches.
 *
 *     rounds [-t THREADS] [-l] GROUP SECRET PROCESSES ROUNDS
 *
 * Every process puts values under keys of its own and gets them back, ROUNDS times; process 0 does
 * so with THREADS threads on its one connection. In every round it also increments a key that the
 * next process watches. There may be fewer callbacks than puts, as changes are coalesced while a
 * subscriber is busy, but the numbers that callbacks read never decrease, the n-th is at least n,
 * and the last number is read.
 *
 * With -l nothing is coalesced: before the next change a writer waits for an acknowledgement, which
 * the subscriber's callback puts and a callback of the writer reads. Every callback must then read
 * exactly the next number.
 */

#define _POSIX_C_SOURCE 200809L

#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "check.h"
#include "kvs.h"

#define MAX_PROCESSES 64
#define MAX_THREADS 16
/* Keys of each thread. */
#define KEYS 16

/* The points at which every process waits for all others. */
enum meeting { KEYS_EXIST, ALL_WATCH, ALL_SEEN, MEETINGS };

/*
 * Pipes. `ready`: a byte of each process that has reached a meeting. `go`: one for each meeting,
 * which is closed to release all processes. `results`: the results.
 */
static int ready[2], go[MEETINGS][2], results[2];

struct result {
    int callbacks;
};

static int process;
static int rounds;
static bool lockstep;
static int threads;

/* What the process's own counter was set to last, and its keys. */
static pthread_mutex_t counter_mutex = PTHREAD_MUTEX_INITIALIZER;
static int counter = 0;
static char own_counter_key[32], watched_counter_key[32];
static char own_acknowledgement_key[32], given_acknowledgement_key[32];

/* The calls of the callbacks. */
static int callbacks = 0, number_seen = 0;
static int acknowledgements = 0;
/* A callback that runs while the connection is closed gets no value. */
static atomic_bool closing = false;

/* The number under a key; -1 when the connection is being closed. */
static int get_number(const char *key)
{
    char *value;
    int number, code = get_value(key, &value);

    if (code == -2 && closing)
        return -1;
    CHECK_CODE(1, code);
    number = atoi(value);
    free(value);
    return number;
}

static void counter_changed(char *key)
{
    int number;

    CHECK(strcmp(key, watched_counter_key) == 0);
    number = get_number(key);
    if (number == -1)
        return;
    /* A get inside a callback sees the value that was put, or a newer one. */
    CHECK(number >= number_seen);
    CHECK(number >= callbacks + 1);
    CHECK(number <= rounds);
    if (lockstep) {
        char text[16];

        CHECK(number == callbacks + 1);
        sprintf(text, "%d", number);
        CHECK_CODE(1, put_value(given_acknowledgement_key, text));
    }
    NOTE(callbacks++; number_seen = number);
}

static void acknowledged(char *key)
{
    CHECK(strcmp(key, own_acknowledgement_key) == 0);
    CHECK(get_number(key) == acknowledgements + 1);
    NOTE(acknowledgements++);
}

static void count_up(void)
{
    char text[16];

    pthread_mutex_lock(&counter_mutex);
    counter++;
    sprintf(text, "%d", counter);
    CHECK_CODE(1, put_value(own_counter_key, text));
    if (lockstep)
        AWAIT(acknowledgements == counter);
    pthread_mutex_unlock(&counter_mutex);
}

/* Values of all lengths; each differs from the others of its key, unless it is empty. */
static void make_value(char value[KVS_MAX_TEXT + 1], int thread, int round)
{
    int length = round % (KVS_MAX_TEXT + 1);
    char text[64];
    int text_length = sprintf(text, "%d/%d/%d ", process, thread, round);

    for (int i = 0; i < length; i++)
        value[i] = text[i % text_length];
    if (length > 0 && round % 2 == 0)
        value[length - 1] = (char)(1 + round % 4); /* as a function code begins */
    value[length] = '\0';
}

static void *work(void *argument)
{
    const int thread = *(const int *)argument;

    for (int round = thread; round < rounds; round += threads) {
        char key[32], value[KVS_MAX_TEXT + 1];
        char *answer;

        sprintf(key, "key-%d-%d-%d", process, thread, round % KEYS);
        make_value(value, thread, round);
        CHECK_CODE(1, put_value(key, value));
        CHECK_CODE(1, get_value(key, &answer));
        if (strcmp(answer, value) != 0)
            fail(__FILE__, __LINE__, "%s is \"%s\" instead of \"%s\"", key, answer, value);
        free(answer);
        count_up();
    }
    return NULL;
}

/* Notifies the parent that this process has reached a meeting, and waits for all others. */
static void meet(enum meeting meeting)
{
    char byte = 0;

    write_all(ready[1], &byte, 1);
    CHECK(read(go[meeting][0], &byte, 1) == 0);
}

static void run_child(const char *group, const char *secret, int count)
{
    const int previous = (process + count - 1) % count;
    const int before = descriptors();
    struct result result;

    limit_run_time(100);
    sprintf(own_counter_key, "counter-%d", process);
    sprintf(watched_counter_key, "counter-%d", previous);
    sprintf(own_acknowledgement_key, "seen-%d", process);
    sprintf(given_acknowledgement_key, "seen-%d", previous);

    CHECK_CODE(0, establish_connection(group, secret));
    CHECK_CODE(1, put_value(own_counter_key, "0"));
    CHECK_CODE(1, put_value(own_acknowledgement_key, "0"));
    meet(KEYS_EXIST);
    CHECK_CODE(1, register_callback(watched_counter_key, counter_changed));
    CHECK_CODE(1, register_callback(own_acknowledgement_key, acknowledged));
    meet(ALL_WATCH);

    if (threads == 1) {
        int thread = 0;

        work(&thread);
    } else {
        pthread_t ids[MAX_THREADS];
        int numbers[MAX_THREADS];

        for (int i = 0; i < threads; i++) {
            numbers[i] = i;
            CHECK(pthread_create(&ids[i], NULL, work, &numbers[i]) == 0);
        }
        for (int i = 0; i < threads; i++)
            pthread_join(ids[i], NULL);
    }
    CHECK(counter == rounds);
    AWAIT(number_seen == rounds);
    meet(ALL_SEEN);

    CHECK(!lockstep || callbacks == rounds);
    closing = true;
    CHECK_CODE(1, close_connection());
    CHECK(await_descriptors(before) == before);

    result.callbacks = callbacks;
    write_all(results[1], &result, sizeof result);
    _exit(EXIT_SUCCESS);
}

/* Exists to interrupt poll: before the last meeting a child ends only if it has failed. */
static void child_ended(int signal_number)
{
    (void)signal_number;
}

/* Waits until all processes have reached a meeting, then lets them continue. */
static void let_meet(enum meeting meeting, int count, const pid_t children[])
{
    for (int i = 0; i < count; i++) {
        struct pollfd poll_ready = {.fd = ready[0], .events = POLLIN, .revents = 0};
        char byte;

        if (poll(&poll_ready, 1, 60 * 1000) != 1 || read(ready[0], &byte, 1) != 1) {
            for (int j = 0; j < count; j++)
                kill(children[j], SIGKILL);
            fail(__FILE__, __LINE__, "only %d of %d processes came to the meeting", i, count);
        }
    }
    close(go[meeting][1]);
}

int main(int argc, char *argv[])
{
    static pid_t children[MAX_PROCESSES];
    int first_threads = 1, total_callbacks = 0, count, option;
    struct sigaction action;
    double start, seconds;

    while ((option = getopt(argc, argv, "t:l")) != -1) {
        CHECK(option == 't' || option == 'l');
        if (option == 't')
            first_threads = atoi(optarg);
        else
            lockstep = true;
    }
    CHECK(argc - optind == 4);
    count = atoi(argv[optind + 2]);
    rounds = atoi(argv[optind + 3]);
    CHECK(count > 1 && count <= MAX_PROCESSES && rounds > 0);
    CHECK(first_threads > 0 && first_threads <= MAX_THREADS);
    CHECK(pipe(ready) == 0 && pipe(results) == 0);
    for (int i = 0; i < MEETINGS; i++)
        CHECK(pipe(go[i]) == 0);
    memset(&action, 0, sizeof action);
    action.sa_handler = child_ended;
    action.sa_flags = SA_RESTART;
    CHECK(sigaction(SIGCHLD, &action, NULL) == 0);

    for (process = 0; process < count; process++) {
        threads = process == 0 ? first_threads : 1;
        children[process] = fork();
        CHECK(children[process] >= 0);
        if (children[process] == 0) {
            for (int i = 0; i < MEETINGS; i++)
                close(go[i][1]);
            run_child(argv[optind], argv[optind + 1], count);
        }
    }
    /* Otherwise reading would not end with the last child. */
    close(ready[1]);
    close(results[1]);

    let_meet(KEYS_EXIST, count, children);
    let_meet(ALL_WATCH, count, children);
    start = seconds_now();
    let_meet(ALL_SEEN, count, children);
    seconds = seconds_now() - start;

    for (int i = 0; i < count; i++) {
        struct result result;

        read_all(results[0], &result, sizeof result);
        total_callbacks += result.callbacks;
    }
    for (int i = 0; i < count; i++)
        check_child(children[i]);

    printf("%d processes, %d rounds each, %d callbacks, every value right; %.2f s, %.0f rounds/s\n",
           count, rounds, total_callbacks, seconds, (double)count * rounds / seconds);
    return EXIT_SUCCESS;
}
