package floor

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Saved is when one VM was stopped and when its state was dumped, since the loop began.
type Saved struct {
	Stopped, Dumped time.Duration
}

// What QEMU says on its way; it prints JSON in this one style.
var (
	sayStop      = []byte(`"event": "STOP"`)
	sayCompleted = []byte(`"status": "completed"`)
	sayFailed    = []byte(`"status": "failed"`)
	sayError     = []byte(`"error": {`)
)

// Save stops and dumps all VMs at once and reports them in the order in which they
// were done. Their guests stay stopped. With realtime set, the loop and QEMU's threads
// have the product's priorities from before the clock starts.
func Save(vms []*VM, realtime bool) ([]Saved, error) {
	defer quiet()()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	loop := []thread{{0, loopPriority}}
	if realtime {
		for _, v := range vms {
			if err := setPriorities(v.threads, true); err != nil {
				return nil, fmt.Errorf("bare loop: %w", err)
			}
		}
		if err := setPriorities(loop, true); err != nil {
			return nil, fmt.Errorf("bare loop: %w", err)
		}
		defer setPriorities(loop, false) // giving up priority cannot fail
	}
	saved, err := save(vms)
	for _, v := range vms {
		if err == nil {
			err = v.state.check()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("bare loop: %w", err)
	}
	return saved, nil
}

// save is the loop.
func save(vms []*VM) ([]Saved, error) {
	saved := make([]Saved, 0, len(vms))
	stopped := make([]time.Duration, len(vms))
	waiting := make([]unix.PollFd, len(vms))
	for i, v := range vms {
		v.monitor.data = v.monitor.data[:0]
		waiting[i] = unix.PollFd{Fd: int32(v.monitor.fd), Events: unix.POLLIN}
	}
	start := now()
	for _, v := range vms {
		if err := write(v.monitor.fd, v.save); err != nil {
			return nil, err
		}
	}
	for len(saved) < len(vms) {
		n, err := await(waiting, answerLimit)
		if err != nil || n == 0 {
			return nil, fmt.Errorf("%d of %d saves are not done: %w", len(vms)-len(saved), len(vms), errors.Join(err, errSilent))
		}
		for i, v := range vms {
			if waiting[i].Revents == 0 {
				continue
			}
			if err := v.monitor.receive(); err != nil {
				return nil, err
			}
			at := time.Duration(now() - start)
			data := v.monitor.data
			switch {
			case bytes.Contains(data, sayError), bytes.Contains(data, sayFailed):
				return nil, fmt.Errorf("the save failed: %s", data)
			case stopped[i] == 0 && bytes.Contains(data, sayStop):
				stopped[i] = at
			}
			if bytes.Contains(data, sayCompleted) {
				saved = append(saved, Saved{Stopped: stopped[i], Dumped: at})
				waiting[i].Fd = -1 // poll skips it
			}
		}
	}
	return saved, nil
}

var errSilent = errors.New("QEMU is silent")
