/*
 * some.c - an application as in the course that defines some of the variables, and whose main
 * thread ends before the process does.
 *
 *     gcc some.c -o some KVS-lib.o
 *     ./some GROUP SECRET
 */

#include <pthread.h>
#include <stdio.h>

#include "KVS-lib.h"

int cfd;
pthread_t callback_tid;

int main(int argc, char *argv[])
{
    if (argc != 3 || cfd != -1 || establish_connection("no such group", argv[2]) != -7 || cfd != -1)
        return 1;
    if (establish_connection(argv[1], argv[2]) != 0 || cfd < 0)
        return 1;
    if (pthread_cancel(callback_tid) != 0 || put_value("key", "value") != 1)
        return 1;
    if (close_connection() != 1 || cfd != -1)
        return 1;
    puts("closed");
    /* The process ends with its last thread: no thread of the library remains. */
    pthread_exit(NULL);
}
