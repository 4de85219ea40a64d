/*
 * habits.c - a client with every habit of the original one, and none of libkvs.
 *
 *     habits SOCKET CALLBACK_SOCKET GROUP SECRET ROUNDS
 *
 * Binds /tmp/app_socket_<pid> and /tmp/app_socket_cb_<pid>; sends the secret before it connects the
 * callback channel, which it tries once; awaits the callback flag before the verdict; sends the
 * next function code straight after a value, without asking whether the server has read it; every
 * message is one blocking send or recv. A thread answers the callback channel.
 *
 * It puts and gets ROUNDS values of every length from 0 to 99, every one of them ending with one of
 * the bytes 1 to 4, which are what a function code begins with, and checks every byte that comes
 * back.
 */

#define _POSIX_C_SOURCE 200809L

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "check.h"

enum { PUT = 0, GET = 1, DELETE = 2, REGISTER = 3, CLOSE = 4 };

#define MAX_TEXT 99
#define KEY_SIZE 100
#define KEYS 60

/* The key whose changes the program awaits one by one, and the number of changes. */
static const char watched_key[] = "watched";
#define ROUNDS_PER_CHANGE 100

static int main_socket, callback_socket;
static int changes = 0;
static bool callback_channel_ended = false;

static int connect_bound(const char *own_path_prefix, const char *server_path, char *own_path)
{
    struct sockaddr_un own = {.sun_family = AF_UNIX}, server = {.sun_family = AF_UNIX};
    int descriptor = socket(AF_UNIX, SOCK_STREAM, 0);

    CHECK(descriptor >= 0);
    sprintf(own_path, "%s%ld", own_path_prefix, (long)getpid());
    strcpy(own.sun_path, own_path);
    unlink(own_path);
    CHECK(bind(descriptor, (struct sockaddr *)&own, sizeof own) == 0);

    CHECK(strlen(server_path) < sizeof server.sun_path);
    strcpy(server.sun_path, server_path);
    CHECK(connect(descriptor, (struct sockaddr *)&server, sizeof server) == 0);
    return descriptor;
}

static void send_int(int descriptor, int number)
{
    CHECK(send(descriptor, &number, sizeof number, 0) == sizeof number);
}

static int receive_int(int descriptor)
{
    int number;

    CHECK(recv(descriptor, &number, sizeof number, 0) == sizeof number);
    return number;
}

/* An empty text is sent, too: a call that writes no byte. */
static void send_text(int descriptor, const char *text)
{
    CHECK(send(descriptor, text, strlen(text), 0) == (ssize_t)strlen(text));
}

static void *answer_callbacks(void *unused)
{
    char key[KEY_SIZE];
    int flag;

    (void)unused;
    for (;;) {
        /* main ends this thread by closing the stream. */
        ssize_t count = recv(callback_socket, &flag, sizeof flag, 0);

        if (count == 0)
            break;
        CHECK(count == sizeof flag);
        CHECK(flag == 1);
        send_int(callback_socket, 1);
        CHECK(recv(callback_socket, key, sizeof key, 0) == sizeof key);
        CHECK(strcmp(key, watched_key) == 0);
        for (size_t i = strlen(key); i < sizeof key; i++)
            CHECK(key[i] == '\0');
        NOTE(changes++);
    }
    NOTE(callback_channel_ended = true);
    return NULL;
}

static void begin(int code, const char *key)
{
    send_int(main_socket, code);
    CHECK(receive_int(main_socket) == 1);
    send_text(main_socket, key);
}

static void put(const char *key, const char *value)
{
    begin(PUT, key);
    CHECK(receive_int(main_socket) == 1);
    send_text(main_socket, value);
}

static void check_get(const char *key, const char *expected)
{
    char value[MAX_TEXT + 1];
    int length;

    begin(GET, key);
    length = receive_int(main_socket);
    if (length != (int)strlen(expected))
        fail(__FILE__, __LINE__, "length of %s is %d instead of %zu", key, length,
             strlen(expected));
    CHECK(recv(main_socket, value, (size_t)length + 1, 0) == length + 1);
    CHECK(memcmp(value, expected, (size_t)length + 1) == 0);
}

