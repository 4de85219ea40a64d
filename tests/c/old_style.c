/*
 * old_style.c - a caller written for the original header: its name, and `char *` everywhere.
 *
 *     old_style GROUP SECRET
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "KVS-lib.h"

void callback_function(char *key)
{
    printf("The key %s was changed\n", key);
}

int main(int argc, char *argv[])
{
    void (*callback)(char *) = callback_function;
    char key[] = "key", value[] = "value";
    char *group_id, *secret, *answer;

    if (argc != 3)
        return 2;
    group_id = argv[1];
    secret = argv[2];

    if (establish_connection(group_id, secret) != 0)
        return 1;
    if (put_value(key, value) != 1)
        return 1;
    if (register_callback(key, callback) != 1)
        return 1;
    if (get_value(key, &answer) != 1 || strcmp(answer, value) != 0)
        return 1;
    free(answer);
    if (delete_value(key) != 1)
        return 1;
    if (close_connection() != 1)
        return 1;
    return 0;
}
