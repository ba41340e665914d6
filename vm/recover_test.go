package vm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nv-hypervisor/nv-hypervisor/qemu"
	"github.com/nv-hypervisor/nv-hypervisor/vm/record"
)

// What a new daemon makes of a VM whose host lost power, by record, intent and policy.
func TestRecoverAfterACut(t *testing.T) {
	save := func(t *testing.T, v *VM) { _, err := v.Save(testContext(t)); check(t, err) }
	for _, c := range []struct {
		name    string
		change  func(d *Definition)
		before  func(t *testing.T, r *rig, v *VM)
		outcome Outcome
		state   State
	}{
		{"never started", nil, func(*testing.T, *rig, *VM) {}, LeftAlone, Stopped},
		{"saved in an outage", nil, func(t *testing.T, r *rig, v *VM) {
			check(t, v.Start(testContext(t), false))
			r.outage(v)
		}, Resumed, Running},
		{"paused and saved in an outage", nil, func(t *testing.T, r *rig, v *VM) {
			check(t, v.Start(testContext(t), false))
			check(t, v.Pause(testContext(t)))
			r.outage(v)
		}, Resumed, Paused},
		{"saved by its operator", nil, func(t *testing.T, r *rig, v *VM) {
			check(t, v.Start(testContext(t), false))
			save(t, v)
		}, LeftSaved, Saved},
		{"stopped by its operator", nil, func(t *testing.T, r *rig, v *VM) {
			check(t, v.Start(testContext(t), false))
			check(t, v.Stop(testContext(t), true, 0))
		}, LeftAlone, Stopped},
		{"lost, to be booted", nil, func(t *testing.T, r *rig, v *VM) {
			check(t, v.Start(testContext(t), false))
		}, ColdBooted, Running},
		{"lost, to be held", func(d *Definition) { d.OnLost = OnLostHold }, func(t *testing.T, r *rig, v *VM) {
			check(t, v.Start(testContext(t), false))
		}, HeldBack, Held},
		{"volatile", func(d *Definition) { d.Volatile = true }, func(t *testing.T, r *rig, v *VM) {
			check(t, v.Start(testContext(t), false))
		}, ColdBooted, Running},
		{"volatile, to be held", func(d *Definition) { d.Volatile, d.OnLost = true, OnLostHold }, func(t *testing.T, r *rig, v *VM) {
			check(t, v.Start(testContext(t), false))
		}, HeldBack, Held},
		{"volatile and stopped", func(d *Definition) { d.Volatile = true }, func(*testing.T, *rig, *VM) {}, LeftAlone, Stopped},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			def := small("db")
			if c.change != nil {
				c.change(&def)
			}
			v := r.create(def)
			c.before(t, r, v)
			v = r.cut(v)
			check(t, r.env.Saver.Clear())
			v.recover(t, c.outcome)
			v.expect(t, c.state)
			if !v.Volatile() && v.Process() != nil {
				r.outage(v) // and the next one finds it ready
				v.expect(t, Saved)
			}
		})
	}
}

