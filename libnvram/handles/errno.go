package handles

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
)

// What can be wrong beyond the errors of package nvram.
var (
	ErrNotOpen   = errors.New("not an open pool")
	ErrNotMapped = errors.New("not within a mapped region")
	ErrNotOurs   = errors.New("belongs to a virtual machine")
)

// codes are the values of errno that nvram.h documents. An error of the operating system keeps its own.
var codes = []struct {
	err  error
	code syscall.Errno
}{
	{nvram.ErrNotPool, syscall.ENODATA},
	{nvram.ErrForeign, syscall.EMEDIUMTYPE},
	{nvram.ErrTruncated, syscall.ENXIO},
	{nvram.ErrNewerVersion, syscall.EPROTONOSUPPORT},
	{nvram.ErrCorrupt, syscall.EUCLEAN},
	{nvram.ErrFull, syscall.ENOSPC},
	{nvram.ErrLocked, syscall.EBUSY},
	{nvram.ErrExists, syscall.EEXIST},
	{nvram.ErrNotFound, syscall.ENOENT},
	{nvram.ErrInvalidName, syscall.EINVAL},
	{nvram.ErrReadOnly, syscall.EROFS},
	{nvram.ErrReplaced, syscall.ESTALE},
	{nvram.ErrUnhealthy, syscall.Errno(unix.EHWPOISON)},
	{ErrNotOpen, syscall.EBADF},
	{ErrNotMapped, syscall.EFAULT},
	{ErrNotOurs, syscall.EPERM},
	{os.ErrClosed, syscall.EBADF},
}

// Code gives the errno of an error. What has none is an argument that cannot be: EINVAL.
func Code(err error) syscall.Errno {
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	var code syscall.Errno
	if errors.As(err, &code) {
		return code
	}
	return syscall.EINVAL
}
