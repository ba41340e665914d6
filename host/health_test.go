package host

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/nvram/nvdimm"
	"github.com/nv-hypervisor/nv-hypervisor/nvram/nvdimm/nvdimmtest"
	"github.com/nv-hypervisor/nv-hypervisor/qemu"
	"github.com/nv-hypervisor/nv-hypervisor/qemu/qemutest"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

// site is a machine with one pool on two interleaved modules, whose health the test decides, and on it, after boot, a
// host. QEMU is real; its guest has no disk and never gets beyond its firmware.
type site struct {
	*Host
	t       *testing.T
	ctx     context.Context
	config  Config
	modules *nvdimmtest.Machine
}

func newSite(t *testing.T) *site {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	dir, err := os.MkdirTemp("/tmp", "nvh-host-")
	must(t, err)
	pool, err := os.MkdirTemp("/dev/shm", "nvh-host-")
	must(t, err)
	t.Cleanup(func() { must(t, errors.Join(os.RemoveAll(dir), os.RemoveAll(pool))) })
	must(t, nvram.Init(nvram.InitOptions{Path: pool, Kind: nvram.KindShm, Size: 512 * nvram.MiB}))
	modules, err := nvdimmtest.New(t.TempDir())
	must(t, errors.Join(err, modules.DIMM("nmem0", ""), modules.DIMM("nmem1", "smart_notify "),
		modules.Region("region0", nvdimm.DomainCPUCache, "nmem0", "nmem1"), modules.Carry(pool, "region0", "pmem0", "dax=always"),
		modules.SetDirtyShutdown("nmem0", 3), modules.SetDirtyShutdown("nmem1", 4)))
	config := defaults()
	config.StateDir, config.RuntimeDir, config.Realtime = filepath.Join(dir, "state"), filepath.Join(dir, "run"), false
	config.QEMU, config.system = qemutest.Installed(t).Path, modules.System()
	config.Pools = []PoolConfig{{Name: "nv", Path: pool}}
	must(t, config.complete())
	s := &site{t: t, ctx: ctx, config: config, modules: modules}
	t.Cleanup(s.cut)
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// boot starts a host and lets it recover its VMs.
func (s *site) boot() {
	s.t.Helper()
	h, err := Open(s.config, "test", slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})))
	must(s.t, err)
	s.Host = h
	_, err = h.Recover(s.ctx, 0)
	must(s.t, err)
}

// cut ends the host and every QEMU at once.
func (s *site) cut() {
	s.t.Helper()
	if s.Host == nil {
		return
	}
	infos, err := s.List(s.ctx)
	must(s.t, errors.Join(err, s.Close()))
	s.Host = nil
	for _, i := range infos {
		if i.PID != 0 {
			unix.Kill(i.PID, unix.SIGKILL)
			reap(i.PID)
		}
	}
}

