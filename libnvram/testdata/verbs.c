/*
 * Calls the library as its arguments say, one verb after the other, and prints a line for each: "VERB ok …", or "VERB ERRNO what; what to do".
 * The word NULL is a null pointer.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <nvram.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static nv_pool *pool;
static char *address;
static char **next;

static char *word(void)
{
	if (*next == NULL) {
		fprintf(stderr, "verbs: an argument is missing\n");
		exit(2);
	}
	char *text = *next++;
	return strcmp(text, "NULL") == 0 ? NULL : text;
}

static size_t value(void)
{
	return strtoull(word(), NULL, 0);
}

static void report(const char *verb, int failed)
{
	int code = errno;

	if (!failed) {
		printf("%s ok\n", verb);
		return;
	}
	printf("%s %s %s\n", verb, strerrorname_np(code), nv_last_error());
	if (strstr(nv_strerror(code), "; ") == NULL) {
		fprintf(stderr, "verbs: nv_strerror(%s) names no remedy: %s\n", strerrorname_np(code), nv_strerror(code));
		exit(1);
	}
}

static void do_init(void)
{
	char *path = word(), *kind = word();
	size_t size = value();

	report("init", nv_init(path, kind, size, (unsigned)value()) < 0);
}

static void do_open(void)
{
	char *path = word();
	nv_pool *opened = nv_open(path, (unsigned)value());

	report("open", opened == NULL);
	if (opened != NULL)
		pool = opened;
}

static void do_close(void) { report("close", nv_close(pool) < 0); }

static void do_forget(void) { pool = NULL; }

static void do_alloc(void)
{
	char *name = word();
	char *got = nv_alloc(pool, name, value());

	report("alloc", got == NULL);
	if (got != NULL)
		address = got;
}

static void do_map(void)
{
	size_t size = 0;
	char *got = nv_map(pool, word(), &size);

	report("map", got == NULL);
	if (got != NULL) {
		address = got;
		printf("map size %zu\n", size);
	}
}

static void do_free(void) { report("free", nv_free(pool, word()) < 0); }

static void do_nowhere(void) { address = NULL; }

static void do_write(void)
{
	size_t offset = value();
	char *text = word();

	strcpy(address + offset, text);
	report("write", nv_persist(address + offset, strlen(text) + 1) < 0);
}

static void do_read(void) { printf("read %s\n", address + value()); }

static void do_persist(void)
{
	size_t offset = value();

	report("persist", nv_persist(address == NULL ? NULL : address + offset, value()) < 0);
}

static void do_list(void)
{
	nv_region region[2];
	size_t capacity = value();
	int count = nv_list(pool, capacity > 2 ? NULL : region, capacity);

	report("list", count < 0);
	for (int i = 0; i < count && (size_t)i < capacity; i++)
		printf("list %s %s %llu %zu %s\n", region[i].name, region[i].use, (unsigned long long)region[i].size,
		       strlen(region[i].id), region[i].created > 1700000000 ? "dated" : "undated");
	if (count >= 0)
		printf("list count %d\n", count);
}

static void do_info(void)
{
	nv_pool_info info;
	int status = nv_info(pool, &info);

	report("info", status < 0);
	if (status == 0)
		printf("info %s %s %s %llu %llu %llu %llu %llu %zu\n", info.kind, info.layout, info.persistence,
		       (unsigned long long)info.size, (unsigned long long)info.free, (unsigned long long)info.largest_free,
		       (unsigned long long)info.unit, (unsigned long long)info.regions, strlen(info.id));
}

static void do_blind(void) { report("blind", nv_info(pool, NULL) < 0); }

/* Says that it is ready, and goes on when its input ends. */
static void do_wait(void)
{
	printf("wait\n");
	fflush(stdout);
	while (getchar() != EOF)
		;
}

static const struct {
	const char *name;
	void (*run)(void);
} verbs[] = {
	{"init", do_init}, {"open", do_open}, {"close", do_close}, {"forget", do_forget}, {"alloc", do_alloc}, {"map", do_map},
	{"free", do_free}, {"nowhere", do_nowhere}, {"write", do_write}, {"read", do_read}, {"persist", do_persist}, {"list", do_list},
	{"info", do_info}, {"blind", do_blind}, {"wait", do_wait},
};

int main(int argc, char **argv)
{
	(void)argc;
	for (next = argv + 1; *next != NULL;) {
		const char *name = word();
		size_t i = 0;

		while (i < sizeof verbs / sizeof verbs[0] && (name == NULL || strcmp(verbs[i].name, name) != 0))
			i++;
		if (i == sizeof verbs / sizeof verbs[0]) {
			fprintf(stderr, "verbs: unknown verb\n");
			return 2;
		}
		verbs[i].run();
	}
	return 0;
}
