/*
 * handles.c - the promises of the kvs_ functions, with any number of handles in one process.
 *
 *     handles GROUP SECRET OTHER_GROUP OTHER_SECRET
 *
 * With KVS_PROTOCOL in the environment the connections use protocol v1: functions that it does not
 * support return -17, and everything else is as with protocol v2, within its limits. At the end the
 * program prints "delete" and waits until the other group is deleted; then it prints "kill", and
 * waits until the server is lost and a line "killed" arrives after its exit.
 */

#define _POSIX_C_SOURCE 200809L

#include <stdbool.h>
#include <stdint.h>

#include "check.h"
#include "kvs.h"

#define MIB (1024 * 1024)
#define LONGEST_VALUE (16 * MIB) /* the default limit of a server */
#define POISON 0x5A

static const char *group, *secret, *other_group, *other_secret;
static bool is_v2;

/* A test opens as many handles as it needs. */
static kvs_t *open_handle(void)
{
    kvs_t *kvs;

    CHECK_CODE(0, kvs_open(&kvs, group, secret));
    CHECK(kvs != NULL);
    CHECK_CODE(is_v2 ? 2 : 1, kvs_protocol(kvs));
    return kvs;
}

static int put(kvs_t *kvs, const char *key, const char *value)
{
    return kvs_put(kvs, key, strlen(key), value, strlen(value), NULL);
}

static int delete(kvs_t *kvs, const char *key)
{
    return kvs_delete(kvs, key, strlen(key));
}

/* Protocol v1 does not acknowledge a put: the response to a later call shows that it is stored. */
static void store(kvs_t *kvs, const char *key, const char *value)
{
    void *stored;

    CHECK_CODE(0, put(kvs, key, value));
    CHECK_CODE(0, kvs_get(kvs, key, strlen(key), &stored, NULL, NULL));
    free(stored);
}

static void check_value(kvs_t *kvs, const char *key, const char *value)
{
    void *found;
    size_t length;

    CHECK_CODE(0, kvs_get(kvs, key, strlen(key), &found, &length, NULL));
    CHECK(length == strlen(value));
    CHECK(memcmp(found, value, length + 1) == 0);
    free(found);
}

static void check_no_value(int code, kvs_t *kvs, const void *key, size_t key_len)
{
    void *value = &is_v2;
    size_t length = 77;
    uint64_t version = 78;

    CHECK_CODE(code, kvs_get(kvs, key, key_len, &value, &length, &version));
    CHECK(value == NULL);
    CHECK(length == 0 && version == 0);
}

static uint64_t version_of(kvs_t *kvs, const char *key)
{
    void *value;
    uint64_t version;

    CHECK_CODE(0, kvs_get(kvs, key, strlen(key), &value, NULL, &version));
    free(value);
    return version;
}

static void check_alive(kvs_t *kvs)
{
    store(kvs, "alive", "yes");
    CHECK_CODE(0, delete(kvs, "alive"));
}

static pthread_t start(void *(*run)(void *), void *argument)
{
    pthread_t thread;

    CHECK(pthread_create(&thread, NULL, run, argument) == 0);
    return thread;
}

static void join(pthread_t thread)
{
    CHECK(pthread_join(thread, NULL) == 0);
}

/* --- opening, closing, arguments ------------------------------------------------------------- */

static void ignore(const void *key, size_t key_len, uint64_t version, void *user)
{
    (void)key, (void)key_len, (void)version, (void)user;
}

static void ignore_key(const void *key, size_t key_len, void *user)
{
    (void)key, (void)key_len, (void)user;
}

static void ignore_end(void *user, int reason)
{
    (void)user, (void)reason;
}

static void check_not_opened(int code, const char *with_group, const char *with_secret)
{
    kvs_t *kvs = (kvs_t *)&is_v2;
    int before = descriptors();

    CHECK_CODE(code, kvs_open(&kvs, with_group, with_secret));
    CHECK(kvs == NULL);
    CHECK(descriptors() == before);
}

static void opening(void)
{
    char text100[101] = "";

    memset(text100, 'x', 100);
    CHECK_CODE(-15, kvs_open(NULL, group, secret));
    check_not_opened(-15, NULL, secret);
    check_not_opened(-15, group, NULL);
    check_not_opened(-15, "", secret);
    check_not_opened(-15, group, text100);
    check_not_opened(-15, text100, secret);
    check_not_opened(-7, "no such group", secret);
    check_not_opened(-9, group, "wrong");
    CHECK_CODE(-15, kvs_close(NULL));
    CHECK_CODE(-15, kvs_protocol(NULL));
}

