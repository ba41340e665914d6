/*
 * libnvram: named pieces of non-volatile memory, for C.
 * SPDX-License-Identifier: Apache-2.0
 *
 * A pool is NVRAM under our control: a DAX device, a directory on a DAX file system, or something that stands in
 * for it. A region is a piece of a pool with a name, mapped into the process. What a program stored there
 * and made persistent with nv_persist it finds again after its death, and after a power cut if the pool is of a
 * kind that survives one:
 *
 *     kind    where                                     survives the process   survives the power
 *     devdax  a device /dev/daxX.Y                      yes                    yes
 *     fsdax   a directory on ext4 or xfs, -o dax        yes                    yes
 *     file    a directory on any other file system      yes                    yes, as fsync(2) does
 *     shm     a directory on tmpfs or hugetlbfs         yes                    no
 *
 * The pools are those of `nvh nvram`, byte for byte: `nvh nvram ls`, `check` and `dump` show them. A pool belongs to
 * one process at a time, so a program takes one of its own, not one of the daemon nvhd.
 *
 * Durability. nv_init, nv_alloc and nv_free happened completely or not at all, whenever the power fails or the
 * process dies; what they returned for cannot be undone by either. What the program stores in a region may
 * become persistent at any time, in any order, torn at 8-byte boundaries; it is persistent for certain when
 * nv_persist has returned 0 for it. One aligned 8-byte store is never torn, which is what commits are made of.
 *
 * Errors. A function that fails returns -1 or NULL and sets errno; nv_last_error() then says what went wrong and
 * what to do about it. A function that succeeds may change errno and leaves the message alone.
 *
 *     EINVAL           a name, kind, size or flag that cannot be
 *     EFAULT           NULL where an address is needed; memory that is not within one mapped region
 *     EBADF            not an open pool: closed already, or never opened
 *     ENOENT           no such path, no such region: freed already, or never allocated
 *     EEXIST           a region of this name, or a pool, is there already
 *     ENOSPC           the pool or its file system is full, or the pool holds 1024 regions
 *     EBUSY            the pool is in use, by another process or by another nv_open of this one
 *     EROFS            the pool was opened with NV_RDONLY
 *     EPERM            the region belongs to a virtual machine
 *     ENODATA          nothing was initialised there
 *     EMEDIUMTYPE      something else is there
 *     ENXIO            truncated: a part of the pool or the region is missing
 *     ESTALE           the region's file was replaced by another
 *     EHWPOISON        the memory has lost data, or will in the next power cut
 *     EUCLEAN          the pool's metadata is corrupt
 *     EPROTONOSUPPORT  a newer version made the pool
 *     ENOTSUP          the process is a child made by fork(2) after the library was loaded
 *     others           from the operating system: EACCES, ENOMEM, EIO ...
 *
 * Threads. All functions may be called from any thread at any time, except from signal handlers; only nv_strerror
 * may be called there. Memory may be persisted by several threads at once; who stores to it is for the program to order.
 * nv_close waits for calls in progress. As after free(3), nobody may touch a region after nv_free or nv_close.
 *
 * Signals, fork(2) and what else the Go runtime inside the library means for the program: see nv_alloc(3).
 */
#ifndef NVRAM_H
#define NVRAM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* An open pool. It is not a pointer to anything, and a value is never used again: to use a closed pool is EBADF. */
typedef struct nv_pool nv_pool;

/* Flags of nv_init. */
#define NV_SINGLE 0x1u /* one file that holds all regions, instead of a directory with a file for each */

/* Flags of nv_open. */
#define NV_RDONLY 0x1u /* look at the pool beside the process that uses it */

/* The longest name of a region in bytes, without the terminating zero. */
#define NV_NAME_MAX 63

/*
 * Makes a pool at path: a DAX device, or a directory (with NV_SINGLE: a file) that is empty or does not exist yet. Kind
 * is one of the four above, or NULL for devdax on a device and shm on tmpfs and hugetlbfs. Size is in bytes:
 * the capacity of a file or device, the most that a directory may take; 0 for all there is. It is rounded up to
 * 2 MiB. What is there is never overwritten; `nvh nvram init --force` does that.
 * Returns 0, or -1 with errno: EEXIST, EMEDIUMTYPE, EINVAL, ENOSPC ...
 */
int nv_init(const char *path, const char *kind, size_t size, unsigned int flags);

