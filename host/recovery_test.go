package host

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
	"github.com/nv-hypervisor/nv-hypervisor/vm/saver"
)

// open starts a host that has not recovered its VMs yet.
func (s *site) open() {
	s.t.Helper()
	h, err := Open(s.config, "test", slog.New(slog.DiscardHandler))
	must(s.t, err)
	s.Host = h
}

func (s *site) expect(name string, state vm.State, generation uint64) {
	s.t.Helper()
	if i := s.info(name); i.State != state || i.Generation != generation {
		s.t.Errorf("%s is %s in generation %d (%s), want %s in %d", name, i.State, i.Generation, i.Reason, state, generation)
	}
}

func (s *site) timelines() string { return filepath.Join(s.config.StateDir, "timelines") }

// A timeline that did not reach the disk before darkness is rebuilt from the save
// records, once, with what they know.
func TestTimelineFromRecords(t *testing.T) {
	s := newSite(t)
	s.boot()
	s.run("db")
	s.run("web")
	saved, err := s.Simulate(s.ctx)
	must(t, err)
	must(t, os.RemoveAll(s.timelines()))
	s.cut()
	s.open()
	_, err = s.Recover(s.ctx, saver.Now())
	must(t, err)
	got, err := s.Outage(s.ctx, saved.ID)
	must(t, err)
	if got.Kind != "outage" || got.Outcome != "saved" || !strings.Contains(got.Source, "save records") || got.EventNS != saved.EventNS ||
		got.BootID != saved.BootID || len(got.VMs) != 2 || got.Event.Sub(saved.Event).Abs() > time.Second {
		t.Errorf("rebuilt %+v of %+v", got, saved)
	}
	for i, v := range got.VMs {
		was := saved.VMs[i]
		if v.Name != was.Name || v.Outcome != "committed" || v.StateSize != was.StateSize || len(v.Steps) != 5 {
			t.Errorf("rebuilt %+v of %+v", v, was)
		}
		for j, step := range v.Steps[1:] { // without wake, which is the host's, and commit, which comes last
			if d := step.Start - was.Steps[j].Start; step.Name != was.Steps[j].Name || d > 1 || d < -1 {
				t.Errorf("step %+v of %+v", step, was.Steps[j])
			}
		}
	}
	list, err := s.Outages(s.ctx)
	must(t, err)
	if len(list) != 2 || list[0].Kind != "recovery" || list[0].Outcome != "recovered" || len(list[0].VMs) != 2 {
		t.Errorf("timelines %+v", list)
	}
	for _, v := range list[0].VMs {
		if v.Outcome != "resumed" || len(v.Steps) != 5 {
			t.Errorf("recovered %+v", v)
		}
	}
	s.expect("db", vm.Running, 2)
}

// Saves by hand are no outages in what is rebuilt.
func TestSaveFromRecords(t *testing.T) {
	s := newSite(t)
	s.boot()
	s.run("db")
	saved, err := s.Save(s.ctx, "db")
	must(t, err)
	must(t, os.RemoveAll(s.timelines()))
	s.cut()
	s.boot()
	if got, err := s.Outage(s.ctx, saved.ID); err != nil || got.Kind != "save" {
		t.Errorf("rebuilt %+v, %v", got, err)
	}
	s.expect("db", vm.Saved, 1)
}

// Verbs that come before a VM's turn in the recovery find it busy; the image is safe.
func TestVerbsDuringRecovery(t *testing.T) {
	s := newSite(t)
	s.boot()
	s.run("db")
	s.save()
	s.cut()
	s.open()
	_, started := s.Start(s.ctx, "db", StartOptions{DiscardImage: true})
	for verb, err := range map[string]error{"start": started, "rm": s.Remove(s.ctx, "db", true)} {
		if !errors.Is(err, vm.ErrBusy) {
			t.Errorf("%s: %v", verb, err)
		}
	}
	if st, err := s.Status(s.ctx); err != nil || !st.Recovering {
		t.Errorf("status %+v, %v", st, err)
	}
	_, err := s.Recover(s.ctx, 0)
	must(t, err)
	s.expect("db", vm.Running, 2)
	if st, err := s.Status(s.ctx); err != nil || st.Recovering || st.VMs["running"] != 1 {
		t.Errorf("status %+v, %v", st, err)
	}
}

// An outage before, and so during, the recovery: nothing is resumed, nothing lost,
// and the end of the outage does what the recovery could not.
func TestOutageDuringRecovery(t *testing.T) {
	s := newSite(t)
	s.boot()
	s.run("db")
	s.run("web")
	s.save()
	s.cut()
	s.open()
	s.save() // again, before anybody runs
	_, err := s.Recover(s.ctx, 0)
	must(t, err)
	for _, name := range []string{"db", "web"} {
		s.expect(name, vm.Saved, 1)
	}
	if _, err := s.Start(s.ctx, "db", StartOptions{}); !errors.Is(err, vm.ErrState) || vm.Remedy(err) == "" {
		t.Errorf("start in the outage: %v", err)
	}
	_, err = s.Clear(s.ctx)
	must(t, err)
	for _, name := range []string{"db", "web"} {
		s.expect(name, vm.Running, 2)
	}
}