static void wrong_arguments(void)
{
    kvs_t *kvs = open_handle();
    kvs_pair_t pair = {"k", 1, "v", 1};
    void *value;
    uint64_t number = 0;
    int cannot = is_v2 ? -15 : -17;

    CHECK_CODE(-15, kvs_put(NULL, "k", 1, "v", 1, NULL));
    CHECK_CODE(-15, kvs_put(kvs, NULL, 1, "v", 1, NULL));
    CHECK_CODE(-15, kvs_put(kvs, "k", 1, NULL, 1, NULL));
    CHECK_CODE(-15, kvs_put(kvs, "", 0, "v", 1, NULL));
    CHECK_CODE(-15, kvs_put(kvs, "k", SIZE_MAX, "v", 1, NULL));
    CHECK_CODE(-15, kvs_put(kvs, "k", 1, "v", SIZE_MAX, NULL));
    CHECK_CODE(-15, kvs_put_many(NULL, &pair, 1, NULL));
    CHECK_CODE(-15, kvs_put_many(kvs, NULL, 1, NULL));
    CHECK_CODE(cannot, kvs_put_many(kvs, &pair, 0, NULL));
    check_no_value(-15, NULL, "k", 1);
    check_no_value(-15, kvs, NULL, 1);
    check_no_value(-15, kvs, "", 0);
    CHECK_CODE(-15, kvs_get(kvs, "k", 1, NULL, NULL, NULL));
    CHECK_CODE(-15, kvs_delete(NULL, "k", 1));
    CHECK_CODE(-15, kvs_delete(kvs, NULL, 1));
    CHECK_CODE(-15, kvs_delete(kvs, "", 0));
    CHECK_CODE(-15, kvs_cas(NULL, "k", 1, "v", 1, &number));
    CHECK_CODE(-15, kvs_cas(kvs, "k", 1, "v", 1, NULL));
    CHECK_CODE(cannot, kvs_cas(kvs, "", 0, "v", 1, &number));
    CHECK_CODE(-15, kvs_keys(NULL, NULL, 0, &number, ignore_key, NULL));
    CHECK_CODE(-15, kvs_keys(kvs, NULL, 0, NULL, ignore_key, NULL));
    CHECK_CODE(-15, kvs_keys(kvs, NULL, 0, &number, NULL, NULL));
    CHECK_CODE(-15, kvs_keys(kvs, NULL, 1, &number, ignore_key, NULL));
    CHECK_CODE(-15, kvs_watch(NULL, "k", 1, ignore, NULL));
    CHECK_CODE(-15, kvs_watch(kvs, NULL, 1, ignore, NULL));
    CHECK_CODE(-15, kvs_watch(kvs, "", 0, ignore, NULL));
    CHECK_CODE(-15, kvs_watch(kvs, "k", 1, NULL, NULL));
    CHECK_CODE(-15, kvs_watch_prefix(NULL, "k", 1, ignore, NULL));
    CHECK_CODE(-15, kvs_watch_prefix(kvs, NULL, 1, ignore, NULL));
    CHECK_CODE(-15, kvs_watch_prefix(kvs, NULL, 0, NULL, NULL));
    CHECK_CODE(-15, kvs_unwatch(NULL, "k", 1));
    CHECK_CODE(-15, kvs_unwatch(kvs, NULL, 1));
    CHECK_CODE(-15, kvs_unwatch(kvs, "", 0));
    CHECK_CODE(-15, kvs_unwatch_prefix(NULL, "k", 1));
    CHECK_CODE(-15, kvs_on_disconnect(NULL, ignore_end, NULL));
    CHECK_CODE(-15, kvs_on_disconnect(kvs, NULL, NULL));
    CHECK(number == 0);

    check_no_value(-7, kvs, "missing", 7);
    CHECK_CODE(-7, delete(kvs, "missing"));
    CHECK_CODE(-7, kvs_watch(kvs, "missing", 7, ignore, NULL));
    CHECK_CODE(-7, kvs_unwatch(kvs, "missing", 7));
    /* None of these calls has changed anything or disconnected the handle. */
    CHECK_CODE(-7, kvs_get(kvs, "k", 1, &value, NULL, NULL));
    check_alive(kvs);
    CHECK_CODE(0, kvs_close(kvs));
}

/* Handles of the same group and of another one, next to the connection of the six functions. */
static void many_handles(void)
{
    int before = descriptors();
    kvs_t *one = open_handle(), *two = open_handle(), *other;
    char *value;

    CHECK_CODE(0, kvs_open(&other, other_group, other_secret));
    CHECK_CODE(0, establish_connection(group, secret));
    CHECK(descriptors() == before + 8);
    store(one, "k", "of one");
    check_value(two, "k", "of one");
    CHECK_CODE(1, get_value("k", &value));
    CHECK(strcmp(value, "of one") == 0);
    free(value);
    check_no_value(-7, other, "k", 1);
    store(other, "k", "of the other");
    check_value(one, "k", "of one");

    CHECK_CODE(0, kvs_close(one));
    check_value(two, "k", "of one");
    CHECK_CODE(1, close_connection());
    CHECK_CODE(-2, close_connection());
    check_value(two, "k", "of one");
    check_value(other, "k", "of the other");
    CHECK_CODE(0, delete(other, "k"));
    CHECK_CODE(0, delete(two, "k"));
    CHECK_CODE(0, kvs_close(two));
    CHECK_CODE(0, kvs_close(other));
    CHECK(descriptors() == before);
    CHECK(await_threads(1) == 1);
}

/* --- bytes ------------------------------------------------------------------------------------ */

/* With protocol v2 all 256 values of a byte, NUL first. */
static void fill(unsigned char *bytes, size_t length, unsigned seed)
{
    for (size_t i = 0; i < length; i++)
        bytes[i] = (unsigned char)(is_v2 ? i * 7 + i / 256 + seed : 'a' + (i + seed) % 26);
}

static void check_bytes(kvs_t *kvs, size_t key_len, size_t value_len)
{
    unsigned char *key = malloc(key_len + 1), *value = malloc(value_len + 1);
    void *found;
    size_t length;

    CHECK(key != NULL && value != NULL);
    fill(key, key_len, 0);
    fill(value, value_len, 0);
    CHECK_CODE(0, kvs_put(kvs, key, key_len, value_len == 0 ? NULL : value, value_len, NULL));
    CHECK_CODE(0, kvs_get(kvs, key, key_len, &found, &length, NULL));
    CHECK(length == value_len);
    CHECK(memcmp(found, value, length) == 0);
    CHECK(((char *)found)[length] == '\0');
    free(found);
    CHECK_CODE(0, kvs_delete(kvs, key, key_len));
    check_no_value(-7, kvs, key, key_len);
    free(key);
    free(value);
}

static void check_too_long(kvs_t *kvs, size_t key_len, size_t value_len)
{
    unsigned char *key = malloc(key_len), *value = malloc(value_len);
    uint64_t version = 0;

    CHECK(key != NULL && value != NULL);
    fill(key, key_len, 0);
    fill(value, value_len, 0);
    CHECK_CODE(-15, kvs_put(kvs, key, key_len, value, value_len, NULL));
    CHECK_CODE(is_v2 ? -15 : -17, kvs_cas(kvs, key, key_len, value, value_len, &version));
    check_alive(kvs);
    free(key);
    free(value);
}

