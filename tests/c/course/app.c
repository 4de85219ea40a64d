/*
 * app.c - an application as in the course: it defines the variables that the library shares with
 * it, reads commands on a second thread, waits in main, and cancels the callback thread before it
 * closes the connection.
 *
 *     gcc app.c -o app KVS-lib.o
 *     ./app GROUP SECRET
 */

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "KVS-lib.h"

int cfd, cfd_cb;
struct sockaddr_un cl_addr, sv_addr, cl_addr_cb, sv_addr_cb;
pthread_t callback_tid, tid;
int exit_flag;

/* Set by the keyboard thread, not by the library. */
static volatile int asked_to_exit;

/* Whether the variables match the state of the system. */
static int variables_are_right(void)
{
    struct sockaddr_un address;
    socklen_t size = sizeof address;

    if (getpeername(cfd, (struct sockaddr *)&address, &size) != 0 ||
        strcmp(address.sun_path, sv_addr.sun_path) != 0)
        return 0;
    size = sizeof address;
    if (getsockname(cfd, (struct sockaddr *)&address, &size) != 0 ||
        strcmp(address.sun_path, cl_addr.sun_path) != 0)
        return 0;
    size = sizeof address;
    if (getpeername(cfd_cb, (struct sockaddr *)&address, &size) != 0 ||
        strcmp(address.sun_path, sv_addr_cb.sun_path) != 0)
        return 0;
    size = sizeof address;
    if (getsockname(cfd_cb, (struct sockaddr *)&address, &size) != 0 ||
        strcmp(address.sun_path, cl_addr_cb.sun_path) != 0)
        return 0;
    return cfd != cfd_cb && sv_addr.sun_family == AF_UNIX;
}

static void key_changed(char *key)
{
    printf("The key %s was changed\n", key);
}

/* A child has no connection and may open its own. */
static void fork_child(char **argv)
{
    int status;
    pid_t child;

    fflush(stdout);
    child = fork();
    if (child == 0) {
        int right = cfd == -1 && cfd_cb == -1 && put_value(NULL, NULL) == -2;

        right = right && establish_connection(argv[1], argv[2]) == 0 && variables_are_right();
        right = right && pthread_cancel(callback_tid) == 0 && close_connection() == 1 && cfd == -1;
        _exit(right ? 0 : 1);
    }
    waitpid(child, &status, 0);
    printf("child %s\n", WIFEXITED(status) && WEXITSTATUS(status) == 0 ? "right" : "wrong");
    printf("variables %s\n", variables_are_right() ? "right" : "wrong");
}

static void *keyboard(void *arguments)
{
    char **argv = arguments, line[100], *value;

    while (fgets(line, sizeof line, stdin) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        if (strcmp(line, "establish") == 0) {
            printf("%d\n", establish_connection(argv[1], argv[2]));
            printf("variables %s\n", variables_are_right() ? "right" : "wrong");
        } else if (strcmp(line, "put") == 0) {
            printf("%d\n", put_value("key", "value"));
        } else if (strcmp(line, "get") == 0) {
            if (get_value("key", &value) == 1) {
                printf("Value: %s\n", value);
                free(value);
            }
        } else if (strcmp(line, "get nothing") == 0) {
            printf("%d\n", get_value("nothing", &value));
        } else if (strcmp(line, "register") == 0) {
            printf("%d\n", register_callback("key", key_changed));
        } else if (strcmp(line, "close") == 0) {
            printf("cancelled %d\n", pthread_cancel(callback_tid));
            printf("%d\n", close_connection());
            printf("descriptors %d %d\n", cfd, cfd_cb);
        } else if (strcmp(line, "puts") == 0) {
            /* Continues after the server is gone: the library ends this thread. */
            for (;;)
                put_value("key", "value");
        } else if (strcmp(line, "fork") == 0) {
            fork_child(argv);
        } else if (strcmp(line, "exit") == 0) {
            asked_to_exit = 1;
            exit_flag = 1;
        }
        fflush(stdout);
    }
    return NULL;
}

int main(int argc, char *argv[])
{
    void *ended;

    if (argc != 3)
        return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (cfd != -1 || cfd_cb != -1)
        printf("descriptors %d %d\n", cfd, cfd_cb);
    if (pthread_create(&tid, NULL, keyboard, argv) != 0)
        return 1;
    while (exit_flag == 0)
        ;
    /* After a forced close the library has set it. */
    if (asked_to_exit)
        pthread_cancel(tid);
    else if (cfd != -1 || cfd_cb != -1)
        printf("still connected\n");
    if (pthread_join(tid, &ended) == 0 && ended == PTHREAD_CANCELED)
        printf("keyboard cancelled\n");
    printf("Exiting the app...\n");
    return 0;
}