// A VM whose folder is damaged costs the others nothing, is listed with its fault,
// and continues when the folder is repaired.
func TestBrokenVM(t *testing.T) {
	s := newSite(t)
	s.boot()
	s.run("bad")
	s.run("good")
	s.save()
	s.cut()
	path := filepath.Join(s.config.StateDir, "vms", "bad", "vm.json")
	content, err := os.ReadFile(path)
	must(t, err)
	must(t, os.WriteFile(path, content[:10], 0o600))
	s.boot()
	s.expect("good", vm.Running, 2)
	_, err = s.Info(s.ctx, "bad")
	if !errors.Is(err, vm.ErrState) || vm.Remedy(err) == "" {
		t.Errorf("info: %v", err)
	}
	list, err := s.List(s.ctx)
	must(t, err)
	if len(list) != 2 || list[1].Name != "bad" || list[1].State != vm.Failed || !strings.Contains(list[1].Reason, "vm.json") {
		t.Errorf("list %+v", list)
	}
	if _, err := s.Create(s.ctx, definition("bad")); !errors.Is(err, vm.ErrExists) {
		t.Errorf("create: %v", err)
	}
	s.cut()
	must(t, os.WriteFile(path, content, 0o600))
	s.boot()
	s.expect("bad", vm.Running, 2)
}

// A pool that is not there costs its own VMs only.
func TestPoolIsGone(t *testing.T) {
	s := newSite(t)
	s.boot()
	s.run("db")
	def := definition("scratch")
	def.Volatile = true
	_, err := s.Create(s.ctx, def)
	must(t, err)
	_, err = s.Start(s.ctx, "scratch", StartOptions{})
	must(t, err)
	s.save()
	s.cut()
	pool := s.config.Pools[0].Path
	must(t, os.Rename(pool, pool+".away"))
	s.boot()
	s.expect("scratch", vm.Running, 0)
	if _, err := s.Info(s.ctx, "db"); !errors.Is(err, vm.ErrState) {
		t.Errorf("info: %v", err)
	}
	if c := s.doctor("pool nv"); c.Status != statusFail || c.Remedy == "" {
		t.Errorf("doctor: %+v", c)
	}
	if st, err := s.Status(s.ctx); err != nil || len(st.Warnings) == 0 || st.VMs["failed"] != 1 {
		t.Errorf("status %+v, %v", st, err)
	}
	s.cut()
	must(t, os.Rename(pool+".away", pool))
	s.boot()
	s.expect("db", vm.Running, 2)
}

// One state directory, one daemon.
func TestTwoDaemons(t *testing.T) {
	s := newSite(t)
	s.boot()
	_, err := Open(s.config, "test", slog.New(slog.DiscardHandler))
	if !errors.Is(err, unix.EWOULDBLOCK) || vm.Remedy(err) == "" {
		t.Errorf("second daemon: %v", err)
	}
	s.run("db") // the first is as it was
}

// All persistent VMs are suspended, the others go on; the next recovery resumes them.
func TestSuspendAll(t *testing.T) {
	s := newSite(t)
	s.boot()
	s.run("db")
	s.run("web")
	_, err := s.Pause(s.ctx, "web")
	must(t, err)
	def := definition("scratch")
	def.Volatile = true
	_, err = s.Create(s.ctx, def)
	must(t, err)
	_, err = s.Start(s.ctx, "scratch", StartOptions{})
	must(t, err)
	got, err := s.SuspendAll(s.ctx)
	must(t, err)
	if got.Kind != "suspend" || got.Outcome != "saved" || len(got.VMs) != 2 {
		t.Errorf("timeline %+v", got)
	}
	s.expect("db", vm.Saved, 1)
	s.expect("web", vm.Saved, 1)
	s.expect("scratch", vm.Running, 0)
	s.cut()
	s.boot()
	s.expect("db", vm.Running, 2)
	s.expect("web", vm.Paused, 2)
}

// A pool that came from elsewhere: its VMs are taken over, whoever asks at the same
// time, but for those whose name another VM has.
func TestImportPool(t *testing.T) {
	s := newSite(t)
	s.boot()
	s.run("db")
	s.run("web")
	s.save()
	s.cut()
	moved := s.config.Pools[0].Path
	other := newSite(t) // has a pool and a VM "web" of its own
	other.boot()
	other.run("web")
	for _, name := range []string{"nv", "a/b"} {
		if _, err := other.ImportPool(other.ctx, moved, name); !errors.Is(err, vm.ErrExists) && !errors.Is(err, vm.ErrInvalid) {
			t.Errorf("import as %q: %v", name, err)
		}
	}
	if _, err := other.ImportPool(other.ctx, moved+"/none", "x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("import of nothing: %v", err)
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	taken := 0
	for range 4 {
		all.Go(func() {
			list, err := other.ImportPool(other.ctx, moved+"/", "moved")
			mu.Lock()
			defer mu.Unlock()
			taken += len(list)
			if err != nil && !errors.Is(err, vm.ErrExists) && !errors.Is(err, nvram.ErrLocked) {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if taken != 1 {
		t.Errorf("%d VMs were taken over", taken)
	}
	_, err := other.ImportPool(other.ctx, moved, "moved")
	if !errors.Is(err, vm.ErrExists) || !strings.Contains(err.Error(), "web") {
		t.Errorf("a VM of the same name: %v", err)
	}
	other.expect("web", vm.Running, 1)
	other.expect("db", vm.Saved, 1)
	_, err = other.Start(other.ctx, "db", StartOptions{})
	must(t, err)
	other.expect("db", vm.Running, 2)
	other.save()
	other.cut()
	// Configured under its name the pool is the same; under another its VMs miss it.
	for name, found := range map[string]bool{"moved": true, "renamed": false} {
		config := other.config
		other.config.Pools = append(other.config.Pools[:1:1], PoolConfig{Name: name, Path: moved})
		other.open()
		if _, err := other.Info(other.ctx, "db"); (err == nil) != found {
			t.Errorf("configured as %s: %v", name, err)
		}
		must(t, other.Close())
		other.Host = nil
		other.config = config
	}
	other.boot()
	other.expect("db", vm.Running, 3)
}