static void bytes(void)
{
    static const size_t lengths[] = {0, 1, 98, 99, 100, 1000, 65535, MIB, LONGEST_VALUE};
    static const size_t key_lengths[] = {1, 99, 100, 1000, KVS_MAX_KEY};
    kvs_t *kvs = open_handle();

    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        if (is_v2 || lengths[i] <= KVS_MAX_TEXT)
            check_bytes(kvs, 8, lengths[i]);
    for (size_t i = 0; i < sizeof key_lengths / sizeof *key_lengths; i++)
        if (is_v2 || key_lengths[i] <= KVS_MAX_TEXT)
            check_bytes(kvs, key_lengths[i], 100 - (is_v2 ? 0 : 1));
    if (is_v2) {
        check_bytes(kvs, KVS_MAX_KEY, LONGEST_VALUE);
        check_too_long(kvs, KVS_MAX_KEY + 1, 1);
        check_too_long(kvs, 1, LONGEST_VALUE + 1);
        check_too_long(kvs, 1, KVS_MAX_VALUE + 1);
    } else {
        check_too_long(kvs, KVS_MAX_TEXT + 1, 1);
        check_too_long(kvs, 1, KVS_MAX_TEXT + 1);
        CHECK_CODE(-15, kvs_put(kvs, "k", 1, "a\0b", 3, NULL));
        CHECK_CODE(-15, kvs_put(kvs, "a\0b", 3, "v", 1, NULL));
        check_alive(kvs);
    }
    CHECK_CODE(0, kvs_close(kvs));
}

static void check_string(size_t length)
{
    char *string = malloc(length + 1), *found;
    bool fits = is_v2 || length <= KVS_MAX_TEXT;

    CHECK(string != NULL);
    memset(string, 's', length);
    string[length] = '\0';
    CHECK_CODE(fits ? 1 : -15, put_value("string", string));
    CHECK_CODE(fits ? 1 : -7, get_value("string", &found));
    if (fits) {
        CHECK(strcmp(found, string) == 0);
        CHECK_CODE(1, delete_value("string"));
    }
    free(found);
    free(string);
}

/* The six functions, whose values are strings. */
static void strings(void)
{
    kvs_t *kvs = open_handle();
    uint64_t version = POISON;
    char *value;

    CHECK_CODE(0, establish_connection(group, secret));
    check_string(99);
    check_string(100);
    check_string(MIB);
    if (is_v2) {
        CHECK_CODE(0, kvs_put(kvs, "bytes", 5, "a\0b", 3, &version));
        CHECK(version > 0 && version == version_of(kvs, "bytes"));
        CHECK_CODE(1, get_value("bytes", &value));
        CHECK(memcmp(value, "a\0b", 4) == 0);
        free(value);
        CHECK_CODE(1, delete_value("bytes"));
    }
    CHECK_CODE(1, close_connection());
    CHECK_CODE(0, kvs_close(kvs));
}

/* --- versions --------------------------------------------------------------------------------- */

static void versions(void)
{
    kvs_t *kvs = open_handle();
    uint64_t version = 0, first, second;
    void *value;

    if (!is_v2) {
        version = 5;
        CHECK_CODE(-17, kvs_cas(kvs, "k", 1, "v", 1, &version));
        CHECK(version == 5);
        store(kvs, "k", "v");
        CHECK(version_of(kvs, "k") == 0);
        CHECK_CODE(0, delete(kvs, "k"));
        CHECK_CODE(0, kvs_close(kvs));
        return;
    }
    /* Put if absent. */
    CHECK_CODE(0, kvs_cas(kvs, "k", 1, "one", 3, &version));
    first = version;
    CHECK(first > 0 && version_of(kvs, "k") == first);
    version = 0;
    CHECK_CODE(-18, kvs_cas(kvs, "k", 1, "no", 2, &version));
    CHECK(version == first);
    check_value(kvs, "k", "one");
    /* The expected version, and others. */
    CHECK_CODE(0, kvs_cas(kvs, "k", 1, "two", 3, &version));
    second = version;
    CHECK(second > first && version_of(kvs, "k") == second);
    version = first;
    CHECK_CODE(-18, kvs_cas(kvs, "k", 1, "no", 2, &version));
    CHECK(version == second);
    version = UINT64_MAX;
    CHECK_CODE(-18, kvs_cas(kvs, "k", 1, "no", 2, &version));
    CHECK(version == second);
    check_value(kvs, "k", "two");
    /* A put creates a new version, even for the same value. */
    CHECK_CODE(0, put(kvs, "k", "two"));
    CHECK(version_of(kvs, "k") > second);
    /* A deleted key has no version, and never gets an earlier one again. */
    second = version_of(kvs, "k");
    CHECK_CODE(0, delete(kvs, "k"));
    version = second;
    CHECK_CODE(-18, kvs_cas(kvs, "k", 1, "no", 2, &version));
    CHECK(version == 0);
    check_no_value(-7, kvs, "k", 1);
    CHECK_CODE(0, kvs_cas(kvs, "k", 1, "three", 5, &version));
    CHECK(version > second);
    /* kvs_get sets the version for kvs_cas when there is no such key. */
    CHECK_CODE(0, delete(kvs, "k"));
    CHECK_CODE(-7, kvs_get(kvs, "k", 1, &value, NULL, &version));
    CHECK(version == 0);
    CHECK_CODE(0, kvs_cas(kvs, "k", 1, "four", 4, &version));
    check_value(kvs, "k", "four");
    CHECK_CODE(0, delete(kvs, "k"));
    CHECK_CODE(0, kvs_close(kvs));
}

#define COUNTERS 20
#define INCREMENTS 50

static int conflicts;

static void *increment(void *argument)
{
    kvs_t *kvs = argument;

    for (int i = 0; i < INCREMENTS; i++) {
        char text[16];
        void *value;
        uint64_t version;
        int code;

        CHECK_CODE(0, kvs_get(kvs, "counter", 7, &value, NULL, &version));
        do {
            sprintf(text, "%d", atoi(value) + 1);
            free(value);
            value = NULL;
            code = kvs_cas(kvs, "counter", 7, text, strlen(text), &version);
            CHECK(code == 0 || code == -18);
            if (code == -18) {
                __atomic_add_fetch(&conflicts, 1, __ATOMIC_RELAXED);
                CHECK_CODE(0, kvs_get(kvs, "counter", 7, &value, NULL, &version));
            }
        } while (code != 0);
    }
    return NULL;
}

