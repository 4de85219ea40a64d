/*
 * app.c - an application as the course has them: it defines what the library shares with it, reads commands on a thread
 * of its own, waits in main, and cancels the callback thread before it closes.
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
#include <unistd.h>

#include "KVS-lib.h"

int cfd, cfd_cb;
struct sockaddr_un cl_addr, sv_addr, cl_addr_cb, sv_addr_cb;
pthread_t callback_tid, tid;
int exit_flag;

/* Whether the variables say the same as the system. */
static int variables_are_right(void)
{
    struct sockaddr_un address;
    socklen_t size = sizeof address;

    if (getpeername(cfd, (struct sockaddr *)&address, &size) != 0 || strcmp(address.sun_path, sv_addr.sun_path) != 0)
        return 0;
    size = sizeof address;
    if (getsockname(cfd, (struct sockaddr *)&address, &size) != 0 || strcmp(address.sun_path, cl_addr.sun_path) != 0)
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
        } else if (strcmp(line, "exit") == 0) {
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
    if (pthread_create(&tid, NULL, keyboard, argv) != 0)
        return 1;
    while (exit_flag == 0)
        ;
    if (cfd != -1)
        printf("still connected\n");
    if (pthread_cancel(tid) == 0 && pthread_join(tid, &ended) == 0 && ended == PTHREAD_CANCELED)
        printf("keyboard cancelled\n");
    printf("Exiting the app...\n");
    return 0;
}
