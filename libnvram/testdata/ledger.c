/*
 * A ledger in NVRAM that is killed. Each entry is committed by one 8-byte store, and only then announced on standard output, so whoever reads
 * that knows what must be found afterwards.
 *
 *     ledger POOL KIND run      says what it found, then appends and announces until it is killed
 *     ledger POOL KIND check    says what it found
 *     ledger POOL KIND POINT    says what it found, appends one entry and kills itself at this point of it:
 *                               stored, persisted, counted, committed
 */
#include <errno.h>
#include <nvram.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ENTRIES 8192

struct entry {
	uint64_t number;
	uint64_t word[6];
	uint64_t sum;
};

struct ledger {
	uint64_t count; /* entries that are committed */
	uint64_t pad[7];
	struct entry entry[ENTRIES];
};

static const char *point;

static void give_up(const char *what)
{
	fprintf(stderr, "ledger: %s: errno %d: %s\n", what, errno, nv_last_error());
	exit(1);
}

static void die_at(const char *here)
{
	if (strcmp(point, here) == 0)
		raise(SIGKILL);
}

static uint64_t sum(const struct entry *entry)
{
	uint64_t h = entry->number ^ 0x9e3779b97f4a7c15;

	for (int i = 0; i < 6; i++)
		h = (h ^ entry->word[i]) * 0x100000001b3;
	return h;
}

static nv_pool *open_pool(const char *path, const char *kind)
{
	nv_pool *pool = nv_open(path, 0);

	if (pool == NULL && (errno == ENOENT || errno == ENODATA)) {
		if (nv_init(path, kind, 16 << 20, 0) < 0)
			give_up("nv_init");
		pool = nv_open(path, 0);
	}
	if (pool == NULL)
		give_up("nv_open");
	return pool;
}

static struct ledger *open_ledger(nv_pool *pool)
{
	size_t size = sizeof(struct ledger);
	struct ledger *ledger = nv_map(pool, "ledger", &size);

	if (ledger == NULL && errno == ENOENT)
		ledger = nv_alloc(pool, "ledger", sizeof *ledger);
	if (ledger == NULL)
		give_up("the ledger");
	if (size < sizeof *ledger) {
		fprintf(stderr, "ledger: the region has %zu bytes\n", size);
		exit(1);
	}
	return ledger;
}

static void verify(const struct ledger *ledger)
{
	if (ledger->count > ENTRIES) {
		fprintf(stderr, "ledger: a count of %llu\n", (unsigned long long)ledger->count);
		exit(1);
	}
	for (uint64_t i = 0; i < ledger->count; i++) {
		const struct entry *entry = &ledger->entry[i];

		if (entry->number != i + 1 || entry->sum != sum(entry)) {
			fprintf(stderr, "ledger: entry %llu is damaged\n", (unsigned long long)i);
			exit(1);
		}
	}
}

static void append(struct ledger *ledger)
{
	struct entry *entry = &ledger->entry[ledger->count];

	entry->number = ledger->count + 1;
	for (int i = 0; i < 6; i++)
		entry->word[i] = entry->number * (uint64_t)(i + 3);
	entry->sum = sum(entry);
	die_at("stored");
	if (nv_persist(entry, sizeof *entry) < 0)
		give_up("nv_persist");
	die_at("persisted");
	__atomic_store_n(&ledger->count, entry->number, __ATOMIC_RELEASE);
	die_at("counted");
	if (nv_persist(&ledger->count, sizeof ledger->count) < 0)
		give_up("nv_persist");
	die_at("committed");
}

/* A region that comes and goes, to be killed in the middle of nv_alloc and nv_free. Its memory must always be zero. */
static void churn(nv_pool *pool)
{
	const size_t size = 4 << 20;
	unsigned char *scratch = nv_alloc(pool, "scratch", size);

	if (scratch == NULL)
		give_up("nv_alloc");
	for (size_t i = 0; i < size; i += 4096)
		if (scratch[i] != 0) {
			fprintf(stderr, "ledger: new memory is not zero\n");
			exit(1);
		}
	memset(scratch, 0xa5, size);
	if (nv_free(pool, "scratch") < 0)
		give_up("nv_free");
}

int main(int argc, char **argv)
{
	if (argc != 4) {
		fprintf(stderr, "usage: ledger POOL KIND run|check|POINT\n");
		return 2;
	}
	point = argv[3];
	setvbuf(stdout, NULL, _IOLBF, 0);
	nv_pool *pool = open_pool(argv[1], argv[2]);
	struct ledger *ledger = open_ledger(pool);
	verify(ledger);
	printf("%llu\n", (unsigned long long)ledger->count);
	if (strcmp(point, "check") == 0)
		return nv_close(pool) < 0;
	if (nv_free(pool, "scratch") < 0 && errno != ENOENT)
		give_up("nv_free");
	do {
		append(ledger);
		printf("%llu\n", (unsigned long long)ledger->count);
		churn(pool);
	} while (ledger->count < ENTRIES);
	fprintf(stderr, "ledger: nobody killed me\n");
	return 1;
}
