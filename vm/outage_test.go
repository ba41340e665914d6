package vm

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/vm/record"
	"github.com/nv-hypervisor/nv-hypervisor/vm/saver"
)

// volatileVM is a small VM whose RAM is DRAM.
func volatileVM(name string) Definition {
	d := small(name)
	d.Volatile = true
	return d
}

// An outage may come after a guest was let run and before that is noted. Its word
// is the last, in whichever order the two are told.
func TestOutageBeforeRunningIsNoted(t *testing.T) {
	for _, def := range []Definition{small("db"), volatileVM("db")} {
		for _, late := range []bool{false, true} {
			r := newRig(t)
			v := r.running(def)
			was := map[bool]State{false: Saved, true: Paused}[def.Volatile]
			v.setState(Starting, "")
			check(t, r.env.Saver.Simulate(testContext(t), saver.Now()))
			result := r.noted()
			if late {
				v.setRuns(Running, "")
				v.expect(t, Starting)
				v.note(result)
			} else {
				v.note(result)
				v.setRuns(Running, "")
			}
			v.expect(t, was)
			if !v.Interrupted() {
				t.Error("the end of the outage would leave it alone")
			}
			r.clear(v)
			v.expect(t, Running)
			v.expectQEMU(t, "running")
		}
	}
}

// A save by hand that an outage overtakes is refused; the outage saves the VM, and
// its end continues it.
func TestOutageDuringASave(t *testing.T) {
	r := newRig(t)
	v := r.running(small("db"))
	check(t, r.env.Saver.Simulate(testContext(t), saver.Now()))
	_, err := v.Save(testContext(t)) // the outage is over for the saver, but not noted yet
	wantError(t, err, saver.ErrOutage)
	v.note(r.noted())
	v.expect(t, Saved)
	if v.Process() == nil || v.intent() != IntentRunning {
		t.Errorf("process %v, intent %s", v.Process(), v.intent())
	}
	_, err = v.Save(testContext(t))
	wantError(t, err, ErrState)
	r.clear(v)
	v.expect(t, Running)
	_, err = v.Save(testContext(t))
	check(t, err)
}

// A guest that was asked to power off when an outage came is saved, not stopped, and
// nobody waits for what it cannot do.
func TestOutageDuringAStop(t *testing.T) {
	r := newRig(t)
	v := r.running(small("db"))
	done := make(chan error, 1)
	go func() { done <- v.Stop(testContext(t), false, limit) }() // the firmware does not hear it
	eventually(t, "the guest is asked", func() bool { return v.intent() == IntentStopped })
	before := time.Now()
	r.outage(v)
	wantError(t, <-done, ErrState, "outage")
	if waited := time.Since(before); waited > limit/2 {
		t.Errorf("stop waited for %v", waited)
	}
	v.expect(t, Saved)
	if v.intent() != IntentRunning || !v.Interrupted() {
		t.Errorf("intent %s, to be continued %v", v.intent(), v.Interrupted())
	}
	r.clear(v)
	v.expectQEMU(t, "running")
	check(t, v.Stop(testContext(t), true, 0))
}

// A daemon that was killed while a guest was asked to power off leaves the intent
// behind; an outage after that must not leave the guest stopped for ever.
func TestGlitchOfAGuestThatIsStopping(t *testing.T) {
	r := newRig(t)
	v := r.running(small("db"))
	check(t, v.setIntent(IntentStopped))
	r.outage(v)
	r.clear(v)
	v.expect(t, Running)
	v.expectQEMU(t, "running")
}

// A forced stop does not destroy an image that was committed but not noted yet.
func TestForcedStopOfASavedVM(t *testing.T) {
	r := newRig(t)
	v := r.running(small("db"))
	check(t, r.env.Saver.Simulate(testContext(t), saver.Now()))
	result := r.noted()
	wantError(t, v.Stop(testContext(t), true, 0), ErrState, "outage")
	v.expectRecord(t, record.StatusSaved, 1)
	v.note(result)
	r.clear(v)
	v.expect(t, Running)
}

// A QEMU that dies after its commit leaves its image, even if nobody has noted it yet.
func TestDeathAfterTheCommit(t *testing.T) {
	for _, noted := range []bool{true, false} {
		r := newRig(t)
		v := r.running(small("db"))
		check(t, r.env.Saver.Simulate(testContext(t), saver.Now()))
		result := r.noted()
		if noted {
			v.note(result)
		}
		check(t, unix.Kill(v.Process().PID(), unix.SIGKILL))
		eventually(t, "its end is noted", func() bool { return v.Process() == nil })
		eventually(t, "it is saved", func() bool { return v.State() == Saved })
		v.settle()
		v.note(result)
		r.clear(v)
		v.expect(t, Running)
		v.expectRecord(t, record.StatusRunning, 2)
	}
}

