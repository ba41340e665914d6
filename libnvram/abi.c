/* The functions of nvram.h: arguments in, errors out. What they do is in Go. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "_cgo_export.h"
#include "abi.h"

/* Programs allocate these, so their size is part of the ABI of libnvram.so.0. */
_Static_assert(sizeof(nv_region) == 128, "nv_region");
_Static_assert(sizeof(nv_pool_info) == 120, "nv_pool_info");

static _Thread_local struct failure last;

/* The message of a failure always ends with what to do. */
static void complete(struct failure *failure)
{
	if (strstr(failure->text, "; ") != NULL)
		return;
	const char *remedy = strstr(nv_strerror(failure->code), "; ");
	size_t length = strlen(failure->text);
	if (remedy != NULL)
		snprintf(failure->text + length, TEXT_SIZE - length, "%s", remedy);
}

static int fail(int code, const char *text)
{
	last.code = code;
	snprintf(last.text, TEXT_SIZE, "%s", text);
	complete(&last);
	errno = code;
	return -1;
}

static int missing(const char *argument, const char *remedy)
{
	char text[TEXT_SIZE];

	snprintf(text, sizeof text, "%s is NULL; %s", argument, remedy);
	return fail(EFAULT, text);
}

#define GIVE_POOL "give what nv_open returned; if that was NULL, it failed"
#define GIVE_PATH "give the path of a directory, a file or a DAX device"
#define GIVE_NAME "give the name of a region"

/* Ends a call that was in Go. */
static void finish(const struct visit *visit, bool failed)
{
	leave_go(visit);
	if (failed) {
		complete(&last);
		errno = last.code;
	}
}

static bool begin(struct visit *visit)
{
	if (enter_go(visit))
		return true;
	fail(ENOTSUP, "this process was made by fork(2), without the threads that libnvram needs");
	return false;
}

static uint64_t number(nv_pool *pool)
{
	return (uint64_t)(uintptr_t)pool;
}

int nv_init(const char *path, const char *kind, size_t size, unsigned int flags)
{
	struct visit visit;

	if (path == NULL)
		return missing("nv_init: path", GIVE_PATH);
	if ((flags & ~NV_SINGLE) != 0)
		return fail(EINVAL, "nv_init: unknown flag; NV_SINGLE is the only one");
	size_t path_length = strlen(path), kind_length = kind == NULL ? 0 : strlen(kind);
	if (!begin(&visit))
		return -1;
	int status = nvgo_init((char *)path, path_length, (char *)kind, kind_length, size, (flags & NV_SINGLE) != 0, &last);
	finish(&visit, status < 0);
	return status;
}

nv_pool *nv_open(const char *path, unsigned int flags)
{
	struct visit visit;

	if (path == NULL)
		return missing("nv_open: path", GIVE_PATH), NULL;
	if ((flags & ~NV_RDONLY) != 0)
		return fail(EINVAL, "nv_open: unknown flag; NV_RDONLY is the only one"), NULL;
	size_t length = strlen(path);
	if (!begin(&visit))
		return NULL;
	uint64_t pool = nvgo_open((char *)path, length, (flags & NV_RDONLY) != 0, &last);
	finish(&visit, pool == 0);
	return (nv_pool *)(uintptr_t)pool;
}

int nv_close(nv_pool *pool)
{
	struct visit visit;

	if (pool == NULL)
		return missing("nv_close: pool", GIVE_POOL);
	if (!begin(&visit))
		return -1;
	int status = nvgo_close(number(pool), &last);
	finish(&visit, status < 0);
	return status;
}

void *nv_alloc(nv_pool *pool, const char *name, size_t size)
{
	struct visit visit;

	if (pool == NULL)
		return missing("nv_alloc: pool", GIVE_POOL), NULL;
	if (name == NULL)
		return missing("nv_alloc: name", GIVE_NAME), NULL;
	size_t length = strlen(name);
	if (!begin(&visit))
		return NULL;
	uintptr_t address = nvgo_alloc(number(pool), (char *)name, length, size, &last);
	finish(&visit, address == 0);
	return (void *)address;
}

void *nv_map(nv_pool *pool, const char *name, size_t *size)
{
	struct visit visit;
	size_t mapped = 0;

	if (pool == NULL)
		return missing("nv_map: pool", GIVE_POOL), NULL;
	if (name == NULL)
		return missing("nv_map: name", GIVE_NAME), NULL;
	size_t length = strlen(name);
	if (!begin(&visit))
		return NULL;
	uintptr_t address = nvgo_map(number(pool), (char *)name, length, &mapped, &last);
	finish(&visit, address == 0);
	if (address != 0 && size != NULL)
		*size = mapped;
	return (void *)address;
}

int nv_free(nv_pool *pool, const char *name)
{
	struct visit visit;

	if (pool == NULL)
		return missing("nv_free: pool", GIVE_POOL);
	if (name == NULL)
		return missing("nv_free: name", GIVE_NAME);
	size_t length = strlen(name);
	if (!begin(&visit))
		return -1;
	int status = nvgo_free(number(pool), (char *)name, length, &last);
	finish(&visit, status < 0);
	return status;
}

int nv_persist(const void *address, size_t size)
{
	struct visit visit;

	if (address == NULL)
		return missing("nv_persist: address", "give an address in what nv_alloc or nv_map returned");
	if (!begin(&visit))
		return -1;
	int status = nvgo_persist((uintptr_t)address, size, &last);
	finish(&visit, status < 0);
	return status;
}

int nv_list(nv_pool *pool, nv_region *regions, size_t capacity)
{
	struct visit visit;

	if (pool == NULL)
		return missing("nv_list: pool", GIVE_POOL);
	if (regions == NULL && capacity > 0)
		return missing("nv_list: regions", "give an array, or a capacity of 0 to count only");
	if (!begin(&visit))
		return -1;
	int count = nvgo_list(number(pool), regions, capacity, &last);
	finish(&visit, count < 0);
	return count;
}

int nv_info(nv_pool *pool, nv_pool_info *info)
{
	struct visit visit;

	if (pool == NULL)
		return missing("nv_info: pool", GIVE_POOL);
	if (info == NULL)
		return missing("nv_info: info", "give the address of a nv_pool_info");
	if (!begin(&visit))
		return -1;
	int status = nvgo_info(number(pool), info, &last);
	finish(&visit, status < 0);
	return status;
}

const char *nv_last_error(void)
{
	return last.text;
}
