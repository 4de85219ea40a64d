/*
 * crowd.c - a process that opens many connections to a socket and sends nothing.
 *
 *     crowd [-u UID] [-b OWN_PATH] PATH COUNT     opens them, and holds them until its input ends
 *     crowd [-u UID] -c PATH                      opens and closes them until its input ends
 *     crowd [-u UID] -a NAME                      holds an abstract socket until its input ends
 *
 * With -u the process runs as another user, with -b its sockets are bound to OWN_PATH. The first
 * form prints "connected" when all connections are open, then how they were greeted: "admitted A,
 * refused R, ended E" (ended: closed without a greeting), and "all ended" when the peer has closed
 * every connection.
 */

#define _DEFAULT_SOURCE

#include <grp.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "check.h"

static struct sockaddr_un address_of(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    CHECK(strlen(path) < sizeof address.sun_path);
    strcpy(address.sun_path, path);
    return address;
}

static int connect_to(const char *path, const char *own_path)
{
    struct sockaddr_un address = address_of(path);
    int descriptor = socket(AF_UNIX, SOCK_STREAM, 0);

    CHECK(descriptor >= 0);
    if (own_path != NULL) {
        struct sockaddr_un own = address_of(own_path);

        CHECK(bind(descriptor, (struct sockaddr *)&own, sizeof own) == 0);
    }
    if (connect(descriptor, (struct sockaddr *)&address, sizeof address) != 0)
        fail(__FILE__, __LINE__, "not connected: %s", strerror(errno));
    return descriptor;
}

static bool input_has_ended(int timeout_ms)
{
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};

    return poll(&input, 1, timeout_ms) == 1;
}

static void say(const char *text)
{
    puts(text);
    fflush(stdout);
}

/* Removes the connections that the peer has closed, and returns how many remain. */
static int still_open(int descriptors[], int count)
{
    int left = 0;

    for (int i = 0; i < count; i++) {
        char byte;

        if (recv(descriptors[i], &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN)
            descriptors[left++] = descriptors[i];
        else
            close(descriptors[i]);
    }
    return left;
}

static void hold(const char *path, const char *own_path, int count)
{
    int *descriptors = calloc((size_t)count, sizeof *descriptors);
    int admitted = 0, refused = 0, ended = 0;
    struct rlimit limit;

    CHECK(descriptors != NULL);
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    CHECK(limit.rlim_cur >= (rlim_t)count + 10);
    for (int i = 0; i < count; i++)
        descriptors[i] = connect_to(path, own_path);
    say("connected");
    for (int i = 0; i < count; i++) {
        int flag;

        switch (recv(descriptors[i], &flag, sizeof flag, MSG_WAITALL)) {
        case sizeof flag:
            CHECK(flag == 0 || flag == 1);
            if (flag == 1)
                admitted++;
            else
                refused++;
            break;
        case 0:
            ended++;
            break;
        default:
            fail(__FILE__, __LINE__, "no greeting: %s", strerror(errno));
        }
    }
    printf("admitted %d, refused %d, ended %d\n", admitted, refused, ended);
    fflush(stdout);
    while (count > 0 && !input_has_ended(50))
        count = still_open(descriptors, count);
    if (count == 0)
        say("all ended");
    CHECK(input_has_ended(-1));
}

static void come_and_go(const char *path)
{
    unsigned long count = 0;

    say("connected");
    for (; !input_has_ended(0); count++)
        close(connect_to(path, NULL));
    printf("%lu connections\n", count);
}

static void hold_name(const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    socklen_t length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name));
    int descriptor = socket(AF_UNIX, SOCK_STREAM, 0);

    CHECK(strlen(name) + 1 < sizeof address.sun_path);
    strcpy(address.sun_path + 1, name);
    CHECK(bind(descriptor, (struct sockaddr *)&address, length) == 0);
    CHECK(listen(descriptor, 1) == 0);
    say("listening");
    CHECK(input_has_ended(-1));
}

int main(int argc, char *argv[])
{
    const char *own_path = NULL;
    bool coming_and_going = false, abstract = false;
    struct rlimit limit;
    uid_t uid = 0;
    int option;

    while ((option = getopt(argc, argv, "u:b:ca")) != -1) {
        CHECK(option == 'u' || option == 'b' || option == 'c' || option == 'a');
        if (option == 'u')
            uid = (uid_t)atoi(optarg);
        else if (option == 'b')
            own_path = optarg;
        else if (option == 'c')
            coming_and_going = true;
        else
            abstract = true;
    }
    limit_run_time(120);
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = limit.rlim_max;
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    if (uid != 0)
        CHECK(setgroups(0, NULL) == 0 && setgid((gid_t)uid) == 0 && setuid(uid) == 0);

    CHECK(argc - optind == (coming_and_going || abstract ? 1 : 2));
    if (abstract)
        hold_name(argv[optind]);
    else if (coming_and_going)
        come_and_go(argv[optind]);
    else
        hold(argv[optind], own_path, atoi(argv[optind + 1]));
    return EXIT_SUCCESS;
}