/* Threads on one handle and on several. */
static void no_update_is_lost(void)
{
    kvs_t *handles[4];
    pthread_t threads[COUNTERS];
    char sum[16];

    if (!is_v2)
        return;
    for (int i = 0; i < 4; i++)
        handles[i] = open_handle();
    CHECK_CODE(0, put(handles[0], "counter", "0"));
    for (int i = 0; i < COUNTERS; i++)
        threads[i] = start(increment, handles[i % 4]);
    for (int i = 0; i < COUNTERS; i++)
        join(threads[i]);
    sprintf(sum, "%d", COUNTERS * INCREMENTS);
    check_value(handles[0], "counter", sum);
    CHECK_CODE(0, delete(handles[0], "counter"));
    for (int i = 0; i < 4; i++)
        CHECK_CODE(0, kvs_close(handles[i]));
}

/* --- several pairs at once -------------------------------------------------------------------- */

#define TOGETHER 30
#define ROUNDS_TOGETHER 200

static bool stop;

static long number_of(kvs_t *kvs, int n)
{
    char key[16];
    void *value;
    long number;

    sprintf(key, "many-%02d", n);
    CHECK_CODE(0, kvs_get(kvs, key, strlen(key), &value, NULL, NULL));
    number = atol(value);
    free(value);
    return number;
}

/*
 * A later read is never older, neither in the order in which the pairs are stored nor in reverse.
 */
static void *read_together(void *argument)
{
    while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
        long seen = 0;

        for (int i = 0; i < 2 * TOGETHER; i++) {
            long number = number_of(argument, i < TOGETHER ? i : 2 * TOGETHER - 1 - i);

            CHECK(number >= seen);
            seen = number;
        }
    }
    return NULL;
}

static void put_together(kvs_t *kvs, long number)
{
    char keys[TOGETHER][16], value[16];
    kvs_pair_t pairs[TOGETHER];

    sprintf(value, "%ld", number);
    for (int i = 0; i < TOGETHER; i++) {
        sprintf(keys[i], "many-%02d", i);
        pairs[i] = (kvs_pair_t){keys[i], strlen(keys[i]), value, strlen(value)};
    }
    CHECK_CODE(0, kvs_put_many(kvs, pairs, TOGETHER, NULL));
}

static void count_key(const void *key, size_t key_len, void *user)
{
    (void)key, (void)key_len;
    ++*(int *)user;
}

static int key_count(kvs_t *kvs, const char *prefix)
{
    uint64_t cursor = 0;
    int count = 0;

    do
        CHECK_CODE(0, kvs_keys(kvs, prefix, strlen(prefix), &cursor, count_key, &count));
    while (cursor != 0);
    return count;
}

static void all_or_none(void)
{
    kvs_t *kvs = open_handle();
    kvs_pair_t same[] = {
        {"many-a", 6, "first", 5}, {"many-b", 6, NULL, 0}, {"many-a", 6, "last", 4}};
    kvs_pair_t *many;
    uint64_t version = POISON;
    char *long_value = malloc(LONGEST_VALUE + 1), *keys = malloc(10001 * 8);
    pthread_t reader;

    if (!is_v2) {
        CHECK_CODE(-17, kvs_put_many(kvs, same, 3, &version));
        CHECK(version == 0);
        check_no_value(-7, kvs, "many-a", 6);
    } else {
        /* Of equal keys the last counts. */
        CHECK_CODE(0, kvs_put_many(kvs, same, 3, &version));
        check_value(kvs, "many-a", "last");
        check_value(kvs, "many-b", "");
        CHECK(version == version_of(kvs, "many-a"));
        CHECK(version > version_of(kvs, "many-b"));
        CHECK_CODE(0, delete(kvs, "many-a"));
        CHECK_CODE(0, delete(kvs, "many-b"));

        /* If one pair cannot be stored, none is. */
        many = calloc(10001, sizeof *many);
        CHECK(many != NULL && long_value != NULL && keys != NULL);
        memset(long_value, 'v', LONGEST_VALUE + 1);
        for (int i = 0; i < 10001; i++) {
            sprintf(keys + i * 8L, "m-%05d", i);
            many[i] = (kvs_pair_t){keys + i * 8L, 7, "v", 1};
        }
        CHECK_CODE(-15, kvs_put_many(kvs, many, 10001, NULL));
        many[5].key_len = 0;
        CHECK_CODE(-15, kvs_put_many(kvs, many, 10, NULL));
        many[5].key_len = 7;
        many[5].key = NULL;
        CHECK_CODE(-15, kvs_put_many(kvs, many, 10, NULL));
        many[5].key = keys + 5 * 8L;
        many[5].value = long_value;
        many[5].value_len = LONGEST_VALUE + 1;
        CHECK_CODE(-15, kvs_put_many(kvs, many, 10, NULL));
        many[4].value = many[5].value = long_value;
        many[4].value_len = many[5].value_len = LONGEST_VALUE / 2 + 65536;
        CHECK_CODE(-15, kvs_put_many(kvs, many, 10, NULL));
        CHECK(key_count(kvs, "m-") == 0);
        many[4].value_len = many[5].value_len = 1;
        CHECK_CODE(0, kvs_put_many(kvs, many, 10000, NULL));
        CHECK(key_count(kvs, "m-") == 10000);
        for (int i = 0; i < 10000; i++)
            CHECK_CODE(0, kvs_delete(kvs, many[i].key, many[i].key_len));
        free(many);

        /* No reader sees only some of the pairs. */
        put_together(kvs, 0);
        reader = start(read_together, kvs);
        for (long number = 1; number <= ROUNDS_TOGETHER; number++)
            put_together(kvs, number);
        __atomic_store_n(&stop, true, __ATOMIC_SEQ_CST);
        join(reader);
    }
    free(long_value);
    free(keys);
    CHECK_CODE(0, kvs_close(kvs));
}

/* --- keys ------------------------------------------------------------------------------------- */

#define KEYS 25000
#define PAGE 10000

static unsigned char listed[KEYS];

static void note_key(const void *key, size_t key_len, void *user)
{
    char text[16] = "";
    int number;

    ++*(int *)user;
    CHECK(key_len < sizeof text);
    memcpy(text, key, key_len);
    CHECK(sscanf(text, "key:%d", &number) == 1 && key_len == 9);
    if (number < KEYS)
        listed[number]++;
    else
        CHECK(number == 90000); /* put and deleted all the time */
}

