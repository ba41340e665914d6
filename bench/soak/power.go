package soak

import (
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/vm/saver"
)

// powerPriority is above everything that a save does, so that the power fails when
// it is to, and not when the save is over.
const powerPriority = 30

// strike sends the signal that announces an outage, if signalled, and kills the
// daemon and all QEMUs after that time. It returns how much later that really was.
// Without the right to real-time priority the moment is less exact, but known.
func strike(daemon int, qemus []int, signalled bool, after time.Duration) (at time.Duration, err error) {
	done := make(chan struct{})
	go func() { // on a thread that is thrown away afterwards, because it stays locked
		defer close(done)
		runtime.LockOSThread()
		_ = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: powerPriority}, 0)
		event := saver.Now()
		if signalled {
			if err = unix.Kill(daemon, unix.SIGPWR); err != nil {
				err = fmt.Errorf("announce the outage: %w", err)
				return
			}
		}
		sleepUntil(event + int64(after))
		at = time.Duration(saver.Now() - event)
		for _, pid := range append([]int{daemon}, qemus...) {
			if e := unix.Kill(pid, unix.SIGKILL); e != nil && !errors.Is(e, unix.ESRCH) {
				err = errors.Join(err, fmt.Errorf("cut the power of process %d: %w", pid, e))
			}
		}
	}()
	<-done
	return at, err
}

// sleepUntil waits for an instant of CLOCK_MONOTONIC, in nanoseconds.
func sleepUntil(ns int64) {
	until := unix.NsecToTimespec(ns)
	for unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &until, nil) == unix.EINTR {
	}
}
