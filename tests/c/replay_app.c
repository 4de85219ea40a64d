/*
 * Performs the operations of one recorded conversation (named by the argument) in their order, through the
 * six functions, and prints what each returned. The test that runs it is the server.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "KVS-lib.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t called = PTHREAD_COND_INITIALIZER;
static char changed[100];

static void on_change(char *key)
{
	pthread_mutex_lock(&lock);
	snprintf(changed, sizeof changed, "%s", key);
	pthread_cond_signal(&called);
	pthread_mutex_unlock(&lock);
}

static void report(const char *function, int result)
{
	printf("%s %d\n", function, result);
	fflush(stdout);
}

static void get(const char *key)
{
	char *value = NULL;
	int result = get_value(key, &value);

	printf("get_value %d %s\n", result, value ? value : "-");
	fflush(stdout);
	free(value);
}

int main(int argc, char **argv)
{
	char line[16];

	if (argc != 2)
		return 2;
	if (strcmp(argv[1], "app-unknown-group") == 0) {
		report("establish_connection", establish_connection("nogroup", "12345"));
		return 0;
	}
	if (strcmp(argv[1], "app-wrong-secret") == 0) {
		report("establish_connection", establish_connection("g2", "wrong"));
		return 0;
	}

	report("establish_connection", establish_connection("g1", "VKHMp"));
	report("put_value", put_value("k1", "v1"));
	get("k1");
	get("nokey");
	report("register_callback", register_callback("k1", on_change));
	report("register_callback", register_callback("nokey", on_change));
	report("put_value", put_value("k1", "v2"));
	pthread_mutex_lock(&lock);
	while (changed[0] == '\0')
		pthread_cond_wait(&called, &lock);
	pthread_mutex_unlock(&lock);
	printf("callback %s\n", changed);
	fflush(stdout);
	get("k1");
	report("delete_value", delete_value("k1"));
	report("delete_value", delete_value("k1"));

	/* The group is deleted now. The test types a line when the library has closed the connection. */
	if (fgets(line, sizeof line, stdin) == NULL)
		return 1;
	report("put_value", put_value("k1", "v3"));
	report("close_connection", close_connection());
	return 0;
}