static void *come_and_go(void *argument)
{
    while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
        store(argument, "key:90000", "v");
        CHECK_CODE(0, delete(argument, "key:90000"));
    }
    return NULL;
}

static void keys(void)
{
    kvs_t *kvs = open_handle();
    uint64_t cursor = 0;
    char(*names)[16] = calloc(KEYS, sizeof *names);
    kvs_pair_t *pairs = calloc(KEYS, sizeof *pairs);
    pthread_t coming;
    int pages = 0, count = 0;

    CHECK(names != NULL && pairs != NULL);
    if (!is_v2) {
        cursor = 3;
        CHECK_CODE(-17, kvs_keys(kvs, NULL, 0, &cursor, ignore_key, NULL));
        CHECK(cursor == 3);
    } else {
        for (int i = 0; i < KEYS; i++) {
            sprintf(names[i], "key:%05d", i);
            pairs[i] = (kvs_pair_t){names[i], 9, "v", 1};
        }
        for (int i = 0; i < KEYS; i += PAGE)
            CHECK_CODE(0, kvs_put_many(kvs, pairs + i, KEYS - i < PAGE ? KEYS - i : PAGE, NULL));
        CHECK_CODE(0, put(kvs, "other:1", "v"));
        CHECK(key_count(kvs, "nothing") == 0);
        CHECK(key_count(kvs, "other:") == 1);
        CHECK(key_count(kvs, "key:0001") == 10);
        CHECK(key_count(kvs, "key:00010") == 1);
        CHECK(key_count(kvs, "") >= KEYS + 1);

        /* Each key is listed exactly once while other keys are put and deleted. */
        __atomic_store_n(&stop, false, __ATOMIC_SEQ_CST);
        coming = start(come_and_go, kvs);
        do {
            count = 0;
            CHECK_CODE(0, kvs_keys(kvs, "key:", 4, &cursor, note_key, &count));
            pages++;
        } while (cursor != 0);
        __atomic_store_n(&stop, true, __ATOMIC_SEQ_CST);
        join(coming);
        CHECK(pages >= 3); /* otherwise no key could change between two of them */
        for (int i = 0; i < KEYS; i++)
            CHECK(listed[i] == 1);
        printf("%d keys in %d pages\n", KEYS, pages);
        fflush(stdout); /* before a forked child has a copy */
        for (int i = 0; i < KEYS; i++)
            CHECK_CODE(0, kvs_delete(kvs, pairs[i].key, pairs[i].key_len));
        CHECK(key_count(kvs, "key:") == 0);
    }
    free(names);
    free(pairs);
    CHECK_CODE(0, kvs_close(kvs));
}

/* --- watches ---------------------------------------------------------------------------------- */

/* The calls of a callback. */
struct seen {
    int count, deletions;
    uint64_t version;
    char key[100];
    kvs_t *kvs;
};

static void see(const void *key, size_t key_len, uint64_t version, void *user)
{
    struct seen *seen = user;

    CHECK(((const char *)key)[key_len] == '\0' && key_len < sizeof seen->key);
    NOTE(seen->count++; seen->deletions += is_v2 && version == 0; seen->version = version;
         memcpy(seen->key, key, key_len + 1));
}

static void watches(void)
{
    kvs_t *kvs = open_handle(), *other = open_handle();
    struct seen one = {0}, two = {0}, mine = {0};
    uint64_t version;

    store(kvs, "w", "0");
    CHECK_CODE(0, kvs_watch(kvs, "w", 1, see, &one));
    CHECK_CODE(0, kvs_watch(other, "w", 1, see, &two));
    /* Each handle has its own callback and pointer; the one that puts is notified, too. */
    CHECK_CODE(0, put(kvs, "w", "1"));
    AWAIT(one.count == 1 && two.count == 1);
    CHECK(strcmp(one.key, "w") == 0);
    version = version_of(other, "w");
    CHECK(one.version == version && two.version == version);
    /* A new callback replaces the previous one. */
    CHECK_CODE(0, kvs_watch(kvs, "w", 1, see, &mine));
    CHECK_CODE(0, put(other, "w", "2"));
    AWAIT(mine.count == 1 && two.count == 2);
    CHECK_CODE(0, kvs_unwatch(kvs, "w", 1));
    CHECK_CODE(-7, kvs_unwatch(kvs, "w", 1));
    CHECK_CODE(0, put(kvs, "w", "3"));
    AWAIT(two.count == 3);
    /* A deletion ends all watches on the key without calling them. */
    CHECK_CODE(0, delete(kvs, "w"));
    store(kvs, "w", "4");
    CHECK_CODE(is_v2 ? -7 : 0, kvs_unwatch(other, "w", 1));
    CHECK_CODE(-7, kvs_unwatch(other, "w", 1));
    /*
     * Neither callback comes late: this change is delivered after all earlier ones. (Protocol v1
     * has neither kvs_unwatch on the server nor versions: earlier changes may still call a callback
     * that is registered later.)
     */
    CHECK_CODE(0, kvs_watch(kvs, "w", 1, see, &one));
    CHECK_CODE(0, kvs_watch(other, "w", 1, see, &mine));
    CHECK_CODE(0, put(kvs, "w", "5"));
    AWAIT(is_v2 ? one.count == 2 && mine.count == 2 : one.count >= 2 && mine.count >= 2);
    CHECK(two.count == 3 && two.deletions + one.deletions + mine.deletions == 0);
    CHECK_CODE(0, kvs_close(other));
    CHECK_CODE(0, delete(kvs, "w"));
    CHECK_CODE(0, kvs_close(kvs));
}

static void *put_on_and_on(void *argument)
{
    while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST))
        CHECK_CODE(0, put(argument, "busy", "v"));
    return NULL;
}

/* Sleeps, so that it often runs at the moment of kvs_unwatch. */
static void see_unpoisoned(const void *key, size_t key_len, uint64_t version, void *user)
{
    volatile unsigned char *bytes = user;

    (void)key, (void)key_len, (void)version;
    for (int i = 0; i < 1000; i++)
        CHECK(bytes[i] == 0);
    NOTE(bytes[1000]++);
    for (int i = 0; i < 1000; i++)
        CHECK(bytes[i] == 0);
}

