/*
 * plain.c - an application as in the course that defines none of the variables.
 *
 *     gcc plain.c -o plain KVS-lib.o
 *     ./plain GROUP SECRET
 */

#include <stdio.h>
#include <stdlib.h>

#include "KVS-lib.h"

int main(int argc, char *argv[])
{
    char *value;

    if (argc != 3 || establish_connection(argv[1], argv[2]) != 0)
        return 1;
    if (put_value("key", "value") != 1 || get_value("key", &value) != 1)
        return 1;
    printf("Value: %s\n", value);
    free(value);
    if (delete_value("key") != 1 || delete_value("key") != -7)
        return 1;
    return close_connection() == 1 ? 0 : 1;
}
