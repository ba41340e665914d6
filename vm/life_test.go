package vm

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/vm/record"
)

// The whole life of a persistent VM.
func TestLife(t *testing.T) {
	r := newRig(t)
	ctx := testContext(t)
	v := r.create(small("db"))
	v.expect(t, Stopped)
	v.expectRecord(t, record.StatusNone, 0)
	check(t, v.Start(ctx, false))
	v.expect(t, Running)
	v.expectQEMU(t, "running")
	v.expectRecord(t, record.StatusRunning, 1)

	check(t, v.Pause(ctx))
	v.expect(t, Paused)
	v.expectQEMU(t, "paused")
	check(t, v.Unpause(ctx))
	v.expect(t, Running)
	v.expectQEMU(t, "running")

	result, err := v.Save(ctx)
	check(t, err)
	v.expect(t, Saved)
	v.expectRecord(t, record.StatusSaved, 1)
	if v.Process() != nil || result.ID == "" || !r.seen("devices-dumped db") {
		t.Errorf("after the save: process %v, id %q, events %q", v.Process(), result.ID, r.events)
	}
	steps, err := v.Restore(ctx)
	check(t, err)
	v.expect(t, Running)
	v.expectQEMU(t, "running")
	v.expectRecord(t, record.StatusRunning, 2)
	var names []string
	for _, s := range steps {
		names = append(names, s.Name)
	}
	if len(names) != 5 || names[0] != "validate" || names[1] != "spawn" || names[2] != "load" || !r.seen("devices-restored db") {
		t.Errorf("steps %q, events %q", names, r.events)
	}

	check(t, v.Stop(ctx, true, 0))
	v.expect(t, Stopped)
	v.expectRecord(t, record.StatusStopped, 2)
	check(t, v.Stop(ctx, false, 0)) // stopped is stopped
	check(t, v.Remove(false))
	if len(r.pool.Regions()) != 0 {
		t.Errorf("regions remain: %+v", r.pool.Regions())
	}
	if names, err := List(r.env.StateDir); err != nil || len(names) != 0 {
		t.Errorf("folders remain: %q, %v", names, err)
	}
}

// An outage of persistent and volatile VMs, running and paused, and power that returns.
func TestGlitch(t *testing.T) {
	r := newRig(t)
	db, web := r.running(small("db")), r.running(small("web"))
	def := small("scratch")
	def.Volatile = true
	scratch := r.running(def)
	check(t, web.Pause(testContext(t)))
	all := []*VM{db, web, scratch}
	r.outage(all...)
	db.expect(t, Saved)
	web.expect(t, Saved)
	scratch.expect(t, Paused)
	for _, v := range all[:2] {
		v.expectRecord(t, record.StatusSaved, 1)
		if !v.Info().Image.Valid || v.Info().Image.StateSize == 0 {
			t.Errorf("%s: image %+v", v.Name(), v.Info().Image)
		}
	}
	r.clear(all...)
	db.expect(t, Running)
	db.expectQEMU(t, "running")
	web.expect(t, Paused)
	scratch.expect(t, Running)
	scratch.expectQEMU(t, "running")
	r.outage(all...) // and again
	db.expectRecord(t, record.StatusSaved, 2)
	if rec, err := web.area.Latest(); err != nil || rec.Status != record.StatusSaved {
		t.Errorf("the paused VM is not saved: %v, %v", rec.Status, err)
	}
	r.clear(all...)
	web.expect(t, Paused)
	check(t, web.Unpause(testContext(t)))
	web.expect(t, Running)
	web.expectQEMU(t, "running")
	web.expectRecord(t, record.StatusRunning, 2)
	r.outage(all...)
	web.expectRecord(t, record.StatusSaved, 2)
}

