/*
 * app.c - the interactive application.
 *
 * Shows all six functions: every command is a line with the name of a function, every argument
 * is a line of its own after its prompt.
 *
 *     ./app
 *     establish_connection
 *     Insert group id:
 *     g1
 *     ...
 *
 * The group and its secret come from the console of KVS-LocalServer (`Create group`). The program
 * ends with close_connection, when the server closes the connection, or with the end of the input.
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

/* Far longer than any text that the library accepts: a line that is cut here is refused there. */
#define LINE_SIZE 1024

/* How often a closed connection is looked for while nobody types. */
#define PROBE_INTERVAL_MS 200

/* Whether there is a connection, as far as the codes of our own calls tell. */
static bool connected = false;

/*
 * Whether the connection that this program had is gone: its group was deleted, or the server quit.
 *
 * The six functions have no event for that, so a program that waits for something else has to ask
 * now and then. A call whose arguments are invalid is the way to ask without side effects: it
 * sends nothing, and answers -15 on a live connection and -2 when there is none.
 */
static bool connection_lost(void)
{
    return connected && put_value(NULL, NULL) == KVS_ERROR_NOT_CONNECTED;
}

/*
 * Reads one line without its newline. Does not return when there is nothing more to do: at the end
 * of the input and after a forced close the program ends here.
 *
 * It reads byte by byte because bytes in a stdio buffer would be hidden from poll.
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
            continue; /* nobody typed, or a signal */

        count = read(STDIN_FILENO, &byte, 1);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0) {
            fprintf(stderr, "app: cannot read the input: %s\n", strerror(errno));
            close_connection();
            exit(EXIT_FAILURE);
        }
        if (count == 0 && length > 0)
            break; /* a last line without a newline; the next call sees the end again */
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

/* Says how a function went; true when it succeeded. */
static bool report(const char *function, int code)
{
    switch (code) {
    case -3:
    case -4:
    case -5:
    case -6:
    case -8:
    case -10:
        /* It broke, and the library has closed it. Another may be established. */
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

/* Called by the library, on its own thread; one printf is one unbroken line even so. */
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

    /* Prompts and answers appear line by line in a pipe too. */
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