// reap waits for a QEMU to be gone: it is a child of this process, where that of a killed daemon would be init's.
func reap(pid int) {
	for {
		if _, err := unix.Wait4(pid, nil, 0, nil); !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

func definition(name string) vm.Definition {
	return vm.Definition{Name: name, OnLost: vm.OnLostBoot, Guest: qemu.Guest{Memory: 64 * nvram.MiB}}
}

// run makes a VM and starts it.
func (s *site) run(name string) {
	s.t.Helper()
	_, err := s.Create(s.ctx, definition(name))
	must(s.t, err)
	_, err = s.Start(s.ctx, name, StartOptions{})
	must(s.t, err)
}

// save saves all VMs as an outage does.
func (s *site) save() {
	s.t.Helper()
	_, err := s.Simulate(s.ctx)
	must(s.t, err)
}

func (s *site) info(name string) vm.Info {
	s.t.Helper()
	i, err := s.Info(s.ctx, name)
	must(s.t, err)
	return i
}

func (s *site) doctor(name string) Check {
	s.t.Helper()
	checks, err := s.Doctor(s.ctx)
	must(s.t, err)
	i := slices.IndexFunc(checks, func(c Check) bool { return c.Name == name })
	if i < 0 {
		s.t.Fatalf("no check %q in %+v", name, checks)
	}
	return checks[i]
}

// A pool on a module that has lost data, or will, is not trusted: its images are held and keep, new VMs are refused,
// and everybody is told. When the module is in order again the guests continue.
func TestUnhealthyModuleHoldsImages(t *testing.T) {
	s := newSite(t)
	s.boot()
	s.run("saved")
	s.save()
	s.cut()
	for _, flag := range []string{"save_fail", "restore_fail", "flush_fail", "not_armed"} {
		must(t, s.modules.SetFlags("nmem1", flag+" "))
		s.boot()
		i := s.info("saved")
		if i.State != vm.Held || !strings.Contains(i.Reason, "nmem1: "+flag) || i.Image == nil || i.Image.Valid || i.PID != 0 {
			t.Errorf("%s: state %s, reason %q, image %+v, pid %d", flag, i.State, i.Reason, i.Image, i.PID)
		}
		s.refuses(flag)
		s.tells(flag)
		s.cut()
	}
	must(t, s.modules.SetFlags("nmem1", "smart_notify "))
	s.boot()
	if i := s.info("saved"); i.State != vm.Running || i.Generation != 2 {
		t.Errorf("the module is in order again, but: state %s, reason %q, generation %d", i.State, i.Reason, i.Generation)
	}
}

// refuses fails unless no verb brings a guest into the pool.
func (s *site) refuses(flag string) {
	s.t.Helper()
	_, created := s.Create(s.ctx, definition("another"))
	_, restored := s.Restore(s.ctx, "saved")
	_, discarded := s.Start(s.ctx, "saved", StartOptions{DiscardImage: true})
	for verb, err := range map[string]error{"create": created, "restore": restored, "start --discard-image": discarded} {
		if !errors.Is(err, nvram.ErrUnhealthy) || !strings.Contains(err.Error(), flag) || !strings.Contains(vm.Remedy(err), "trust_unhealthy") {
			s.t.Errorf("%s with %s: %v; remedy %q", verb, flag, err, vm.Remedy(err))
		}
	}
	if _, err := s.Start(s.ctx, "saved", StartOptions{}); !errors.Is(err, vm.ErrRefused) {
		s.t.Errorf("start with %s: %v", flag, err)
	}
	if i := s.info("saved"); i.State != vm.Held || i.Image == nil {
		s.t.Errorf("after what was refused: state %s, image %+v", i.State, i.Image)
	}
}

// tells fails unless status, doctor and the pool's health name the flag.
func (s *site) tells(flag string) {
	s.t.Helper()
	status, err := s.Status(s.ctx)
	must(s.t, err)
	if p := status.Pools[0]; p.Trusted || !strings.Contains(p.Warning, flag) {
		s.t.Errorf("status: %+v", p)
	}
	if c := s.doctor("pool nv: memory"); c.Status != statusFail || !strings.Contains(c.Detail, flag) || c.Remedy == "" {
		s.t.Errorf("doctor: %+v", c)
	}
	health, err := s.PoolHealth(s.ctx, "")
	must(s.t, err)
	if health.Trusted || health.Forced || !errors.Is(health.Err(), nvram.ErrUnhealthy) {
		s.t.Errorf("health: %+v", health)
	}
}

// A VM that was lost without an image is not booted into such memory either, whatever its on_lost says.
func TestUnhealthyModuleBootsNothing(t *testing.T) {
	s := newSite(t)
	s.boot()
	s.run("lost")
	s.cut()
	must(t, s.modules.SetFlags("nmem0", "not_armed "))
	s.boot()
	if i := s.info("lost"); i.State != vm.Held || !strings.Contains(i.Reason, "not_armed") || i.PID != 0 {
		t.Errorf("state %s, reason %q", i.State, i.Reason)
	}
}

// The operator may take the risk.
func TestTrustUnhealthy(t *testing.T) {
	s := newSite(t)
	s.boot()
	s.run("bold")
	s.save()
	s.cut()
	must(t, s.modules.SetFlags("nmem0", "not_armed "))
	s.config.Pools[0].TrustUnhealthy = true
	s.boot()
	if i := s.info("bold"); i.State != vm.Running || i.Generation != 2 {
		t.Errorf("state %s, reason %q", i.State, i.Reason)
	}
	s.run("another")
	status, err := s.Status(s.ctx)
	must(t, err)
	if p := status.Pools[0]; !p.Trusted || !strings.Contains(p.Warning, "trust_unhealthy") || !strings.Contains(p.Warning, "not_armed") {
		t.Errorf("status: %+v", p)
	}
	if health, err := s.PoolHealth(s.ctx, "nv"); err != nil || !health.Trusted || !health.Forced {
		t.Errorf("health: %+v, %v", health, err)
	}
}

// A module that counts one dirty shutdown more has lost data since the save: the image is never resumed, not even
// by an operator who trusts unhealthy memory. It is kept aside, and the VM goes by its on_lost.
func TestDirtyShutdownRefusesImage(t *testing.T) {
	s := newSite(t)
	s.boot()
	s.run("dirty")
	s.save()
	s.cut()
	must(t, s.modules.SetDirtyShutdown("nmem1", 5))
	s.config.Pools[0].TrustUnhealthy = true
	s.boot()
	i := s.info("dirty")
	if i.State != vm.Running || !strings.Contains(i.Reason, "counts 8 dirty shutdowns, but counted 7") || len(i.Kept) != 2 {
		t.Errorf("state %s, reason %q, kept %v", i.State, i.Reason, i.Kept)
	}
	// The next save is held against the new count.
	s.save()
	s.cut()
	s.boot()
	if i := s.info("dirty"); i.State != vm.Running || i.Generation != 2 {
		t.Errorf("after the next save: state %s, reason %q, generation %d", i.State, i.Reason, i.Generation)
	}
}

// A guest that runs when its module turns bad is not taken down: its operator is told.
func TestModuleFailsWhileGuestRuns(t *testing.T) {
	s := newSite(t)
	s.boot()
	s.run("steady")
	must(t, s.modules.SetFlags("nmem0", "not_armed "))
	must(t, s.Close())
	s.boot()
	i := s.info("steady")
	if i.State != vm.Running || i.Generation != 1 || len(i.Warnings) == 0 || !strings.Contains(strings.Join(i.Warnings, ""), "not_armed") {
		t.Errorf("state %s, reason %q, generation %d, warnings %q", i.State, i.Reason, i.Generation, i.Warnings)
	}
	if c := s.doctor("vm steady"); c.Status != statusWarn {
		t.Errorf("doctor: %+v", c)
	}
}