// A VM that was paused in an outage keeps its image until it runs: all that can be
// done with a paused VM can be done with it.
func TestPausedWithAnImage(t *testing.T) {
	for name, verb := range map[string]func(ctx context.Context, v *VM) (State, error){
		"save":   func(ctx context.Context, v *VM) (State, error) { _, err := v.Save(ctx); return Saved, err },
		"stop":   func(ctx context.Context, v *VM) (State, error) { return Stopped, v.Stop(ctx, true, 0) },
		"resume": func(ctx context.Context, v *VM) (State, error) { return Running, v.Unpause(ctx) },
		"death": func(_ context.Context, v *VM) (State, error) {
			err := unix.Kill(v.Process().PID(), unix.SIGKILL)
			eventually(t, "its end is noted", func() bool { return v.Process() == nil })
			eventually(t, "it is saved", func() bool { return v.State() == Saved })
			v.settle()
			return Saved, err
		},
	} {
		r := newRig(t)
		v := r.running(small("db"))
		check(t, v.Pause(testContext(t)))
		r.outage(v)
		r.clear(v)
		v.expect(t, Paused)
		want, err := verb(testContext(t), v)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		v.expect(t, want)
		if want == Saved {
			check(t, v.Start(testContext(t), false))
			v.expectRecord(t, record.StatusRunning, 2)
		}
	}
}

// Each verb in the wrong state is refused, says so, and changes nothing.
func TestWrongState(t *testing.T) {
	r := newRig(t)
	ctx := testContext(t)
	v := r.create(small("db"))
	verbs := map[string]func() error{
		"start": func() error { return v.Start(ctx, false) },
		"stop":  func() error { return v.Stop(ctx, false, time.Millisecond) },
		"pause": func() error { return v.Pause(ctx) }, "resume": func() error { return v.Unpause(ctx) },
		"save":    func() error { _, err := v.Save(ctx); return err },
		"restore": func() error { _, err := v.Restore(ctx); return err },
		"rm":      func() error { return v.Remove(false) },
	}
	refuse := func(state State, names ...string) {
		t.Helper()
		for _, name := range names {
			err := verbs[name]()
			wantError(t, err, ErrState, "db: "+name)
			if Remedy(err) == "" && name != "start" && name != "restore" {
				t.Errorf("%s in state %s: no remedy: %v", name, state, err)
			}
			v.expect(t, state)
		}
	}
	refuse(Stopped, "pause", "resume", "save", "restore")
	check(t, v.Start(ctx, false))
	refuse(Running, "start", "resume", "restore", "rm")
	check(t, v.Pause(ctx))
	refuse(Paused, "start", "stop", "pause", "restore", "rm")
	_, err := v.Save(ctx)
	check(t, err)
	refuse(Saved, "stop", "pause", "resume", "save", "rm")
	check(t, v.Remove(true))
}

// Verbs exclude each other; Info does not wait for one.
func TestBusy(t *testing.T) {
	r := newRig(t)
	ctx := testContext(t)
	v := r.create(small("db"))
	end, err := v.begin("hold")
	check(t, err)
	for name, err := range map[string]error{
		"start": v.Start(ctx, false), "stop": v.Stop(ctx, true, 0), "pause": v.Pause(ctx),
		"resume": v.Unpause(ctx), "rm": v.Remove(true),
	} {
		wantError(t, err, ErrBusy, name)
	}
	v.Info()
	end()
	check(t, v.Start(ctx, false))
}

// A cold boot begins a line of its own in the console's log; a resumed guest goes on in the middle of one.
func TestConsoleLine(t *testing.T) {
	r := newRig(t)
	v := r.create(small("db"))
	begins := func(want string) {
		t.Helper()
		content, err := os.ReadFile(v.ConsoleLog())
		check(t, err)
		if !strings.HasPrefix(string(content), want) {
			t.Errorf("the log begins with %q, want %q", content[:min(len(content), 40)], want)
		}
	}
	tear := func() { check(t, os.WriteFile(v.ConsoleLog(), []byte("torn"), 0o600)) }
	tear()
	check(t, v.Start(testContext(t), false))
	begins("torn\n")
	_, err := v.Save(testContext(t))
	check(t, err)
	tear()
	_, err = v.Restore(testContext(t))
	check(t, err)
	content, err := os.ReadFile(v.ConsoleLog())
	check(t, err)
	if strings.HasPrefix(string(content), "torn\n") {
		t.Error("the line of a resumed guest was ended")
	}
	check(t, v.Stop(testContext(t), true, 0))
	check(t, os.Remove(v.ConsoleLog()))
	other := filepath.Join(r.dir, "other")
	check(t, os.WriteFile(other, []byte("torn"), 0o600))
	check(t, os.Symlink(other, v.ConsoleLog()))
	if endLine(v.ConsoleLog()) == nil {
		t.Error("it follows a link")
	}
}
