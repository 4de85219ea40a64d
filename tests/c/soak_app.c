/*
 * soak_app.c - an application of the soak: makes the calls that its standard input says, one after
 * the other, and reports each, and each callback, in one line of standard output.
 *
 *     put KEY VALUE        =BEGIN CODE [VALUE]
 *     get KEY              !BEGIN CODE KEY [VALUE]
 *
 * A line that begins with `=` is the result of the next command, one with `!` that of a get in a
 * callback. VALUE, which is what follows one blank and may be empty, stands where code is 1 and the
 * call was a get. BEGIN is the number of lines that had been written when the call began: those
 * calls had returned before, whichever thread they were made by.
 *
 * It exits at the end of its input. It checks nothing: the model in the parent process does.
 */

#define _POSIX_C_SOURCE 200809L

#include "check.h"
#include "kvs.h"

#define LINE_SIZE 512 /* less than PIPE_BUF: a line arrives whole or, if it is killed, not at all */

static unsigned long written = 0;

static unsigned long begin(void)
{
    unsigned long now;

    lock_events();
    now = written;
    unlock_events();
    return now;
}

static void report(char mark, unsigned long began, int code, const char *key, const char *value)
{
    char line[LINE_SIZE];
    int length;

    length = snprintf(line, sizeof line, "%c%lu %d%s%s%s%s\n", mark, began, code, key ? " " : "",
                      key ? key : "", value ? " " : "", value ? value : "");
    CHECK(length > 0 && length < LINE_SIZE);
    NOTE(write_all(STDOUT_FILENO, line, (size_t)length); written++);
}

static void on_change(char *key)
{
    unsigned long began = begin();
    char *value;
    int code = get_value(key, &value);

    CHECK((code == 1) == (value != NULL));
    report('!', began, code, key, value);
    free(value);
}

static void get(const char *key)
{
    unsigned long began = begin();
    char *value;
    int code = get_value(key, &value);

    CHECK((code == 1) == (value != NULL));
    report('=', began, code, NULL, value);
    free(value);
}

static int call(const char *function, const char *first, const char *second)
{
    if (strcmp(function, "establish") == 0)
        return establish_connection(first, second);
    if (strcmp(function, "put") == 0)
        return put_value(first, second);
    if (strcmp(function, "delete") == 0)
        return delete_value(first);
    if (strcmp(function, "register") == 0)
        return register_callback(first, on_change);
    if (strcmp(function, "close") == 0)
        return close_connection();
    /* Sends nothing: checks whether the program is connected. */
    CHECK(strcmp(function, "ask") == 0);
    return put_value(NULL, NULL);
}

/* Terminates the first word, and returns the text after it; NULL if there is none. */
static char *next_word(char *word)
{
    char *blank = word ? strchr(word, ' ') : NULL;

    if (blank == NULL)
        return NULL;
    *blank = '\0';
    return blank + 1;
}

int main(void)
{
    char line[LINE_SIZE];

    while (fgets(line, sizeof line, stdin) != NULL) {
        char *first, *second;

        line[strcspn(line, "\n")] = '\0';
        first = next_word(line);
        second = next_word(first);
        if (strcmp(line, "get") == 0) {
            get(first);
        } else {
            unsigned long began = begin();

            report('=', began, call(line, first, second), NULL, NULL);
        }
    }
    return EXIT_SUCCESS;
}