static void check_missing(const char *key)
{
    begin(GET, key);
    CHECK(receive_int(main_socket) == -1);
}

static void delete(const char *key)
{
    begin(DELETE, key);
    CHECK(receive_int(main_socket) == 1);
}

static uint32_t random_number(void)
{
    static uint32_t state = 2463534242u;

    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state;
}

/* Alternates the lengths, so that all of them occur; the bytes are any but NUL. */
static void make_value(char value[MAX_TEXT + 1], long round)
{
    size_t length = (size_t)(round % (MAX_TEXT + 1));

    for (size_t i = 0; i < length; i++)
        value[i] = (char)(1 + random_number() % 255);
    if (length > 0)
        value[length - 1] = (char)(1 + random_number() % 4);
    value[length] = '\0';
}

/* Short keys, keys of ten letters, and keys of the full length. */
static void make_key(char key[KEY_SIZE], int number)
{
    static const int widths[] = {3, 10, MAX_TEXT};

    memset(key, 'z', KEY_SIZE);
    sprintf(key + widths[number % 3] - 3, "%03d", number);
}

int main(int argc, char *argv[])
{
    static char keys[KEYS][KEY_SIZE], values[KEYS][MAX_TEXT + 1];
    char own_path[64], own_callback_path[64];
    const char *group, *secret;
    long rounds;
    double start, seconds;
    pthread_t thread;

    CHECK(argc == 6);
    group = argv[3];
    secret = argv[4];
    rounds = strtol(argv[5], NULL, 10);
    CHECK(rounds > 0);
    limit_run_time(60);

    main_socket = connect_bound("/tmp/app_socket_", argv[1], own_path);
    CHECK(receive_int(main_socket) == 1);
    send_text(main_socket, group);
    CHECK(receive_int(main_socket) == 1);
    send_text(main_socket, secret);
    callback_socket = connect_bound("/tmp/app_socket_cb_", argv[2], own_callback_path);
    CHECK(receive_int(callback_socket) == 1);
    CHECK(receive_int(main_socket) == 1);
    CHECK(pthread_create(&thread, NULL, answer_callbacks, NULL) == 0);

    put(watched_key, "0");
    begin(REGISTER, watched_key);
    CHECK(receive_int(main_socket) == 1);
    for (int i = 0; i < KEYS; i++) {
        make_key(keys[i], i);
        put(keys[i], values[i]);
    }

    start = seconds_now();
    for (long round = 0; round < rounds; round++) {
        int key = (int)(random_number() % KEYS), other = (int)(random_number() % KEYS);

        make_value(values[key], round);
        put(keys[key], values[key]);
        if (round % 7 == 0) {
            /* A put directly after a put. */
            make_value(values[other], round / 7);
            put(keys[other], values[other]);
            check_get(keys[other], values[other]);
        }
        check_get(keys[key], values[key]);

        if (round % 11 == 0) {
            /* A delete directly after a put; the pair comes back empty. */
            make_value(values[other], round);
            put(keys[other], values[other]);
            delete(keys[other]);
            check_missing(keys[other]);
            values[other][0] = '\0';
            put(keys[other], values[other]);
        }
        if (round % ROUNDS_PER_CHANGE == ROUNDS_PER_CHANGE - 1) {
            long change = round / ROUNDS_PER_CHANGE + 1;

            put(watched_key, "again");
            AWAIT(changes == change);
        }
    }
    seconds = seconds_now() - start;

    for (int i = 0; i < KEYS; i++)
        check_get(keys[i], values[i]);
    CHECK(changes == rounds / ROUNDS_PER_CHANGE);

    send_int(main_socket, CLOSE);
    CHECK(shutdown(callback_socket, SHUT_RDWR) == 0);
    AWAIT(callback_channel_ended);
    pthread_join(thread, NULL);
    close(main_socket);
    close(callback_socket);
    CHECK(unlink(own_path) == 0);
    CHECK(unlink(own_callback_path) == 0);

    printf("%ld rounds, %d changes, every value right; %.2f s, %.0f rounds/s\n", rounds, changes,
           seconds, (double)rounds / seconds);
    return EXIT_SUCCESS;
}