/* After kvs_unwatch and kvs_close the program may release `user`. */
static void users_may_be_released(void)
{
    kvs_t *putting = open_handle(), *kvs = open_handle();
    pthread_t thread;

    store(putting, "busy", "v");
    __atomic_store_n(&stop, false, __ATOMIC_SEQ_CST);
    thread = start(put_on_and_on, putting);
    for (int round = 0; round < 100; round++) {
        unsigned char *user = calloc(1001, 1);
        bool by_prefix = is_v2 && round % 2 == 1;

        CHECK(user != NULL);
        CHECK_CODE(0, by_prefix ? kvs_watch_prefix(kvs, "bu", 2, see_unpoisoned, user)
                                : kvs_watch(kvs, "busy", 4, see_unpoisoned, user));
        AWAIT(user[1000] > 0);
        if (round % 10 == 9) {
            CHECK_CODE(0, kvs_close(kvs));
            kvs = open_handle();
        } else {
            CHECK_CODE(0, by_prefix ? kvs_unwatch_prefix(kvs, "bu", 2)
                                    : kvs_unwatch(kvs, "busy", 4));
        }
        memset(user, POISON, 1001);
        free(user);
    }
    __atomic_store_n(&stop, true, __ATOMIC_SEQ_CST);
    join(thread);
    CHECK_CODE(0, kvs_close(kvs));
    CHECK_CODE(0, delete(putting, "busy"));
    CHECK_CODE(0, kvs_close(putting));
}

static void prefixes(void)
{
    kvs_t *kvs = open_handle(), *other = open_handle();
    struct seen short_one = {0}, long_one = {0}, all = {0}, key = {0};

    if (!is_v2) {
        CHECK_CODE(-17, kvs_watch_prefix(kvs, "p", 1, see, &all));
        CHECK_CODE(-17, kvs_watch_prefix(kvs, NULL, 0, see, &all));
        CHECK_CODE(-17, kvs_unwatch_prefix(kvs, "p", 1));
        check_alive(kvs);
    } else {
        CHECK_CODE(-7, kvs_unwatch_prefix(kvs, "p", 1));
        /* A prefix without a key can be watched. */
        CHECK_CODE(0, kvs_watch_prefix(kvs, "p:", 2, see, &short_one));
        CHECK_CODE(0, kvs_watch_prefix(kvs, "p:long:", 7, see, &long_one));
        CHECK_CODE(0, kvs_watch_prefix(other, NULL, 0, see, &all));
        CHECK_CODE(0, put(kvs, "p:1", "v"));
        AWAIT(short_one.count == 1 && all.count == 1);
        CHECK(short_one.version == version_of(kvs, "p:1") && strcmp(all.key, "p:1") == 0);
        /* The watches on prefixes and on the key are all called. */
        CHECK_CODE(0, put(kvs, "p:long:1", "v"));
        AWAIT(short_one.count == 2 && long_one.count == 1 && all.count == 2);
        CHECK_CODE(0, kvs_watch(kvs, "p:long:1", 8, see, &key));
        CHECK_CODE(0, put(other, "p:long:1", "w"));
        AWAIT(short_one.count == 3 && long_one.count == 2 && all.count == 3 && key.count == 1);
        CHECK_CODE(0, put(other, "q", "v"));
        AWAIT(all.count == 4);
        /* A deletion calls the watches on prefixes only, and does not end them. */
        CHECK_CODE(0, delete(other, "p:long:1"));
        AWAIT(short_one.deletions == 1 && long_one.deletions == 1 && all.deletions == 1);
        CHECK(long_one.version == 0 && strcmp(long_one.key, "p:long:1") == 0);
        CHECK_CODE(0, put(other, "p:long:1", "x"));
        AWAIT(long_one.count == 4);
        CHECK(key.count == 1);
        /* One watch ends, the others stay. */
        CHECK_CODE(0, kvs_unwatch_prefix(kvs, "p:long:", 7));
        CHECK_CODE(0, put(other, "p:long:1", "y"));
        AWAIT(short_one.count == 6);
        CHECK(long_one.count == 4);
        CHECK_CODE(0, kvs_unwatch_prefix(kvs, "p:", 2));
        CHECK_CODE(-7, kvs_unwatch_prefix(kvs, "p:", 2));
        CHECK_CODE(0, delete(other, "p:1"));
        CHECK_CODE(0, delete(other, "p:long:1"));
        CHECK_CODE(0, delete(other, "q"));
        AWAIT(all.deletions == 4);
        CHECK_CODE(0, kvs_unwatch_prefix(other, "", 0));
    }
    CHECK_CODE(0, kvs_close(kvs));
    CHECK_CODE(0, kvs_close(other));
}

/*
 * --- callbacks that call the library
 * --------------------------------------------------------------
 */

/* Calls all functions, and ends the watch on its own key. */
static void call_everything(const void *key, size_t key_len, uint64_t version, void *user)
{
    struct seen *seen = user;
    kvs_t *kvs = seen->kvs;

    (void)version;
    CHECK_CODE(0, kvs_put(kvs, key, key_len, "by the callback", 15, NULL));
    check_value(kvs, "c", "by the callback");
    store(kvs, "of the callback", "v");
    CHECK_CODE(0, kvs_watch(kvs, "of the callback", 15, ignore, NULL));
    CHECK_CODE(0, kvs_unwatch(kvs, "of the callback", 15));
    CHECK_CODE(0, delete(kvs, "of the callback"));
    CHECK_CODE(0, kvs_unwatch(kvs, key, key_len));
    NOTE(seen->count++);
}

static void end_thread(const void *key, size_t key_len, uint64_t version, void *user)
{
    (void)key, (void)key_len, (void)version;
    NOTE(((struct seen *)user)->count++);
    pthread_exit(NULL);
}

/* kvs_close releases the handle, and this thread continues. */
static void close_own(const void *key, size_t key_len, uint64_t version, void *user)
{
    struct seen *seen = user;

    (void)version;
    CHECK_CODE(0, kvs_close(seen->kvs));
    /* The callback's copy of the key is valid until it returns. */
    CHECK(key_len == 1 && memcmp(key, "c", 2) == 0);
    NOTE(seen->count++);
}

static void close_own_and_end_thread(const void *key, size_t key_len, uint64_t version, void *user)
{
    close_own(key, key_len, version, user);
    pthread_exit(NULL);
}