// What a new daemon makes of a QEMU that outlived the old one.
func TestRecoverFindsItsQEMU(t *testing.T) {
	for _, c := range []struct {
		name       string
		before     func(t *testing.T, r *rig, v *VM)
		outcome    Outcome
		state      State
		qemu       string
		status     record.Status
		generation uint64
	}{
		{"running", func(*testing.T, *rig, *VM) {}, Adopted, Running, "running", record.StatusRunning, 1},
		{"paused", func(t *testing.T, r *rig, v *VM) {
			check(t, v.Pause(testContext(t)))
		}, Adopted, Paused, "paused", record.StatusRunning, 1},
		{"killed between noting the pause and pausing", func(t *testing.T, r *rig, v *VM) {
			check(t, v.setIntent(IntentPaused))
		}, Adopted, Paused, "paused", record.StatusRunning, 1},
		{"killed between noting the save and saving", func(t *testing.T, r *rig, v *VM) {
			check(t, v.setIntent(IntentSaved))
		}, Adopted, Running, "running", record.StatusRunning, 1},
		{"killed in an outage", func(t *testing.T, r *rig, v *VM) {
			r.outage(v)
		}, InPlace, Running, "running", record.StatusRunning, 2},
		{"killed in an outage of a paused VM", func(t *testing.T, r *rig, v *VM) {
			check(t, v.Pause(testContext(t)))
			r.outage(v)
		}, InPlace, Paused, "postmigrate", record.StatusSaved, 1},
		{"killed after the commit of a save", func(t *testing.T, r *rig, v *VM) {
			check(t, v.setIntent(IntentSaved))
			_, err := r.env.Saver.Save(testContext(t), v.target)
			check(t, err)
		}, LeftSaved, Saved, "", record.StatusSaved, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			v := r.running(small("db"))
			pid := v.Process().PID()
			c.before(t, r, v)
			v = r.reopen(v)
			check(t, r.env.Saver.Clear())
			v.recover(t, c.outcome)
			v.expect(t, c.state)
			v.expectRecord(t, c.status, c.generation)
			if c.qemu == "" {
				if v.Process() != nil {
					t.Error("its QEMU is still there")
				}
				return
			}
			v.expectQEMU(t, c.qemu)
			if v.Process().PID() != pid {
				t.Error("it is another QEMU")
			}
			// Whatever it was, it is the operator's to use and safe in the next outage.
			r.outage(v)
			if rec, err := v.area.Latest(); err != nil || rec.Status != record.StatusSaved {
				t.Errorf("after an outage: %v, %v", rec.Status, err)
			}
			r.clear(v)
			v.expect(t, c.state)
			if c.state == Paused {
				check(t, v.Unpause(testContext(t)))
				v.expectQEMU(t, "running")
				r.outage(v)
				v.expect(t, Saved)
				r.clear(v)
			}
			check(t, v.Stop(testContext(t), true, 0))
		})
	}
}

// Killed between mark and cont: the guest has not run, but nobody can know.
func TestKilledBetweenMarkAndCont(t *testing.T) {
	r := newRig(t)
	v := r.running(small("db"))
	r.outage(v)
	v = r.cut(v)
	check(t, r.env.Saver.Clear())
	img, err := v.validate(testContext(t))
	check(t, err)
	p, err := v.spawn(testContext(t), img.launch.Launch, img.encoded, true)
	check(t, err)
	check(t, v.load(testContext(t), p, img.state))
	_, err = v.area.MarkResumed(img.record)
	check(t, err)
	check(t, p.Close())
	v = r.reopen(v)
	v.recover(t, Adopted)
	v.expectQEMU(t, "running")
	v.expectRecord(t, record.StatusRunning, 2)
}

// Killed in the middle of a restore: the image is intact and is resumed once.
func TestKilledDuringARestore(t *testing.T) {
	r := newRig(t)
	v := r.running(small("db"))
	r.outage(v)
	for _, load := range []bool{false, true} {
		v = r.cut(v)
		check(t, r.env.Saver.Clear())
		img, err := v.validate(testContext(t))
		check(t, err)
		p, err := v.spawn(testContext(t), img.launch.Launch, img.encoded, true)
		check(t, err)
		if load {
			check(t, v.load(testContext(t), p, img.state))
		}
		check(t, p.Close())
		v = r.reopen(v)
		v.recover(t, Resumed)
		v.expectQEMU(t, "running")
		if v.Process().PID() == p.PID() {
			t.Error("a QEMU whose guest never ran was adopted")
		}
		r.outage(v)
	}
	v.expectRecord(t, record.StatusSaved, 3)
}

// An image is resumed once: whoever marked it first has it.
func TestExactlyOnce(t *testing.T) {
	r := newRig(t)
	v := r.running(small("db"))
	_, err := v.Save(testContext(t))
	check(t, err)
	img, err := v.validate(testContext(t))
	check(t, err)
	_, err = v.area.MarkResumed(img.record)
	check(t, err)
	_, err = v.area.MarkResumed(img.record)
	wantError(t, err, record.ErrSuperseded)
	_, err = v.validate(testContext(t))
	wantError(t, err, ErrRefused)
	_, err = v.Restore(testContext(t))
	wantError(t, err, ErrState, "no saved image")
}

// NVRAM put back to an earlier state, as from a copy, is not resumed a second time.
func TestEarlierGeneration(t *testing.T) {
	r := newRig(t)
	v := r.running(small("db"))
	_, err := v.Save(testContext(t))
	check(t, err)
	copied := append([]byte(nil), v.mapping.Bytes()...)
	_, err = v.Restore(testContext(t))
	check(t, err)
	_, err = v.Save(testContext(t))
	check(t, err)
	v.mapping.Store(0, copied)
	v = r.reopen(v)
	_, err = v.validate(testContext(t))
	wantError(t, err, ErrRefused, "already resumed")
}

