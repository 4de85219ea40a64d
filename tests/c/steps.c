/*
 * steps.c - an application without the library that takes one step of the protocol at a time.
 *
 *     connect main /tmp/server_sock /tmp/app_socket_17     binds its own path, as the original does
 *     send main 00000000                                   these bytes, in one call
 *     take main 4                                          exactly so many, unless the stream ends
 *     close main
 *
 * One step a line; the answer is one line, too: `done`, the bytes that were taken, or `end` when
 * the peer has gone. Between two steps it does nothing, so that a test can stop or kill it exactly
 * there.
 */

#define _POSIX_C_SOURCE 200809L

#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "check.h"

static struct {
    const char *name;
    int socket;
} channels[] = {{"main", -1}, {"callback", -1}};

static int *channel(const char *name)
{
    for (size_t i = 0; i < sizeof channels / sizeof *channels; i++)
        if (strcmp(name, channels[i].name) == 0)
            return &channels[i].socket;
    CHECK(!"a channel");
    return NULL;
}

static struct sockaddr_un address(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    CHECK(strlen(path) < sizeof address.sun_path);
    strcpy(address.sun_path, path);
    return address;
}

static void step_connect(int *descriptor, const char *server, const char *own)
{
    struct sockaddr_un to = address(server), from = address(own);

    *descriptor = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(*descriptor >= 0);
    unlink(own);
    CHECK(bind(*descriptor, (struct sockaddr *)&from, sizeof from) == 0);
    CHECK(connect(*descriptor, (struct sockaddr *)&to, sizeof to) == 0);
    puts("done");
}

static void step_send(int descriptor, const char *hex)
{
    unsigned char bytes[4096];
    size_t length = strlen(hex) / 2;
    unsigned byte;

    CHECK(length <= sizeof bytes);
    for (size_t i = 0; i < length; i++) {
        CHECK(sscanf(hex + 2 * i, "%2x", &byte) == 1);
        bytes[i] = (unsigned char)byte;
    }
    /* A connection that the server has closed has a response of its own. */
    puts(write(descriptor, bytes, length) == (ssize_t)length ? "done" : "end");
}

static void step_take(int descriptor, size_t length)
{
    unsigned char bytes[4096];
    size_t have = 0;

    CHECK(length <= sizeof bytes);
    while (have < length) {
        ssize_t count = read(descriptor, bytes + have, length - have);

        if (count <= 0) {
            puts("end");
            return;
        }
        have += (size_t)count;
    }
    for (size_t i = 0; i < length; i++)
        printf("%02x", bytes[i]);
    puts("");
}

int main(void)
{
    char line[9000];

    limit_run_time(100);
    signal(SIGPIPE, SIG_IGN);
    setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
    while (fgets(line, sizeof line, stdin) != NULL) {
        const char *step = strtok(line, " \n");
        const char *name = strtok(NULL, " \n");
        const char *first = strtok(NULL, " \n");
        const char *second = strtok(NULL, " \n");
        int *descriptor;

        CHECK(step != NULL && name != NULL);
        descriptor = channel(name);
        if (strcmp(step, "connect") == 0) {
            CHECK(first != NULL && second != NULL);
            step_connect(descriptor, first, second);
        } else if (strcmp(step, "send") == 0) {
            CHECK(first != NULL);
            step_send(*descriptor, first);
        } else if (strcmp(step, "take") == 0) {
            CHECK(first != NULL);
            step_take(*descriptor, (size_t)atol(first));
        } else {
            CHECK(strcmp(step, "close") == 0);
            CHECK(close(*descriptor) == 0);
            puts("done");
        }
    }
    return EXIT_SUCCESS;
}
