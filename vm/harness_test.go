package vm

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/qemu"
	"github.com/nv-hypervisor/nv-hypervisor/qemu/qemutest"
	"github.com/nv-hypervisor/nv-hypervisor/vm/record"
	"github.com/nv-hypervisor/nv-hypervisor/vm/saver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// limit bounds whatever a test waits for; nothing that works comes near it.
const limit = time.Minute

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantError(t testing.TB, err, want error, parts ...string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error %v, want %v", err, want)
	}
	for _, part := range parts {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("error %v, want one with %q", err, part)
		}
	}
}

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits for what has no event to wait for.
func eventually(t testing.TB, what string, reached func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !reached(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// rig is what VMs need of a host, and the VMs made on it.
type rig struct {
	t    testing.TB
	env  *Env
	pool *nvram.Pool
	dir  string

	mu     sync.Mutex
	events []string // "TYPE VM"; guarded by mu

	onState atomic.Pointer[func(State)] // told of every state, if set
}

// small is a VM that runs its firmware and finds nothing to boot.
func small(name string) Definition {
	return Definition{Name: name, StateSize: 2 * nvram.MiB, Guest: qemu.Guest{Memory: 16 * nvram.MiB, Accel: "tcg"}}
}

func newRig(t testing.TB) *rig {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "nvh-vm-")
	check(t, err)
	r := &rig{t: t, dir: dir}
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Cleanup(r.killAll)
	r.pool = r.newPool("pool")
	s, err := saver.New(saver.Config{})
	check(t, err)
	t.Cleanup(s.Close)
	r.env = &Env{
		Saver: s, StateDir: filepath.Join(dir, "state"), RuntimeDir: filepath.Join(dir, "run"),
		QEMU: qemutest.Installed(t).Path, BootID: record.UUID{1}, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Notify: func(event, vm string, data map[string]string) {
			r.mu.Lock()
			r.events = append(r.events, event+" "+vm)
			r.mu.Unlock()
			if tell := r.onState.Load(); tell != nil && event == "state" {
				(*tell)(State(data["state"]))
			}
		},
	}
	return r
}

func (r *rig) newPool(name string) *nvram.Pool {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	check(r.t, nvram.Init(nvram.InitOptions{Path: path, Kind: nvram.KindShm, Size: 128 * nvram.MiB}))
	p, err := nvram.Open(path)
	check(r.t, err)
	r.t.Cleanup(func() { check(r.t, p.Close()) })
	return p
}

// killAll ends every QEMU that runs in this rig.
func (r *rig) killAll() {
	names, err := os.ReadDir(r.env.RuntimeDir)
	if err != nil {
		return // none was started
	}
	for _, name := range names {
		if pid, _, err := qemu.Find(qemu.Runtime{Dir: filepath.Join(r.env.RuntimeDir, name.Name())}); err == nil {
			if err := qemu.KillPID(pid); err != nil {
				r.t.Error(err)
			}
		}
	}
}

// create makes a VM, persistent unless the definition says otherwise.
func (r *rig) create(def Definition) *VM {
	r.t.Helper()
	var pool Pool
	if !def.Volatile {
		pool = r.pool
	}
	v, err := Create(testContext(r.t), r.env, pool, def)
	check(r.t, err)
	r.t.Cleanup(v.Close)
	return v
}

// running makes a VM whose guest runs.
func (r *rig) running(def Definition) *VM {
	r.t.Helper()
	v := r.create(def)
	check(r.t, v.Start(testContext(r.t), false))
	v.expect(r.t, Running)
	return v
}

// reopen is what a new daemon does: the old object lets go, a new one takes its place.
func (r *rig) reopen(v *VM) *VM {
	r.t.Helper()
	v.Close()
	return r.open(v.Name(), !v.Volatile())
}

func (r *rig) open(name string, persistent bool) *VM {
	r.t.Helper()
	var pool Pool
	if persistent {
		pool = r.pool
	}
	v, err := Open(r.env, pool, name)
	check(r.t, err)
	r.t.Cleanup(v.Close)
	return v
}

// cut is a power cut and the next boot, as far as one VM is concerned.
func (r *rig) cut(v *VM) *VM {
	r.t.Helper()
	v.Close()
	r.killAll()
	check(r.t, os.RemoveAll(r.env.RuntimeDir))
	return r.open(v.Name(), !v.Volatile())
}

// settle waits until whoever works on the VM by itself, as after the death of its QEMU, is done; its new state shows earlier.
func (v *VM) settle() {
	v.op.Lock()
	defer v.op.Unlock()
}

// recover is a daemon's start for one VM.
func (v *VM) recover(t testing.TB, want Outcome) {
	t.Helper()
	got, _, err := v.Recover(testContext(t))
	if err != nil || got != want {
		t.Errorf("recovered as %q, %v; want %q (state %s: %s)", got, err, want, v.State(), v.Info().Reason)
	}
}

func (v *VM) expect(t testing.TB, want State) {
	t.Helper()
	if got := v.State(); got != want {
		t.Errorf("%s is %s (%s), want %s", v.Name(), got, v.Info().Reason, want)
	}
}

// expectRecord checks what NVRAM says of the VM.
func (v *VM) expectRecord(t testing.TB, status record.Status, generation uint64) {
	t.Helper()
	rec, err := v.area.Latest()
	if err != nil || rec.Status != status || rec.Generation != generation {
		t.Errorf("%s: record says %v in generation %d, %v; want %v in %d", v.Name(), rec.Status, rec.Generation, err, status, generation)
	}
}

// expectQEMU checks the run state of a VM's QEMU.
func (v *VM) expectQEMU(t testing.TB, want string) {
	t.Helper()
	p := v.Process()
	if p == nil {
		t.Errorf("%s has no QEMU", v.Name())
		return
	}
	if got, err := p.Status(testContext(t)); err != nil || got != want {
		t.Errorf("QEMU of %s is %q, %v; want %q", v.Name(), got, err, want)
	}
}

// outage saves all VMs and takes note, as the host does.
func (r *rig) outage(vms ...*VM) *saver.Result {
	r.t.Helper()
	check(r.t, r.env.Saver.Simulate(testContext(r.t), saver.Now()))
	result := r.noted()
	for _, v := range vms {
		v.note(result)
	}
	return result
}

func (r *rig) noted() *saver.Result {
	r.t.Helper()
	select {
	case result := <-r.env.Saver.Outages():
		return result
	case <-time.After(limit):
		r.t.Fatal("no outage was noted")
		return nil
	}
}

func (v *VM) note(result *saver.Result) {
	for _, part := range result.VMs {
		if part.Name == v.Name() {
			v.NoteSaved(part, result.ID)
		}
	}
}

// clear ends the outage, as the host does.
func (r *rig) clear(vms ...*VM) {
	r.t.Helper()
	check(r.t, r.env.Saver.Clear())
	for _, v := range vms {
		if v.Interrupted() {
			check(r.t, v.ResumeInPlace(testContext(r.t)))
		}
	}
}

// seen tells whether an event was published.
func (r *rig) seen(event string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Contains(r.events, event)
}