// While a VM waits for its turn to be recovered nothing may be done with it: its
// record may hold an image, and its QEMU may be running.
func TestVerbsBeforeRecovery(t *testing.T) {
	for _, alive := range []bool{false, true} {
		r := newRig(t)
		v := r.running(small("db"))
		if alive {
			v = r.reopen(v)
		} else {
			r.outage(v)
			v = r.cut(v)
			check(t, r.env.Saver.Clear())
		}
		ctx := testContext(t)
		_, restoreErr := v.Restore(ctx)
		_, saveErr := v.Save(ctx)
		for name, err := range map[string]error{
			"start": v.Start(ctx, false), "start, discard": v.Start(ctx, true), "stop": v.Stop(ctx, true, 0),
			"restore": restoreErr, "rm": v.Remove(true), "save": saveErr, "pause": v.Pause(ctx),
		} {
			if wantError(t, err, ErrBusy); !strings.Contains(Remedy(err), "recover") {
				t.Errorf("%s: remedy %q", name, Remedy(err))
			}
		}
		if v.Interrupted() {
			t.Error("it is to be recovered, not continued in place")
		}
		check(t, v.ResumeInPlace(ctx)) // an outage ends meanwhile
		if alive {
			v.recover(t, Adopted)
			v.expectRecord(t, record.StatusRunning, 1)
		} else {
			v.recover(t, Resumed)
			v.expectRecord(t, record.StatusRunning, 2)
		}
	}
}

// A runtime file that cannot be read is an error that names it, and costs neither
// an image nor a QEMU.
func TestTornRuntimeFile(t *testing.T) {
	r := newRig(t)
	v := r.running(small("db"))
	r.outage(v)
	v = r.cut(v)
	check(t, r.env.Saver.Clear())
	check(t, os.MkdirAll(v.runtimeDir(), 0o755))
	check(t, os.WriteFile(v.runtimePath(), []byte(`{"pid": 4`), 0o600))
	outcome, _, err := v.Recover(testContext(t))
	if outcome != Broken || err == nil || !strings.Contains(err.Error(), v.runtimePath()) {
		t.Errorf("recovered as %q, %v", outcome, err)
	}
	v.expect(t, Failed)
	v.expectRecord(t, record.StatusSaved, 1)
	check(t, v.Start(testContext(t), false)) // resumes
	v.expectRecord(t, record.StatusRunning, 2)

	pid := v.Process().PID()
	v.Close()
	check(t, os.WriteFile(v.runtimePath(), nil, 0o600))
	v = r.open("db", true)
	if outcome, _, err = v.Recover(testContext(t)); outcome != Broken || err == nil {
		t.Errorf("recovered as %q, %v", outcome, err)
	}
	if err := v.Start(testContext(t), false); err == nil || !strings.Contains(err.Error(), "QEMU") {
		t.Errorf("started beside the QEMU that is there: %v", err)
	}
	if found, _, err := qemu.Find(qemu.Runtime{Dir: v.runtimeDir()}); err != nil || found != pid {
		t.Errorf("QEMU %d was lost: %d, %v", pid, found, err)
	}
}

// A QEMU that runs keeps the file that names it: without it the next daemon would
// take it for one whose guest never ran.
func TestStartBesideItsOwnQEMU(t *testing.T) {
	r := newRig(t)
	v := r.running(small("db"))
	r.outage(v)
	wantError(t, v.Start(testContext(t), false), ErrState)
	wantError(t, v.Start(testContext(t), true), ErrState)
	wantError(t, v.Remove(true), ErrState)
	if _, err := v.Restore(testContext(t)); err == nil {
		t.Error("restored beside the QEMU that waits")
	}
	v.expect(t, Saved)
	r.clear(v)
	v.expect(t, Running)
	if _, err := os.Stat(v.runtimePath()); err != nil {
		t.Fatal(err)
	}
	v = r.reopen(v)
	v.recover(t, Adopted)
	v.expectRecord(t, record.StatusRunning, 2)
	if names, err := filepath.Glob(filepath.Join(r.env.StateDir, "db", "*")); err != nil || len(names) < 3 {
		t.Errorf("files: %q, %v", names, err)
	}
}
