/*
 * app.c - the interactive application.
 *
 * Shows the six functions: a command is a line with the name of a function, and each argument is a
 * line after its prompt.
 *
 *     ./app
 *     establish_connection
 *     Insert group id:
 *     g1
 *     ...
 *
 * The console of KVS-LocalServer creates a group and prints its secret (`Create group`). The
 * program exits after close_connection, when the server closes the connection, and at the end of
 * its input.
 */

#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kvs.h"

/* Longer lines are truncated. The longest group name or secret is far shorter. */
#define LINE_SIZE 1024

/* How often the program checks for a closed connection while it waits for input. */
#define PROBE_INTERVAL_MS 200

/* Whether there is a connection, according to the results of our calls. */
static bool connected = false;

/*
 * Whether the server has closed the connection: the group was deleted, or the server has exited.
 *
 * The six functions do not report that, so a program has to check for it regularly. A call with
 * invalid arguments sends nothing, and returns KVS_ERROR_INVALID while connected and
 * KVS_ERROR_NOT_CONNECTED otherwise.
 */
static bool connection_lost(void)
{
    return connected && put_value(NULL, NULL) == KVS_ERROR_NOT_CONNECTED;
}

/*
 * Reads one line without its newline. At the end of the input and after a forced close it exits the
 * program.
 *
 * It reads single bytes, because poll does not see the bytes in a buffer of stdio.
 */
static void read_line(char line[LINE_SIZE])
{
    size_t length = 0;

    for (;;) {
        struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
        char byte;
        ssize_t count;

        if (connection_lost()) {
            puts("App: Closing connection due to deletion of group or closed server");
            puts("Exiting the app...");
            exit(EXIT_SUCCESS);
        }

        if (poll(&input, 1, PROBE_INTERVAL_MS) <= 0)
            continue; /* no input yet, or a signal */

        count = read(STDIN_FILENO, &byte, 1);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0) {
            fprintf(stderr, "app: cannot read the input: %s\n", strerror(errno));
            close_connection();
            exit(EXIT_FAILURE);
        }
        if (count == 0 && length > 0)
            break; /* a last line without a newline; the next call detects the end again */
        if (count == 0) {
            close_connection();
            exit(EXIT_SUCCESS);
        }
        if (byte == '\n')
            break;
        if (length < LINE_SIZE - 1)
            line[length++] = byte;
    }
    line[length] = '\0';
}

static void ask(const char *prompt, char answer[LINE_SIZE])
{
    puts(prompt);
    read_line(answer);
}

/* Prints the result of a function. Returns whether it succeeded. */
static bool report(const char *function, int code)
{
    switch (code) {
    case KVS_ERROR_SEND_REQUEST:
    case KVS_ERROR_RECEIVE_READY:
    case KVS_ERROR_NOT_READY:
    case KVS_ERROR_SEND_STRING:
    case KVS_ERROR_RECEIVE_ANSWER:
    case KVS_ERROR_RECEIVE_VALUE:
        /* The library has closed the connection. The program can establish another one. */
        connected = false;
    }
    if (code < 0) {
        printf("App: %s\n", kvs_strerror(code));
        printf("Error in '%s'\n", function);
        return false;
    }
    printf("Successful '%s'\n", function);
    return true;
}

/* Runs on the library's thread. printf writes the line at once, so threads do not mix lines. */
static void key_changed(char *key)
{
    printf("The key %s was changed\n", key);
}

static void run_establish_connection(void)
{
    char group[LINE_SIZE], secret[LINE_SIZE];

    ask("Insert group id:", group);
    ask("Insert secret:", secret);
    if (report("establish_connection", establish_connection(group, secret))) {
        connected = true;
        printf("App PID: %ld\n", (long)getpid());
    }
}

static void run_put_value(void)
{
    char key[LINE_SIZE], value[LINE_SIZE];

    ask("Insert key:", key);
    ask("Insert value:", value);
    report("put_value", put_value(key, value));
}

static void run_get_value(void)
{
    char key[LINE_SIZE];
    char *value;

    ask("Insert key:", key);
    if (report("get_value", get_value(key, &value))) {
        printf("Value: %s\n", value);
        free(value);
    }
}

static void run_delete_value(void)
{
    char key[LINE_SIZE];

    ask("Insert key:", key);
    report("delete_value", delete_value(key));
}

static void run_register_callback(void)
{
    char key[LINE_SIZE];

    ask("Insert key:", key);
    report("register_callback", register_callback(key, key_changed));
}

static void run_close_connection(void)
{
    bool closed = report("close_connection", close_connection());

    puts("Exiting the app...");
    exit(closed ? EXIT_SUCCESS : EXIT_FAILURE);
}

int main(void)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } commands[] = {
        {"establish_connection", run_establish_connection},
        {"put_value", run_put_value},
        {"get_value", run_get_value},
        {"delete_value", run_delete_value},
        {"register_callback", run_register_callback},
        {"close_connection", run_close_connection},
    };
    const size_t command_count = sizeof commands / sizeof commands[0];

    /* Each line appears at once, in a pipe, too. */
    setvbuf(stdout, NULL, _IOLBF, BUFSIZ);

    for (;;) {
        char line[LINE_SIZE];
        size_t i = 0;

        read_line(line);
        while (i < command_count && strcmp(line, commands[i].name) != 0)
            i++;
        if (i < command_count)
            commands[i].run();
        else
            puts("Unknown Command");
    }
}