static void callbacks(void)
{
    kvs_t *kvs = open_handle();
    struct seen all = {.kvs = kvs}, ended = {0}, closed = {.kvs = open_handle()},
                gone = {.kvs = open_handle()};

    store(kvs, "c", "v");
    CHECK_CODE(0, kvs_watch(kvs, "c", 1, call_everything, &all));
    CHECK_CODE(0, put(kvs, "c", "w"));
    AWAIT(all.count == 1);
    CHECK_CODE(-7, kvs_unwatch(kvs, "c", 1));
    check_value(kvs, "c", "by the callback");
    /* Protocol v1 cannot distinguish the callback's own change from later ones. */
    if (!is_v2) {
        CHECK_CODE(0, kvs_close(kvs));
        kvs = open_handle();
    }

    CHECK_CODE(0, kvs_watch(kvs, "c", 1, end_thread, &ended));
    for (int i = 1; i <= 20; i++) {
        CHECK_CODE(0, put(kvs, "c", "v"));
        AWAIT(ended.count == i);
    }
    /* A callback that has ended its thread is not running any more. */
    CHECK_CODE(0, kvs_unwatch(kvs, "c", 1));

    CHECK_CODE(0, kvs_watch(closed.kvs, "c", 1, close_own, &closed));
    CHECK_CODE(0, kvs_watch(gone.kvs, "c", 1, close_own_and_end_thread, &gone));
    CHECK_CODE(0, put(kvs, "c", "v"));
    AWAIT(closed.count == 1 && gone.count == 1);
    CHECK_CODE(0, delete(kvs, "c"));
    CHECK_CODE(0, kvs_close(kvs));
    CHECK(await_threads(1) == 1);
}

/* --- many threads, and fork ------------------------------------------------------------------- */

#define THREADS 64
#define ROUNDS 50

struct worker {
    kvs_t *kvs;
    int number;
};

/* Each thread reads its own values, of all lengths, and never another's. */
static void *work(void *argument)
{
    const struct worker *worker = argument;
    static const size_t lengths[] = {1, 50, 99, 700, 5000, 70000};
    unsigned char *value = malloc(70000);
    char key[16];

    CHECK(value != NULL);
    sprintf(key, "worker-%d", worker->number);
    for (unsigned round = 0; round < ROUNDS; round++) {
        size_t length = lengths[(round + (unsigned)worker->number) % (is_v2 ? 6 : 3)], found_length;
        void *found;

        fill(value, length, round + (unsigned)worker->number * 1000);
        CHECK_CODE(0, kvs_put(worker->kvs, key, strlen(key), value, length, NULL));
        check_no_value(-7, worker->kvs, "missing", 7);
        CHECK_CODE(0, kvs_get(worker->kvs, key, strlen(key), &found, &found_length, NULL));
        CHECK(found_length == length && memcmp(found, value, length) == 0);
        free(found);
    }
    CHECK_CODE(0, delete(worker->kvs, key));
    free(value);
    return NULL;
}

static void threads_on_one_handle(void)
{
    kvs_t *kvs = open_handle();
    struct worker workers[THREADS];
    pthread_t threads[THREADS];

    for (int i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){kvs, i};
        threads[i] = start(work, &workers[i]);
    }
    for (int i = 0; i < THREADS; i++)
        join(threads[i]);
    CHECK_CODE(0, kvs_close(kvs));
}

static void forks(void)
{
    kvs_t *kvs = open_handle();
    struct seen seen = {0};
    pid_t child;

    store(kvs, "f", "v");
    CHECK_CODE(0, kvs_watch(kvs, "f", 1, see, &seen));
    child = fork();
    if (child == 0) {
        kvs_pair_t pair = {"f", 1, "v", 1};
        uint64_t number = 0;
        int dead = descriptors();
        kvs_t *own;

        reset_events();
        limit_run_time(60);
        CHECK_CODE(-2, put(kvs, "f", "of the child"));
        CHECK_CODE(-2, kvs_put_many(kvs, &pair, 1, NULL));
        CHECK_CODE(-2, kvs_cas(kvs, "f", 1, "v", 1, &number));
        CHECK_CODE(-2, kvs_keys(kvs, NULL, 0, &number, ignore_key, NULL));
        check_no_value(-2, kvs, "f", 1);
        CHECK_CODE(-2, delete(kvs, "f"));
        CHECK_CODE(-2, kvs_watch(kvs, "f", 1, ignore, NULL));
        CHECK_CODE(-2, kvs_unwatch(kvs, "f", 1));
        CHECK_CODE(-2, kvs_on_disconnect(kvs, ignore_end, NULL));
        CHECK_CODE(-2, kvs_close(kvs));
        CHECK(descriptors() == dead);
        own = open_handle();
        store(own, "f", "of the child");
        CHECK_CODE(0, kvs_close(own));
        exit(EXIT_SUCCESS);
    }
    check_child(child);
    AWAIT(seen.count == 1);
    check_value(kvs, "f", "of the child");
    CHECK_CODE(0, delete(kvs, "f"));
    CHECK_CODE(0, kvs_close(kvs));
}

/* --- the end of a connection ------------------------------------------------------------------ */

#define LOST 20

struct end {
    kvs_t *kvs;
    int count, reason;
    bool closes, closing, done;
    struct seen seen;
    unsigned char poisoned;
};

static void on_end(void *user, int reason)
{
    struct end *end = user;

    CHECK(end->poisoned == 0);
    NOTE(end->reason = reason);
    if (end->closes) {
        CHECK_CODE(-2, kvs_close(end->kvs));
    } else {
        /* All watches have ended, and every call fails. */
        int code = put(end->kvs, "k", "v");

        CHECK(code == -2 || code == -3);
    }
    CHECK(end->poisoned == 0);
    NOTE(end->count++);
}

/* Runs while another thread calls kvs_close. */
static void finish_late(struct end *end)
{
    const struct timespec while_closing = {.tv_nsec = 50 * 1000 * 1000};

    AWAIT(end->closing);
    nanosleep(&while_closing, NULL);
    NOTE(end->done = true);
}

