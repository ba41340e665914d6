package vm

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/qemu"
	"github.com/nv-hypervisor/nv-hypervisor/vm/record"
)

// A QEMU that hangs when power is back is replaced by one that resumes the image.
func TestHungInPlace(t *testing.T) {
	r := newRig(t)
	v := r.running(small("db"))
	r.outage(v)
	pid := v.Process().PID()
	check(t, unix.Kill(pid, unix.SIGSTOP))
	r.clear(v)
	v.expect(t, Running)
	v.expectQEMU(t, "running")
	v.expectRecord(t, record.StatusRunning, 2)
	if v.Process().PID() == pid {
		t.Error("it is the QEMU that hangs")
	}
	if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("the QEMU that hangs is still there: %v", err)
	}
}

// A QEMU that hangs while it is started or resumed is given up; the image is intact.
func TestHungAtStart(t *testing.T) {
	r := newRig(t)
	v := r.create(small("db"))
	hang := func(verb func() error) {
		t.Helper()
		r.env.StartLimit = time.Second
		defer func() { r.env.StartLimit = 0 }()
		done := make(chan error, 1)
		go func() { done <- verb() }()
		eventually(t, "there is a QEMU to hang", func() bool {
			pid, _, err := qemu.Find(qemu.Runtime{Dir: v.runtimeDir()})
			return err == nil && unix.Kill(pid, unix.SIGSTOP) == nil
		})
		if <-done == nil {
			t.Error("it started all the same")
		}
		if _, _, err := qemu.Find(qemu.Runtime{Dir: v.runtimeDir()}); !errors.Is(err, qemu.ErrGone) {
			t.Errorf("the QEMU that hangs is still there: %v", err)
		}
	}
	hang(func() error { return v.Start(testContext(t), false) })
	v.expect(t, Failed)
	check(t, v.Start(testContext(t), false))
	_, err := v.Save(testContext(t))
	check(t, err)
	hang(func() error { _, err := v.Restore(testContext(t)); return err })
	v.expect(t, Saved)
	v.expectRecord(t, record.StatusSaved, 1)
	_, err = v.Restore(testContext(t))
	check(t, err)
	v.expectQEMU(t, "running")
}

// A QEMU that dies while it is started or resumed gets a successor, once.
func TestDeathAtStart(t *testing.T) {
	r := newRig(t)
	v := r.create(small("db"))
	kill := func(times int, verb func() error) error {
		t.Helper()
		done := make(chan error, 1)
		go func() { done <- verb() }()
		var last int
		for range times {
			eventually(t, "there is a QEMU to kill", func() bool {
				pid, _, err := qemu.Find(qemu.Runtime{Dir: v.runtimeDir()})
				if err != nil || pid == last {
					return false
				}
				last = pid
				return unix.Kill(pid, unix.SIGKILL) == nil
			})
		}
		return <-done
	}
	start := func() error { return v.Start(testContext(t), false) }
	restore := func() error { _, err := v.Restore(testContext(t)); return err }
	check(t, kill(1, start))
	v.expectQEMU(t, "running")
	if w := v.Info().Warnings; len(w) != 1 || !strings.Contains(w[0], "once more") {
		t.Errorf("warnings %q", w)
	}
	_, err := v.Save(testContext(t))
	check(t, err)
	if kill(2, restore) == nil {
		t.Error("a third QEMU was started")
	}
	v.expect(t, Saved)
	v.expectRecord(t, record.StatusSaved, 1)
	check(t, kill(1, restore))
	v.expectRecord(t, record.StatusRunning, 2)
	v.expectQEMU(t, "running")
}

// A QEMU that hangs when a new daemon looks for it holds up nobody for ever, and
// is not killed: its guest may come to itself.
func TestHungAtAdoption(t *testing.T) {
	r := newRig(t)
	v := r.running(small("db"))
	pid := v.Process().PID()
	check(t, unix.Kill(pid, unix.SIGSTOP))
	v = r.reopen(v)
	r.env.StartLimit = 500 * time.Millisecond
	outcome, _, err := v.Recover(testContext(t))
	if outcome != Broken || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("recovered as %q, %v", outcome, err)
	}
	v.expect(t, Failed)
	check(t, unix.Kill(pid, unix.SIGCONT))
	wantError(t, v.Start(testContext(t), false), ErrState, "still there")
	r.env.StartLimit = 0
	v = r.reopen(v)
	v.recover(t, Adopted)
	v.expectQEMU(t, "running")
}
