/*
 * codes.c - the error codes that have a cause other than a broken connection, from their real
 * causes.
 *
 *     codes GROUP SECRET VERSION
 *
 * After every failure the next attempt works, no value is returned, and no descriptor stays open.
 * With KVS_PROTOCOL in the environment the connection uses protocol v1, in which keys and values
 * are shorter.
 */

#define _POSIX_C_SOURCE 200809L

#include <limits.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "check.h"
#include "kvs.h"

static const char *group, *secret;

/* Open descriptors while unconnected. */
static int descriptors_before;

/* Texts of the greatest length, and longer by one byte. */
static char text99[KVS_MAX_TEXT + 1], text100[KVS_MAX_TEXT + 2];

/* Likewise keys and values, for the protocol of this run. */
static char *longest_key, *longer_key, *longest_value, *longer_value;

static char *text(size_t length)
{
    char *text = malloc(length + 1);

    CHECK(text != NULL);
    memset(text, 'x', length);
    text[length] = '\0';
    return text;
}

static void callback(char *key)
{
    (void)key;
}

/* get_value must return this code and clear *value. */
static void check_no_value(int code, const char *key)
{
    char *value = text99;

    CHECK_CODE(code, get_value(key, &value));
    CHECK(value == NULL);
}

static void check_unconnected(void)
{
    CHECK(descriptors() == descriptors_before);
    CHECK_CODE(-2, put_value("k", "v"));
    check_no_value(-2, "k");
    CHECK_CODE(-2, delete_value("k"));
    CHECK_CODE(-2, register_callback("k", callback));
    CHECK_CODE(-2, close_connection());

    /* Without a connection the arguments are not checked. */
    CHECK_CODE(-2, put_value(NULL, NULL));
    check_no_value(-2, NULL);
    CHECK_CODE(-2, get_value("k", NULL));
    CHECK_CODE(-2, delete_value(""));
    CHECK_CODE(-2, register_callback(text100, NULL));
    CHECK(descriptors() == descriptors_before);
}

static void connect_and_close(void)
{
    CHECK_CODE(0, establish_connection(group, secret));
    CHECK_CODE(1, close_connection());
    CHECK(descriptors() == descriptors_before);
}

/* The attempt fails with this code, leaves the process unconnected, and the next one works. */
static void check_failed_attempt(int code, const char *with_group, const char *with_secret)
{
    CHECK_CODE(code, establish_connection(with_group, with_secret));
    check_unconnected();
    connect_and_close();
}

static void names_for_all_codes(void)
{
    static const int codes[] = {
        KVS_ERROR_CLOSE, KVS_ERROR_NOT_CONNECTED, KVS_ERROR_SEND_REQUEST,
        KVS_ERROR_RECEIVE_READY, KVS_ERROR_NOT_READY, KVS_ERROR_SEND_STRING,
        KVS_ERROR_NOT_FOUND, KVS_ERROR_RECEIVE_ANSWER, KVS_ERROR_WRONG_SECRET,
        KVS_ERROR_RECEIVE_VALUE, KVS_ERROR_BIND, KVS_ERROR_CONNECT,
        KVS_ERROR_NO_GREETING, KVS_ERROR_REFUSED, KVS_ERROR_INVALID,
        KVS_ERROR_ALREADY_CONNECTED, KVS_ERROR_UNSUPPORTED, KVS_ERROR_CONFLICT,
        KVS_ERROR_LIMIT,
    };

    for (int i = 0; i < 19; i++)
        CHECK(codes[i] == -1 - i);
}

static void texts_for_all_codes(void)
{
    for (int code = -19; code <= -1; code++) {
        CHECK(kvs_strerror(code) != NULL);
        CHECK(strlen(kvs_strerror(code)) > 0);
        CHECK(strchr(kvs_strerror(code), '\n') == NULL);
        for (int other = code + 1; other <= -1; other++)
            CHECK(strcmp(kvs_strerror(code), kvs_strerror(other)) != 0);
    }
    /* A number that is no code has a text, too, and the text of a code never changes. */
    for (int i = 0; i < 5; i++) {
        static const int no_codes[] = {0, 1, -20, INT_MIN, INT_MAX};
        const char *text = kvs_strerror(-7);

        CHECK(kvs_strerror(no_codes[i]) != NULL);
        CHECK(strlen(kvs_strerror(no_codes[i])) > 0);
        CHECK(kvs_strerror(-7) == text);
    }
}

static void establish_with_wrong_arguments(void)
{
    check_failed_attempt(-15, NULL, secret);
    check_failed_attempt(-15, group, NULL);
    check_failed_attempt(-15, NULL, NULL);
    check_failed_attempt(-15, "", secret);
    check_failed_attempt(-15, group, "");
    check_failed_attempt(-15, text100, secret);
    check_failed_attempt(-15, group, text100);

    check_failed_attempt(-7, "no such group", secret);
    check_failed_attempt(-7, text99, secret);
    check_failed_attempt(-9, group, "wrong");
    check_failed_attempt(-9, group, text99);
}

/* `name` is the environment variable of the socket's path. */
static void establish_without_a_server(const char *name)
{
    struct sockaddr_un stale = {.sun_family = AF_UNIX};
    char *right = strdup(getenv(name));
    int listener;

    CHECK(right != NULL);
    /* The library waits until the callback socket is bound. */
    setenv("KVS_TIMEOUT_MS", "1000", 1);

    setenv(name, "/nonexistent/socket", 1);
    CHECK_CODE(-12, establish_connection(group, secret));
    check_unconnected();

    /* A file that is not a socket. */
    setenv(name, "/dev/null", 1);
    CHECK_CODE(-12, establish_connection(group, secret));
    check_unconnected();

    /* The path of a server that has died. */
    snprintf(stale.sun_path, sizeof stale.sun_path, "%s.stale", right);
    listener = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(bind(listener, (struct sockaddr *)&stale, sizeof stale) == 0);
    close(listener);
    setenv(name, stale.sun_path, 1);
    CHECK_CODE(-12, establish_connection(group, secret));
    check_unconnected();
    CHECK(unlink(stale.sun_path) == 0);

    setenv(name, right, 1);
    free(right);
    unsetenv("KVS_TIMEOUT_MS");
    connect_and_close();
}