/*
 * Opens the pool at path for this process alone, repairs what a power cut left half done, and gives it, or NULL with
 * errno: ENOENT, ENODATA, EMEDIUMTYPE, EBUSY, EUCLEAN ... The pool is given back by nv_close or when the process ends,
 * however it ends. With NV_RDONLY it needs no exclusive use, repairs nothing, shows the regions as they were
 * at this moment, and maps them to be read.
 */
nv_pool *nv_open(const char *path, unsigned int flags);

/* Unmaps the pool's regions and gives the pool back. Returns 0, or -1 with errno: EBADF. */
int nv_close(nv_pool *pool);

/*
 * Makes a region of at least size bytes and maps it. Its memory is zero, allocated to the last page, and starts on
 * a page; its size is a multiple of 2 MiB. The address differs from run to run: keep offsets in it, not pointers. The
 * name has up to NV_NAME_MAX letters, digits, '_', '.' and '-', and starts with a letter or a digit.
 * Returns the address, or NULL with errno: EINVAL, EEXIST, ENOSPC, EROFS, EBADF ...
 *
 * A process that dies behind nv_alloc leaves a region of zeros: store and persist last what says that it is filled.
 */
void *nv_alloc(nv_pool *pool, const char *name, size_t size);

/*
 * Maps a region that was allocated earlier, and stores its size in bytes, if size is not NULL. A region that is mapped
 * already is given at the same address. Returns the address, or NULL with errno: ENOENT, EPERM, ENXIO, ESTALE, EBADF ...
 */
void *nv_map(nv_pool *pool, const char *name, size_t *size);

/*
 * Gives a region up and unmaps it, mapped or not. Its content is lost, and is zeroed before anybody gets the memory.
 * Returns 0, or -1 with errno: ENOENT (as when it was freed before), EPERM, EROFS, EBADF ...
 */
int nv_free(nv_pool *pool, const char *name);

/*
 * Makes persistent what was stored in the size bytes at address, as the pool's kind requires: by flushing cache lines
 * and a fence, or by msync(2). All bytes are within one region; other bytes of the same cache lines or pages
 * become persistent with them. Stores of other threads count if this thread knows of them, through a lock for instance.
 * Returns 0, or -1 with errno: EFAULT, EROFS, or EIO of the device, after which nothing is known of these bytes.
 */
int nv_persist(const void *address, size_t size);

/* A region, as nv_list shows it. */
typedef struct nv_region {
	uint64_t size;              /* in bytes */
	int64_t created;            /* in seconds since 1970 */
	char name[NV_NAME_MAX + 1];
	char use[8];                /* "user": made by nv_alloc; "ram", "state": belongs to a virtual machine */
	char id[40];                /* a UUID, never used again */
} nv_region;

/*
 * Lists the regions of the pool in the order of their allocation. It fills at most capacity entries, and needs no
 * array if capacity is 0. Returns how many regions there are, which may be more, or -1 with errno: EBADF, EFAULT.
 */
int nv_list(nv_pool *pool, nv_region *regions, size_t capacity);

/* A pool, as nv_info shows it. Sizes are in bytes. */
typedef struct nv_pool_info {
	uint64_t size;         /* the capacity of a file or device, the quota of a directory */
	uint64_t free;
	uint64_t largest_free; /* the largest region that nv_alloc could make now */
	uint64_t unit;         /* regions are multiples of this */
	uint64_t regions;
	char kind[8];          /* "devdax", "fsdax", "file", "shm" */
	char layout[16];       /* "directory", "single" */
	char persistence[16];  /* what nv_persist does: "clwb", "clflushopt", "clflush", "msync", or "none" if read-only */
	char id[40];           /* a UUID */
} nv_pool_info;

/* Describes the pool. Returns 0, or -1 with errno: EBADF, EFAULT. */
int nv_info(nv_pool *pool, nv_pool_info *info);

/*
 * What went wrong in the last call of this thread that failed, and what to do about it: "what; what to do". It is valid until
 * the thread's next call that fails; "" if none did. Never NULL.
 */
const char *nv_last_error(void);

/*
 * What a value of errno means when it comes from this library, and what to do in general, in the same form. The
 * string is constant. For a value that is not in the list above it is a pointer to strerror(3). Never NULL.
 */
const char *nv_strerror(int code);

#ifdef __cplusplus
}
#endif

#endif
