/*
 * An application that calls the library as its standard input says, one call for each line, and prints what the
 * call returned. What its callbacks have to say goes to standard error. Unlike the interactive example it
 * goes on after a forced close, so that a test can see what the next calls return.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "KVS-lib.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t released = PTHREAD_COND_INITIALIZER;
static int release;

static void on_change(char *key)
{
	fprintf(stderr, "changed %s\n", key);
}

static void on_change_read(char *key)
{
	char *value = NULL;
	int code = get_value(key, &value);

	fprintf(stderr, "read %s %d %s\n", key, code, value ? value : "-");
	free(value);
}

static void on_change_blocked(char *key)
{
	fprintf(stderr, "blocked %s\n", key);
	pthread_mutex_lock(&lock);
	while (!release)
		pthread_cond_wait(&released, &lock);
	pthread_mutex_unlock(&lock);
	fprintf(stderr, "released %s\n", key);
}

int main(void)
{
	char line[512];

	setvbuf(stdout, NULL, _IOLBF, 0);
	while (fgets(line, sizeof line, stdin) != NULL) {
		char *call = strtok(line, " \n");
		char *first = strtok(NULL, " \n");
		char *second = strtok(NULL, " \n");
		char *value = NULL;

		if (call == NULL)
			continue;
		if (strcmp(call, "establish_connection") == 0) {
			printf("%s %d\n", call, establish_connection(first, second));
		} else if (strcmp(call, "put_value") == 0) {
			printf("%s %d\n", call, put_value(first, second));
		} else if (strcmp(call, "get_value") == 0) {
			int code = get_value(first, &value);

			printf("%s %d %s\n", call, code, value ? value : "-");
			free(value);
		} else if (strcmp(call, "delete_value") == 0) {
			printf("%s %d\n", call, delete_value(first));
		} else if (strcmp(call, "register_callback") == 0) {
			printf("%s %d\n", call, register_callback(first, on_change));
		} else if (strcmp(call, "register_reading_callback") == 0) {
			printf("%s %d\n", call, register_callback(first, on_change_read));
		} else if (strcmp(call, "register_blocked_callback") == 0) {
			printf("%s %d\n", call, register_callback(first, on_change_blocked));
		} else if (strcmp(call, "kvs_strerror") == 0) {
			printf("%s %s %s\n", call, first, kvs_strerror(atoi(first)));
		} else if (strcmp(call, "release") == 0) {
			pthread_mutex_lock(&lock);
			release = 1;
			pthread_cond_broadcast(&released);
			pthread_mutex_unlock(&lock);
			printf("%s 1\n", call);
		} else if (strcmp(call, "close_connection") == 0) {
			printf("%s %d\n", call, close_connection());
		} else {
			return 2;
		}
	}
	return 0;
}