/* A file in /tmp has the name to which the library binds its socket. */
static void take_path(char *path, const char *format, int number)
{
    int length = sprintf(path, format, (long)getpid());

    if (number > 0)
        sprintf(path + length, "_%d", number);
    CHECK(mkdir(path, 0700) == 0);
}

/*
 * Names that are taken do not prevent a connection: the library uses another one and removes no
 * file.
 */
static void establish_with_taken_paths(const char *format, int count)
{
    char paths[8][64];

    CHECK(count <= 8);
    for (int i = 0; i < count; i++)
        take_path(paths[i], format, i);
    connect_and_close();
    /* Fails if the library has removed a foreign file. */
    for (int i = 0; i < count; i++)
        CHECK(rmdir(paths[i]) == 0);
    check_unconnected();
    connect_and_close();
}

static void already_connected(void)
{
    CHECK_CODE(0, establish_connection(group, secret));
    CHECK_CODE(-16, establish_connection(group, secret));
    CHECK_CODE(-16, establish_connection("no such group", "wrong"));
    /* The existing connection is not affected. */
    CHECK_CODE(1, put_value("k", "v"));
    CHECK_CODE(1, delete_value("k"));
    CHECK_CODE(1, close_connection());
    check_unconnected();
    connect_and_close();
}

static void check_pair(const char *key, const char *value)
{
    char *answer;

    CHECK_CODE(1, put_value(key, value));
    CHECK_CODE(1, get_value(key, &answer));
    CHECK(strcmp(answer, value) == 0);
    free(answer);
}

static void operations_with_wrong_arguments(void)
{
    char *no_keys[] = {NULL, "", longer_key};
    char *value = text99;

    CHECK_CODE(0, establish_connection(group, secret));
    for (int i = 0; i < 3; i++) {
        CHECK_CODE(-15, put_value(no_keys[i], "v"));
        check_no_value(-15, no_keys[i]);
        CHECK_CODE(-15, delete_value(no_keys[i]));
        CHECK_CODE(-15, register_callback(no_keys[i], callback));
    }
    CHECK_CODE(1, put_value("k", "v"));
    CHECK_CODE(-15, put_value("k", NULL));
    CHECK_CODE(-15, put_value("k", longer_value));
    CHECK_CODE(-15, put_value(NULL, NULL));
    CHECK_CODE(-15, get_value("k", NULL));
    CHECK_CODE(-15, get_value(NULL, NULL));
    CHECK_CODE(-15, register_callback("k", NULL));

    /* None of the calls has changed anything, and the longest valid arguments work. */
    CHECK_CODE(1, get_value("k", &value));
    CHECK(strcmp(value, "v") == 0);
    free(value);
    CHECK_CODE(1, delete_value("k"));
    check_pair(text99, text99);
    check_pair(text99, "");
    CHECK_CODE(1, register_callback(text99, callback));
    CHECK_CODE(1, delete_value(text99));
    check_pair(longest_key, longest_value);
    CHECK_CODE(1, register_callback(longest_key, callback));
    CHECK_CODE(1, delete_value(longest_key));

    check_no_value(-7, "no such key");
    check_no_value(-7, text99);
    CHECK_CODE(-7, delete_value("no such key"));
    CHECK_CODE(-7, delete_value(text99));
    CHECK_CODE(-7, register_callback("no such key", callback));
    CHECK_CODE(-7, register_callback(text99, callback));
    check_pair("k", "v");
    CHECK_CODE(1, delete_value("k"));

    CHECK_CODE(1, close_connection());
    check_unconnected();
}

int main(int argc, char *argv[])
{
    bool is_v2 = getenv("KVS_PROTOCOL") == NULL;
    size_t key = is_v2 ? KVS_MAX_KEY : KVS_MAX_TEXT;
    size_t value = is_v2 ? 16 * 1024 * 1024 : KVS_MAX_TEXT;

    CHECK(argc == 4);
    group = argv[1];
    secret = argv[2];
    limit_run_time(100);
    memset(text99, 'x', sizeof text99 - 1);
    memset(text100, 'x', sizeof text100 - 1);
    longest_key = text(key);
    longer_key = text(key + 1);
    longest_value = text(value);
    longer_value = text(value + 1);

    CHECK(strcmp(kvs_version(), argv[3]) == 0);
    names_for_all_codes();
    texts_for_all_codes();

    descriptors_before = descriptors();
    check_unconnected();
    connect_and_close();
    check_unconnected();

    establish_with_wrong_arguments();
    establish_without_a_server("KVS_SOCKET");
    establish_without_a_server("KVS_CALLBACK_SOCKET");
    establish_with_taken_paths("/tmp/app_socket_%ld", 1);
    establish_with_taken_paths("/tmp/app_socket_cb_%ld", 1);
    /* All names that the library tries first. The next one is random. */
    establish_with_taken_paths("/tmp/app_socket_%ld", 8);
    establish_with_taken_paths("/tmp/app_socket_cb_%ld", 8);
    already_connected();
    operations_with_wrong_arguments();

    free(longest_key);
    free(longer_key);
    free(longest_value);
    free(longer_value);
    puts("every code is right");
    return EXIT_SUCCESS;
}
