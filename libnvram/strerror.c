/* nv_strerror: what a value of errno means here, and what to do. Async-signal-safe for the values it knows. */
#include <errno.h>
#include <string.h>

#include "nvram.h"

static const struct {
	int code;
	const char *text;
} texts[] = {
	{0, "no error; nothing to do"},
	{EINVAL, "a name, kind, size or flag that cannot be; see nv_alloc(3) for what can"},
	{EFAULT, "NULL, or memory that is not within one mapped region; give what nv_alloc or nv_map returned"},
	{EBADF, "not an open pool; use what nv_open returned, until nv_close"},
	{ENOENT, "no such path or no such region; make the pool with nv_init, the region with nv_alloc"},
	{EEXIST, "a pool or a region of this name is there already; open it with nv_open, map it with nv_map, or choose another name"},
	{ENOSPC, "the pool is full; free some regions or make a larger pool"},
	{EBUSY, "the pool is in use; stop the process that uses it, or look at it with NV_RDONLY"},
	{EROFS, "the pool was opened to be read; open it without NV_RDONLY"},
	{EPERM, "it belongs to a virtual machine, or is not permitted; leave it to nvh, and take a pool of your own"},
	{EACCES, "permission denied; run as the owner of the pool, or make one where you may write"},
	{ENODATA, "not an NVRAM pool: nothing was initialised there; make it one with nv_init"},
	{EMEDIUMTYPE, "not an NVRAM pool: something else is there; choose another path, or `nvh nvram init --force` if nobody needs it"},
	{ENXIO, "truncated: a part of the pool or the region is missing; restore the file or device to its size, or free the region"},
	{ESTALE, "the region's file was replaced by another; restore the whole pool, or free the region"},
	{EHWPOISON, "the memory has lost data, or will in the next power cut; see `nvh nvram health`, and put it in order or choose another pool"},
	{EUCLEAN, "the pool is corrupt; keep a copy, and look at it with `nvh nvram check` and `nvh nvram dump`"},
	{EPROTONOSUPPORT, "a newer version made the pool; open it with that version of libnvram"},
	{ENOTSUP, "not supported, as after fork(2); load the library behind the fork, or start another program with execve(2)"},
	{ENOMEM, "the process has no room for the memory; free some regions, or raise RLIMIT_AS and vm.max_map_count"},
	{EIO, "the device failed; see the kernel's log, then open the pool again to see what is persistent"},
};

const char *nv_strerror(int code)
{
	for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
		if (texts[i].code == code)
			return texts[i].text;
	return strerror(code);
}