static void on_slow_end(void *user, int reason)
{
    CHECK_CODE(KVS_ERROR_RECEIVE_ANSWER, reason);
    NOTE(((struct end *)user)->count++);
    finish_late(user);
}

static void on_slow_change(const void *key, size_t key_len, uint64_t version, void *user)
{
    (void)key, (void)key_len, (void)version;
    NOTE(((struct end *)user)->seen.count++);
    finish_late(user);
}

static void print_line(const char *line)
{
    puts(line);
    fflush(stdout);
}

/* Waits until the driver writes this line. */
static void await_line(const char *expected)
{
    char line[32];

    CHECK(fgets(line, sizeof line, stdin) != NULL);
    line[strcspn(line, "\n")] = '\0';
    CHECK(strcmp(line, expected) == 0);
}

/*
 * Closes a handle while its callback may be running. After kvs_close the callback never runs. The
 * kernel closes the sockets of a killed server one by one; before it closes this one, kvs_close can
 * still send its notice and succeeds.
 */
static void close_lost(struct end *end, bool server_is_gone)
{
    int code = kvs_close(end->kvs);

    CHECK(code == -2 || code == -3 || (code == 0 && !server_is_gone));
    CHECK(end->count <= 1);
    memset(end, POISON, sizeof *end);
    free(end);
}

static void ends(void)
{
    kvs_t *witness = open_handle();
    struct end deleted = {0}, closing = {.closes = true}, replaced = {0}, by_us = {0}, killed = {0};
    struct end slow = {0}, blocked = {0};
    struct end *lost[LOST];

    /* kvs_close does not call the disconnect callback. */
    by_us.kvs = open_handle();
    CHECK_CODE(0, kvs_on_disconnect(by_us.kvs, on_end, &by_us));
    CHECK_CODE(0, kvs_close(by_us.kvs));

    CHECK_CODE(0, kvs_open(&deleted.kvs, other_group, other_secret));
    CHECK_CODE(0, kvs_open(&closing.kvs, other_group, other_secret));
    store(deleted.kvs, "k", "v");
    CHECK_CODE(0, kvs_watch(deleted.kvs, "k", 1, see, &deleted.seen));
    CHECK_CODE(0, kvs_on_disconnect(deleted.kvs, on_end, &replaced));
    CHECK_CODE(0, kvs_on_disconnect(deleted.kvs, on_end, &deleted));
    CHECK_CODE(0, kvs_on_disconnect(closing.kvs, on_end, &closing));
    print_line("delete");
    AWAIT(deleted.count == 1 && closing.count == 1);
    CHECK_CODE(KVS_ERROR_NOT_CONNECTED, deleted.reason);
    CHECK_CODE(KVS_ERROR_NOT_CONNECTED, closing.reason);
    CHECK_CODE(-2, put(deleted.kvs, "k", "v"));
    CHECK_CODE(-2, kvs_watch(deleted.kvs, "k", 1, see, &deleted.seen));
    CHECK_CODE(-2, kvs_unwatch(deleted.kvs, "k", 1));
    CHECK_CODE(-2, kvs_on_disconnect(deleted.kvs, on_end, &deleted));
    CHECK_CODE(-2, kvs_close(deleted.kvs));
    CHECK(deleted.seen.count == 0);
    check_alive(witness);

    killed.kvs = witness;
    CHECK_CODE(0, kvs_on_disconnect(witness, on_end, &killed));
    for (int i = 0; i < LOST; i++) {
        lost[i] = calloc(1, sizeof **lost);
        CHECK(lost[i] != NULL);
        lost[i]->kvs = open_handle();
        CHECK_CODE(0, kvs_on_disconnect(lost[i]->kvs, on_end, lost[i]));
    }
    slow.kvs = open_handle();
    CHECK_CODE(0, kvs_on_disconnect(slow.kvs, on_slow_end, &slow));
    /* The library's thread is in a callback when the connection ends. */
    blocked.kvs = open_handle();
    store(blocked.kvs, "b", "v");
    CHECK_CODE(0, kvs_watch(blocked.kvs, "b", 1, on_slow_change, &blocked));
    CHECK_CODE(0, kvs_on_disconnect(blocked.kvs, on_end, &blocked));
    CHECK_CODE(0, put(witness, "b", "w"));
    AWAIT(blocked.seen.count == 1);
    print_line("kill");
    AWAIT(killed.count == 1);
    CHECK_CODE(KVS_ERROR_RECEIVE_ANSWER, killed.reason);
    /* The callbacks of these handles run at this moment. */
    for (int i = 0; i < LOST / 2; i++)
        close_lost(lost[i], false);
    await_line("killed");
    for (int i = LOST / 2; i < LOST; i++)
        close_lost(lost[i], true);
    /* kvs_close waits for the running callback, and a callback that has not begun never runs. */
    AWAIT(slow.count == 1);
    NOTE(slow.closing = true);
    CHECK(kvs_close(slow.kvs) < 0);
    CHECK(slow.done && slow.count == 1);
    CHECK(put(blocked.kvs, "b", "x") < 0);
    CHECK_CODE(-2, put(blocked.kvs, "b", "x"));
    NOTE(blocked.closing = true);
    CHECK_CODE(-2, kvs_close(blocked.kvs));
    CHECK(blocked.done && blocked.count == 0);
    CHECK_CODE(-2, kvs_close(witness));
    CHECK(await_threads(1) == 1);
    CHECK(deleted.count == 1 && closing.count == 1 && killed.count == 1);
    CHECK(replaced.count == 0 && by_us.count == 0 && blocked.count == 0);
    check_not_opened(-12, group, secret);
}

int main(int argc, char *argv[])
{
    int descriptors_before = descriptors();

    CHECK(argc == 5);
    group = argv[1];
    secret = argv[2];
    other_group = argv[3];
    other_secret = argv[4];
    is_v2 = getenv("KVS_PROTOCOL") == NULL;
    limit_run_time(200);

    opening();
    wrong_arguments();
    many_handles();
    bytes();
    strings();
    versions();
    no_update_is_lost();
    all_or_none();
    keys();
    watches();
    users_may_be_released();
    prefixes();
    callbacks();
    threads_on_one_handle();
    forks();
    ends();
    CHECK(descriptors() == descriptors_before);

    print_line("every handle is right");
    return EXIT_SUCCESS;
}
