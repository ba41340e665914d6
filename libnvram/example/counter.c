/* Counts its runs in NVRAM: cc counter.c $(pkg-config --cflags --libs libnvram) && ./a.out /dev/shm/counter */
#include <errno.h>
#include <nvram.h>
#include <stdint.h>
#include <stdio.h>

static int give_up(void)
{
	fprintf(stderr, "counter: %s\n", nv_last_error());
	return 1;
}

int main(int argc, char **argv)
{
	if (argc != 2) {
		fprintf(stderr, "usage: counter POOL\n");
		return 2;
	}
	nv_pool *pool = nv_open(argv[1], 0);
	if (pool == NULL && (errno == ENOENT || errno == ENODATA)) { /* not there, or its nv_init was cut short */
		if (nv_init(argv[1], NULL, 16 << 20, 0) < 0)
			return give_up();
		pool = nv_open(argv[1], 0);
	}
	if (pool == NULL)
		return give_up();

	uint64_t *count = nv_map(pool, "count", NULL);
	if (count == NULL && errno == ENOENT)
		count = nv_alloc(pool, "count", sizeof *count); /* zero */
	if (count == NULL)
		return give_up();

	++*count; /* one aligned store of 8 bytes: the old value or the new one, whatever happens */
	if (nv_persist(count, sizeof *count) < 0)
		return give_up();
	printf("%llu\n", (unsigned long long)*count);
	return nv_close(pool) < 0 ? give_up() : 0;
}
