package saver

import (
	"bytes"
	"context"
	"errors"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/qmp/qmptest"
	"github.com/nv-hypervisor/nv-hypervisor/vm/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testSlot is the size of a slot, and so of the dump buffer.
const testSlot = 64 << 10

// limit bounds whatever a test waits for; nothing that works comes near it.
const limit = 20 * time.Second

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

// eventually waits for what has no event to wait for.
func eventually(t testing.TB, what string, reached func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !reached(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// rig is a saver with the pool its VMs lie in.
type rig struct {
	t     testing.TB
	saver *Saver
	pool  *nvram.Pool
}

// newRig returns a saver in which nothing counts as hung, unless the test says so.
func newRig(t testing.TB, config Config) *rig {
	t.Helper()
	if config.Hung == 0 {
		config.Hung = limit
	}
	dir, err := os.MkdirTemp("/dev/shm", "nvh-saver-")
	check(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	check(t, nvram.Init(nvram.InitOptions{Path: dir + "/pool", Kind: nvram.KindShm, Size: 64 * nvram.MiB}))
	pool, err := nvram.Open(dir + "/pool")
	check(t, err)
	t.Cleanup(func() { check(t, pool.Close()) })
	s, err := New(config)
	check(t, err)
	t.Cleanup(s.Close)
	return &rig{t, s, pool}
}

// area makes the state region of a VM.
func (r *rig) area(name string) *record.Area {
	r.t.Helper()
	regions, err := r.pool.Alloc(nvram.Request{Name: name + ".state", Size: record.RegionSize(testSlot), Use: nvram.UseState})
	check(r.t, err)
	mapping, err := r.pool.Map(regions[0].Name)
	check(r.t, err)
	r.t.Cleanup(func() { mapping.Close() })
	return r.areaIn(name, mapping)
}

func (r *rig) areaIn(name string, mem nvram.Memory) *record.Area {
	r.t.Helper()
	check(r.t, record.Format(mem, record.Identity{Name: name, RAMSize: nvram.MiB, SlotSize: testSlot}))
	a, err := record.Open(mem)
	check(r.t, err)
	return a
}

// guest is a VM with a fake QEMU.
type guest struct {
	*qmptest.Machine
	rig    *rig
	target *Target
	area   *record.Area // nil: volatile
	marks  atomic.Int32
}

// attach makes a VM whose guest waits for Arm and Cont.
func (r *rig) attach(opt Options) *guest {
	r.t.Helper()
	g := &guest{Machine: qmptest.StartMachine(r.t, qmptest.WithoutOOB()), rig: r}
	g.SetStatus("prelaunch")
	opt.Socket, opt.Capacity = g.Path(), testSlot
	if !opt.Volatile {
		g.area = r.area(opt.Name)
	}
	var err error
	g.target, err = Connect(testContext(r.t), opt)
	check(r.t, err)
	check(r.t, r.saver.Attach(g.target))
	return g
}

// boot makes a VM whose guest runs.
func (r *rig) boot(opt Options) *guest {
	r.t.Helper()
	g := r.attach(opt)
	check(r.t, g.run())
	return g
}

// run arms the VM and lets its guest run, once QEMU has settled after a save.
func (g *guest) run() error {
	g.rig.t.Helper()
	eventually(g.rig.t, "QEMU has settled", func() bool { return g.Status() != "finish-migrate" })
	if err := g.rig.saver.Arm(g.target, nil); err != nil {
		return err
	}
	return g.rig.saver.Cont(g.target, g.mark, false)
}

// mark is what a cold boot or the end of an outage does to the record.
func (g *guest) mark() (*record.Commit, error) {
	g.marks.Add(1)
	if g.area == nil {
		return nil, nil
	}
	rec, err := g.area.Latest()
	if err != nil {
		return nil, err
	}
	if rec.Status == record.StatusSaved {
		_, err = g.area.MarkVoid(rec)
	} else {
		var ref record.LaunchRef
		if ref, err = g.area.WriteLaunch([]byte("launch")); err == nil {
			_, err = g.area.MarkRunning(ref)
		}
	}
	if err != nil {
		return nil, err
	}
	return g.area.Prepare(record.Arming{QEMUVersion: "fake", Disks: g.target.DiskIdentities()})
}

// save is an operator's save of all VMs.
func (r *rig) save() *Result {
	r.t.Helper()
	result, err := r.saver.Save(testContext(r.t), nil)
	check(r.t, err)
	return result
}

// outage waits for the result of an outage.
func (r *rig) outage() *Result {
	r.t.Helper()
	select {
	case result := <-r.saver.Outages():
		return result
	case <-time.After(limit):
		r.t.Fatal("no outage was noted")
		return nil
	}
}

// of finds a VM's part of a result.
func (g *guest) of(r *Result) VMResult {
	g.rig.t.Helper()
	for _, v := range r.VMs {
		if v.Name == g.target.Name() {
			return v
		}
	}
	g.rig.t.Fatalf("%s is not in the result %+v", g.target.Name(), r)
	return VMResult{}
}

// times finds the instants that a result was made of.
func (g *guest) times(r *Result) times {
	for _, raw := range r.raw {
		if raw.target == g.target {
			return raw.times
		}
	}
	return times{}
}

// expectSaved fails unless the record holds exactly what the machine dumped.
func (g *guest) expectSaved(r *Result) {
	g.rig.t.Helper()
	if v := g.of(r); !v.Committed || v.Err != nil || v.StateSize != len(g.Dumped()) {
		g.rig.t.Errorf("%s: committed %v, %d bytes, %v", v.Name, v.Committed, v.StateSize, v.Err)
	}
	rec, err := g.area.Latest()
	if err != nil || rec.Status != record.StatusSaved || rec.Outage != r.ID {
		g.rig.t.Errorf("%s: record says %v in %q, %v", g.target.Name(), rec.Status, rec.Outage, err)
	}
	if state, err := g.area.State(); err != nil || !bytes.Equal(state, g.Dumped()) {
		g.rig.t.Errorf("%s: %d bytes of state, %v", g.target.Name(), len(state), err)
	}
}

// expectUnsaved fails unless the save failed for this reason and left the record alone.
func (g *guest) expectUnsaved(r *Result, why string) {
	g.rig.t.Helper()
	v := g.of(r)
	if v.Committed || v.Err == nil || !bytes.Contains([]byte(v.Err.Error()), []byte(why)) {
		g.rig.t.Errorf("%s: committed %v, error %v; want %q", v.Name, v.Committed, v.Err, why)
	}
	if rec, err := g.area.Latest(); err != nil || rec.Status != record.StatusRunning {
		g.rig.t.Errorf("%s: record says %v, %v", v.Name, rec.Status, err)
	}
}

// pipe is a detector made of a pipe: an 'x' is an outage, a 'b' its end, a 't' a test, anything else nothing.
type pipe struct {
	t    testing.TB
	name string
	r, w int
}

func (r *rig) pipe(name string) *pipe {
	r.t.Helper()
	p := r.pipeUnwatched(name)
	check(r.t, r.saver.AddSource(p))
	return p
}

func (r *rig) pipeUnwatched(name string) *pipe {
	r.t.Helper()
	var fds [2]int
	check(r.t, unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK))
	p := &pipe{r.t, name, fds[0], fds[1]}
	r.t.Cleanup(func() { // before the saver's end, as a detector that is closed while it is watched
		unix.Close(p.r)
		unix.Close(p.w)
	})
	return p
}

func (p *pipe) FD() int      { return p.r }
func (p *pipe) Name() string { return p.name }

func (p *pipe) Decode(b []byte) (Event, int64) {
	switch {
	case bytes.IndexByte(b, 'x') >= 0:
		return Outage, 0
	case bytes.IndexByte(b, 'b') >= 0:
		return PowerBack, 0
	case bytes.IndexByte(b, 't') >= 0:
		return Test, Now()
	}
	return None, 0
}

func (p *pipe) say(text string) {
	p.t.Helper()
	if _, err := unix.Write(p.w, []byte(text)); err != nil {
		p.t.Fatal(err)
	}
}

// modes runs a test for both ways of handing QEMU the descriptor.
func modes(t *testing.T, test func(t *testing.T, fileURI bool)) {
	t.Run("fd", func(t *testing.T) { test(t, false) })
	t.Run("file", func(t *testing.T) { test(t, true) })
}

var errMedium = errors.New("the medium refuses")
