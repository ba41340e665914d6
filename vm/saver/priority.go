package saver

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	schedOther = 0
	schedFIFO  = 1
)

// setFIFO gives a thread (0: the caller) a real-time priority.
func setFIFO(tid, priority int) error { return setScheduler(tid, schedFIFO, priority) }

// setOther gives a thread back to the ordinary scheduler.
func setOther(tid int) error { return setScheduler(tid, schedOther, 0) }

func setScheduler(tid, policy, priority int) error {
	param := int32(priority)
	_, _, errno := unix.RawSyscall(unix.SYS_SCHED_SETSCHEDULER, uintptr(tid), uintptr(policy), uintptr(unsafe.Pointer(&param)))
	if errno != 0 {
		return errno
	}
	return nil
}

// Now is the clock of all Steps: CLOCK_MONOTONIC in nanoseconds.
func Now() int64 { return monotonic() }

// monotonic is CLOCK_MONOTONIC in nanoseconds, the clock every timestamp of a
// save is taken from; it is the same for all processes of a host.
func monotonic() int64 {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano()
}
