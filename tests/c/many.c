/*
 * many.c - very many processes connected at the same time.
 *
 *     many GROUP SECRET COUNT
 *
 * Forks COUNT processes, each of which connects. When all are connected it prints `connected` and
 * waits for a line on standard input; then all put a value, get it back, and close.
 */

#define _POSIX_C_SOURCE 200809L

#include "check.h"
#include "kvs.h"

static void report(int reports, int code)
{
    write_all(reports, &code, sizeof code);
}

static void run_child(const char *group, const char *secret, int number, int reports, int go)
{
    char key[32], value[32], byte;
    char *answer;

    limit_run_time(60);
    report(reports, establish_connection(group, secret));
    /* Closing this pipe is the signal for all processes at once. */
    CHECK(read(go, &byte, 1) == 0);

    sprintf(key, "key-%d", number);
    sprintf(value, "value-%d", number);
    CHECK_CODE(1, put_value(key, value));
    CHECK_CODE(1, get_value(key, &answer));
    CHECK(strcmp(answer, value) == 0);
    free(answer);
    CHECK_CODE(1, close_connection());
    _exit(EXIT_SUCCESS);
}

int main(int argc, char *argv[])
{
    int reports[2], go[2];
    int count, errors = 0;
    double start, connected, resumed;
    pid_t *children;

    CHECK(argc == 4);
    count = atoi(argv[3]);
    CHECK(count > 0);
    children = malloc((size_t)count * sizeof *children);
    CHECK(children != NULL);
    CHECK(pipe(reports) == 0 && pipe(go) == 0);
    limit_run_time(60);

    start = seconds_now();
    for (int i = 0; i < count; i++) {
        children[i] = fork();
        CHECK(children[i] >= 0);
        if (children[i] == 0) {
            close(reports[0]);
            close(go[1]);
            run_child(argv[1], argv[2], i, reports[1], go[0]);
        }
    }
    close(reports[1]);
    close(go[0]);

    for (int i = 0; i < count; i++) {
        int code;

        read_all(reports[0], &code, sizeof code);
        if (code != 0) {
            fprintf(stderr, "establish_connection: %s\n", kvs_strerror(code));
            errors++;
        }
    }
    CHECK(errors == 0);
    connected = seconds_now();
    puts("connected");
    fflush(stdout);
    CHECK(getchar() == '\n');

    resumed = seconds_now();
    close(go[1]);
    for (int i = 0; i < count; i++) {
        int status;

        CHECK(waitpid(children[i], &status, 0) == children[i]);
        if (status != 0)
            errors++;
    }
    free(children);
    if (errors != 0)
        fail(__FILE__, __LINE__, "%d of %d processes failed", errors, count);

    printf("%d processes connected in %.2f s, and put, got and closed in %.2f s\n", count,
           connected - start, seconds_now() - resumed);
    return EXIT_SUCCESS;
}
