/*
 * unload.c - a program that loads the library as a plug-in would be, and unloads it while
 * connected.
 *
 *     unload LIBRARY GROUP SECRET
 *
 * It prints `unloaded`; then the test changes the key `k`, and the callback is called by a thread
 * whose code would be gone if dlclose had unmapped it.
 */

#define _POSIX_C_SOURCE 200809L

#include <dlfcn.h>

#include "check.h"

#define ROUNDS 100

static int changes;

static void count_change(char *key)
{
    CHECK(strcmp(key, "k") == 0);
    NOTE(changes++);
}

static void *load(const char *path)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);

    CHECK(library != NULL);
    return library;
}

static void *find(void *library, const char *name)
{
    void *function = dlsym(library, name);

    CHECK(function != NULL);
    return function;
}

int main(int argc, char *argv[])
{
    int (*establish)(const char *, const char *), (*put)(const char *, const char *);
    int (*watch)(const char *, void (*)(char *)), (*leave)(void);
    void *library;

    CHECK(argc == 4);
    limit_run_time(60);
    for (int i = 0; i < ROUNDS; i++) {
        library = load(argv[1]);
        *(void **)&establish = find(library, "establish_connection");
        *(void **)&put = find(library, "put_value");
        *(void **)&watch = find(library, "register_callback");
        *(void **)&leave = find(library, "close_connection");
        /* Still connected from the previous round: the loaded library is the same. */
        CHECK_CODE(i == 0 ? -2 : 1, leave());
        CHECK_CODE(0, establish(argv[2], argv[3]));
        CHECK_CODE(1, put("k", "before"));
        CHECK_CODE(1, watch("k", count_change));
        CHECK(dlclose(library) == 0);
    }
    puts("unloaded");
    fflush(stdout);
    AWAIT(changes == 1);

    /* The fork handler belongs to the library, too. */
    fflush(NULL);
    for (int i = 0; i < 10; i++) {
        pid_t child = fork();

        if (child == 0)
            exit(EXIT_SUCCESS);
        check_child(child);
    }
    puts("called back");
    return EXIT_SUCCESS;
}
