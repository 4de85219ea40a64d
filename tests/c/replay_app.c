/*
 * replay_app.c - the operations of one recorded conversation, through the six functions.
 *
 *     replay_app CONVERSATION
 *
 * Performs them in their order and prints what each returned. The test that runs it is the server.
 */

#define _POSIX_C_SOURCE 200809L

#include "check.h"
#include "kvs.h"

static char changed[KVS_MAX_TEXT + 1];

static void on_change(char *key)
{
    NOTE(strcpy(changed, key));
}

static void report(const char *function, int code)
{
    printf("%s %d\n", function, code);
}

static void get(const char *key)
{
    char *value;
    int code = get_value(key, &value);

    printf("get_value %d %s\n", code, value ? value : "-");
    free(value);
}

static void full_session(void)
{
    report("establish_connection", establish_connection("g1", "VKHMp"));
    report("put_value", put_value("k1", "v1"));
    get("k1");
    get("nokey");
    report("register_callback", register_callback("k1", on_change));
    report("register_callback", register_callback("nokey", on_change));
    report("put_value", put_value("k1", "v2"));
    AWAIT(changed[0] != '\0');
    printf("callback %s\n", changed);
    get("k1");
    report("delete_value", delete_value("k1"));
    report("delete_value", delete_value("k1"));

    /*
     * The test now deletes the group, and writes a line when the library has closed the connection.
     */
    while (getchar() != '\n')
        CHECK(!feof(stdin));
    report("put_value", put_value("k1", "v3"));
    report("close_connection", close_connection());
}

int main(int argc, char *argv[])
{
    CHECK(argc == 2);
    limit_run_time(60);
    setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
    if (strcmp(argv[1], "app-unknown-group") == 0) {
        report("establish_connection", establish_connection("nogroup", "12345"));
    } else if (strcmp(argv[1], "app-wrong-secret") == 0) {
        report("establish_connection", establish_connection("g2", "wrong"));
    } else {
        CHECK(strcmp(argv[1], "app-full-session") == 0);
        full_session();
    }
    return EXIT_SUCCESS;
}
