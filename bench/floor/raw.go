package floor

import (
	"runtime/debug"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// System calls without Go's scheduler around them, which a bare loop does not have:
// it may take a thread's place away while it waits, and make it wait for another.
// The world cannot be stopped meanwhile: see quiet.

// quiet keeps the garbage collector from stopping the world until the returned
// function is called. A collection that is under way is waited for.
func quiet() (end func()) {
	before := debug.SetGCPercent(-1)
	return func() { debug.SetGCPercent(before) }
}

// now is CLOCK_MONOTONIC in nanoseconds.
func now() int64 {
	var ts unix.Timespec
	unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_MONOTONIC, uintptr(unsafe.Pointer(&ts)), 0)
	return ts.Nano()
}

// await waits until one of fds can be read, and returns how many can: 0 after limit.
func await(fds []unix.PollFd, limit time.Duration) (int, error) {
	ts := unix.NsecToTimespec(limit.Nanoseconds())
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&fds[0])), uintptr(len(fds)), uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR: // the kernel has put into ts what is left of it
		default:
			return 0, errno
		}
	}
}

func read(fd int, p []byte) (int, error) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

func write(fd int, p []byte) error {
	_, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
	if errno != 0 {
		return errno
	}
	return nil
}
