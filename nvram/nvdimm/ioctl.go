package nvdimm

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// kernel is ioctl(2). The structure is not empty.
func kernel(fd uintptr, request uint, structure []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, uintptr(request), uintptr(unsafe.Pointer(&structure[0])))
	runtime.KeepAlive(structure)
	if errno != 0 {
		return errno
	}
	return nil
}
