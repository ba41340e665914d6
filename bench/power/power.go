// Package power is the hand on the switch: it announces outages and cuts the power
// of processes at exact moments.
//
// It acts from a thread above everything that a save runs at, so that a moment is
// that of the event and not of the next free CPU: the wires of a power supply do not
// wait for one either. Without the right to real-time priority moments are less
// exact, and still reported as they were.
package power

import (
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/vm/saver"
)

// Priority is the real-time priority of the switch.
const Priority = 30

// Announce sends SIGPWR to the daemon and returns CLOCK_MONOTONIC, in nanoseconds, of just before.
func Announce(daemon int) (eventNS int64, err error) {
	Act(func() {
		eventNS = saver.Now()
		err = unix.Kill(daemon, unix.SIGPWR)
	})
	if err != nil {
		err = fmt.Errorf("announce the outage to process %d: %w", daemon, err)
	}
	return eventNS, err
}

// Cut sends SIGPWR to the daemon, if announced, and kills it and all QEMUs after that
// time. It returns how much later that really was.
func Cut(daemon int, qemus []int, announced bool, after time.Duration) (at time.Duration, err error) {
	Act(func() {
		event := saver.Now()
		if announced {
			if err = unix.Kill(daemon, unix.SIGPWR); err != nil {
				return
			}
		}
		sleepUntil(event + int64(after))
		at = time.Duration(saver.Now() - event)
		for _, pid := range append([]int{daemon}, qemus...) {
			if e := unix.Kill(pid, unix.SIGKILL); e != unix.ESRCH {
				err = errors.Join(err, e)
			}
		}
	})
	if err != nil {
		err = fmt.Errorf("cut the power: %w", err)
	}
	return at, err
}

// Act runs fn on a thread with the switch's priority and waits for it.
func Act(fn func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		raise := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: Priority}
		raised := unix.SchedSetAttr(0, &raise, 0) == nil
		fn()
		if raised { // at once: others may have a use for this CPU
			_ = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL}, 0)
		}
	}()
	<-done
}

// sleepUntil waits for an instant of CLOCK_MONOTONIC, in nanoseconds.
func sleepUntil(ns int64) {
	until := unix.NsecToTimespec(ns)
	for unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &until, nil) == unix.EINTR {
	}
}
