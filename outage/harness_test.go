package outage

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/qemu"
	"github.com/nv-hypervisor/nv-hypervisor/qemu/qemutest"
	"github.com/nv-hypervisor/nv-hypervisor/qmp/qmptest"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
	"github.com/nv-hypervisor/nv-hypervisor/vm/record"
	"github.com/nv-hypervisor/nv-hypervisor/vm/saver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// limit bounds whatever a test waits for; nothing that works comes near it.
const limit = 30 * time.Second

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}

func eventually(t testing.TB, what string, reached func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !reached(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// rig is a controller with the saver it follows, and the fleet of its host.
type rig struct {
	*Controller
	t     testing.TB
	dir   string
	saver *saver.Saver
	store *Store

	mu     sync.Mutex
	vms    []*vm.VM
	events []string
}

func newRig(t testing.TB) *rig {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "nvh-outage-")
	check(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	r := &rig{t: t, dir: dir}
	r.store, err = OpenStore(filepath.Join(dir, "timelines"))
	check(t, err)
	r.saver, err = saver.New(saver.Config{})
	check(t, err)
	r.Controller = New(r.saver, r.store, r, &Clock{BootID: "boot"}, slog.New(slog.DiscardHandler), 2)
	t.Cleanup(func() {
		r.saver.Close()
		r.Controller.Wait()
	})
	return r
}

// VM implements Fleet.
func (r *rig) VM(name string) *vm.VM {
	for _, v := range r.Ordered() {
		if v.Name() == name {
			return v
		}
	}
	return nil
}

// Ordered implements Fleet.
func (r *rig) Ordered() []*vm.VM {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.vms)
}

// Notify implements Fleet.
func (r *rig) Notify(event, _ string, data map[string]string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, event+" "+data["id"])
}

func (r *rig) seen(event string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Contains(r.events, event)
}

// guest is a volatile VM that the saver knows and the fleet does not, with a fake QEMU.
func (r *rig) guest(name string) (*qmptest.Machine, *saver.Target) {
	r.t.Helper()
	m := qmptest.StartMachine(r.t, qmptest.WithoutOOB())
	target, err := saver.Connect(testContext(r.t), saver.Options{Name: name, Volatile: true, Socket: m.Path()})
	check(r.t, err)
	check(r.t, r.saver.Attach(target))
	check(r.t, r.saver.Cont(target, func() (*record.Commit, error) { return nil, nil }, false))
	return m, target
}

// real makes running VMs on real QEMUs, part of the fleet.
func (r *rig) real(defs ...vm.Definition) {
	r.t.Helper()
	path := filepath.Join(r.dir, "pool")
	check(r.t, nvram.Init(nvram.InitOptions{Path: path, Kind: nvram.KindShm, Size: 128 * nvram.MiB}))
	pool, err := nvram.Open(path)
	check(r.t, err)
	r.t.Cleanup(func() { check(r.t, pool.Close()) })
	env := &vm.Env{
		Saver: r.saver, StateDir: filepath.Join(r.dir, "state"), RuntimeDir: filepath.Join(r.dir, "run"),
		QEMU: qemutest.Installed(r.t).Path, Log: slog.New(slog.DiscardHandler), Notify: r.Notify,
	}
	for _, def := range defs {
		def.StateSize, def.Guest = 2*nvram.MiB, qemu.Guest{Memory: 16 * nvram.MiB, Accel: "tcg"}
		var home vm.Pool
		if !def.Volatile {
			home = pool
		}
		v, err := vm.Create(testContext(r.t), env, home, def)
		check(r.t, err)
		r.t.Cleanup(func() {
			if p := v.Process(); p != nil {
				p.Kill()
			}
			v.Close()
		})
		check(r.t, v.Start(testContext(r.t), false))
		r.mu.Lock()
		r.vms = append(r.vms, v)
		r.mu.Unlock()
	}
}

// pipe is a detector: 'x' is an outage, 'b' says that power is back.
type pipe struct{ r, w *os.File }

func (r *rig) pipe() *pipe {
	r.t.Helper()
	p := &pipe{}
	var err error
	p.r, p.w, err = os.Pipe()
	check(r.t, err)
	check(r.t, r.saver.AddSource(p))
	r.t.Cleanup(func() {
		p.r.Close()
		p.w.Close()
	})
	return p
}

func (p *pipe) FD() int      { return int(p.r.Fd()) }
func (p *pipe) Name() string { return "plug" }

func (p *pipe) Decode(b []byte) (saver.Event, int64) {
	switch b[len(b)-1] {
	case 'x':
		return saver.Outage, 0
	case 'b':
		return saver.PowerBack, 0
	}
	return saver.None, 0
}