// A QEMU that dies while its volatile VM is paused has nothing to resume.
func TestDeathOfAPausedVolatileVM(t *testing.T) {
	r := newRig(t)
	v := r.running(volatileVM("scratch"))
	check(t, r.env.Saver.Simulate(testContext(t), saver.Now()))
	result := r.noted()
	check(t, unix.Kill(v.Process().PID(), unix.SIGKILL))
	eventually(t, "its end is noted", func() bool { return v.State() == Failed })
	v.note(result)
	v.expect(t, Failed)
	v.settle()
	wantError(t, v.Unpause(testContext(t)), ErrState)
	v.setState(Paused, "") // however it came to that
	wantError(t, v.Unpause(testContext(t)), ErrState, "paused")
	r.clear(v)
	eventually(t, "it is booted again", func() bool { return v.State() == Running })
}

// A QEMU that dies alone is booted again by policy, but not for ever.
func TestDeathAlone(t *testing.T) {
	r := newRig(t)
	v := r.running(small("db"))
	for i := range maxRestarts {
		check(t, unix.Kill(v.Process().PID(), unix.SIGKILL))
		eventually(t, "its end is noted", func() bool {
			rec, err := v.area.Latest()
			return err == nil && rec.Generation == uint64(i+2) || v.State() == Failed
		})
		v.settle()
		v.expect(t, Running)
		v.expectRecord(t, record.StatusRunning, uint64(i+2))
	}
	check(t, unix.Kill(v.Process().PID(), unix.SIGKILL))
	eventually(t, "it is given up", func() bool { return v.State() == Failed && v.Process() == nil })
	v.settle()
	check(t, v.Start(testContext(t), false)) // its operator may

	def := small("web")
	def.OnLost = OnLostHold
	held := r.running(def)
	check(t, unix.Kill(held.Process().PID(), unix.SIGKILL))
	eventually(t, "it has failed", func() bool { return held.State() == Failed })
	held.settle()
	check(t, held.Stop(testContext(t), false, 0)) // that is enough for it to be left alone
	held = r.reopen(held)
	held.recover(t, LeftAlone)
}

// A VM that could not be saved, whose QEMU still lives, goes on when power is back,
// or is ended by its operator.
func TestNotSaved(t *testing.T) {
	r := newRig(t)
	v := r.running(small("db"))
	failed := saver.VMResult{Name: "db", Err: errors.New("no luck")}
	v.NoteSaved(failed, "x")
	v.expect(t, Failed)
	if !v.Interrupted() {
		t.Error("the end of the outage would leave it alone")
	}
	check(t, v.ResumeInPlace(testContext(t)))
	v.expect(t, Running)
	v.NoteSaved(failed, "x")
	wantError(t, v.Start(testContext(t), true), ErrState)
	check(t, v.Start(testContext(t), false)) // or when its operator wants it
	v.expect(t, Running)
	v.NoteSaved(failed, "x")
	wantError(t, v.Stop(testContext(t), false, 0), ErrState)
	wantError(t, v.Remove(false), ErrState)
	check(t, v.Stop(testContext(t), true, 0))
	v.expect(t, Stopped)
	check(t, v.Remove(false))
}

// The daemon's end waits for no QEMU, not even for one that is being booted.
func TestCloseDuringABoot(t *testing.T) {
	r := newRig(t)
	v := r.running(small("db"))
	pid := v.Process().PID()
	booting := make(chan struct{})
	tell := func(s State) {
		if s == Starting {
			close(booting)
		}
	}
	r.onState.Store(&tell)
	check(t, unix.Kill(pid, unix.SIGKILL))
	<-booting
	closed := make(chan struct{})
	go func() { v.Close(); close(closed) }()
	select {
	case <-closed:
	case <-time.After(limit):
		t.Fatal("Close does not return")
	}
	r.onState.Store(nil)
	v = r.open("db", true)
	v.recover(t, Adopted) // it was let go of, and runs
}

// An outage that comes while a new daemon still looks for its QEMUs does not find
// them attached: a guest that runs is saved as soon as it is adopted, and one that
// does not run waits for the end of the outage.
func TestOutageBeforeAdoption(t *testing.T) {
	for _, c := range []struct {
		name   string
		before func(r *rig, v *VM)
		state  State // once it was tried to adopt it
		after  State
	}{
		{"running", func(*rig, *VM) {}, Saved, Running},
		{"paused", func(_ *rig, v *VM) { check(t, v.Pause(testContext(t))) }, Saved, Paused},
		{"saved", func(r *rig, v *VM) { r.outage(v) }, Failed, Running},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			v := r.running(small("db"))
			c.before(r, v)
			v = r.reopen(v)
			check(t, r.env.Saver.Clear())
			check(t, r.env.Saver.Simulate(testContext(t), saver.Now()))
			first := r.noted()
			v.Recover(testContext(t)) // tells of the outage, or not
			if c.state == Saved {
				late := r.noted()
				if v.note(late); late.ID != first.ID || late.EventNS != first.EventNS || !late.Outage {
					t.Errorf("saved as part of %+v, not of %+v", late, first)
				}
			}
			v.expect(t, c.state)
			if rec, err := v.area.Latest(); err != nil || rec.Status != record.StatusSaved || rec.Outage == "" {
				t.Errorf("record says %v in outage %q, %v", rec.Status, rec.Outage, err)
			}
			r.clear(v)
			v.expect(t, c.after)
			if c.after == Running {
				v.expectQEMU(t, "running")
			}
		})
	}
}
