package nvram

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nv-hypervisor/nv-hypervisor/nvram/nvdimm"
	"github.com/nv-hypervisor/nv-hypervisor/nvram/nvdimm/nvdimmtest"
)

// onDIMMs makes the file system of path lie, in the eyes of the machine it returns, on two interleaved modules.
func onDIMMs(t *testing.T, path string) *nvdimmtest.Machine {
	t.Helper()
	m, err := nvdimmtest.New(t.TempDir())
	must(t, errors.Join(err, m.DIMM("nmem0", ""), m.DIMM("nmem1", "smart_notify "),
		m.Region("region0", nvdimm.DomainMemoryController, "nmem0", "nmem1"), m.Carry(path, "region0", "pmem0", "dax=always"),
		m.SetDirtyShutdown("nmem0", 3), m.SetDirtyShutdown("nmem1", 4)))
	return m
}

// healthOf is the health of an open pool whose mapping properties are those of a real one.
func healthOf(t *testing.T, p *Pool, m *nvdimmtest.Machine) Health {
	t.Helper()
	h, err := p.Health(m.System())
	must(t, err)
	return h
}

func openPool(t *testing.T, c poolCase) *Pool {
	t.Helper()
	path := c.path(t)
	c.init(t, path, 16*MiB)
	p, err := Open(path)
	must(t, err)
	t.Cleanup(func() { must(t, p.Close()) })
	return p
}

func TestHealthOnInterleavedDIMMs(t *testing.T) {
	p := openPool(t, poolCase{kind: KindFile, layout: LayoutDirectory})
	m := onDIMMs(t, p.Info().Path)
	h := healthOf(t, p, m)
	if h.Domain != nvdimm.DomainMemoryController || h.DirtyShutdown != 7 || len(h.DIMMs) != 2 || len(h.Regions) != 1 ||
		!slices.Equal(h.Devices, []string{"pmem0"}) || h.FileSystem == nil || !h.FileSystem.Has("dax=always") {
		t.Errorf("%+v", h)
	}
	if err := h.Err(); err != nil || len(h.Problems) != 0 || h.Summary() != "" {
		t.Errorf("healthy modules, but: %v, %+v", err, h.Problems)
	}
	must(t, m.SetDirtyShutdown("nmem1", 5))
	if h := healthOf(t, p, m); h.DirtyShutdown != 8 {
		t.Errorf("after another dirty shutdown of one module the sum is %d", h.DirtyShutdown)
	}
	must(t, errors.Join(m.Remove("nmem0", "nfit/dirty_shutdown"), m.Remove("nmem1", "nfit/dirty_shutdown")))
	if h := healthOf(t, p, m); h.DirtyShutdown != 0 || h.DIMMs[0].DirtyShutdown != nil || h.Err() != nil {
		t.Errorf("modules that do not count: %+v", h)
	}
}

// One bad module of two makes the pool one that cannot be trusted, and the error says which and what to do.
func TestUnhealthyDIMM(t *testing.T) {
	for _, flag := range []string{"save_fail", "restore_fail", "flush_fail", "not_armed", "map_fail"} {
		t.Run(flag, func(t *testing.T) {
			p := openPool(t, poolCase{kind: KindFile, layout: LayoutSingle})
			m := onDIMMs(t, p.Info().Path)
			must(t, m.SetFlags("nmem1", flag+" smart_notify "))
			h := healthOf(t, p, m)
			err := h.Err()
			if !errors.Is(err, ErrUnhealthy) || !strings.Contains(err.Error(), "nmem1") || !strings.Contains(err.Error(), flag) {
				t.Errorf("%v", err)
			}
			if !strings.Contains(h.Summary(), "nmem1: "+flag) {
				t.Errorf("summary %q", h.Summary())
			}
		})
	}
}

// A pool of kind fsdax is NVRAM only where the file system maps the memory itself.
func TestFSDAXWithoutDAX(t *testing.T) {
	p := openPool(t, poolCase{kind: KindFSDAX, layout: LayoutDirectory})
	h := healthOf(t, p, onDIMMs(t, p.Info().Path))
	if err := h.Err(); h.DAX || !errors.Is(err, ErrUnhealthy) || !strings.Contains(err.Error(), "-o dax") {
		t.Errorf("DAX %v: %v", h.DAX, err)
	}
	if err := p.Trusted(); !errors.Is(err, ErrUnhealthy) {
		t.Errorf("trusted on this machine: %v", err)
	}
}

// Verdicts that take hardware this machine may not have.
func TestJudge(t *testing.T) {
	healthy := []nvdimm.DIMM{{Name: "nmem0", FlagsKnown: true}}
	region := []nvdimm.Region{{Name: "region0", Domain: nvdimm.DomainCPUCache}}
	for _, c := range []struct {
		name       string
		health     Health
		unhealthy  bool
		complaints int
	}{
		{"fsdax as it should be", Health{Kind: KindFSDAX, DAX: true, MapSync: true, DIMMs: healthy, Regions: region}, false, 0},
		{"fsdax without MAP_SYNC", Health{Kind: KindFSDAX, DAX: true, DIMMs: healthy, Regions: region}, true, 1},
		{"fsdax without DIMMs", Health{Kind: KindFSDAX, DAX: true, MapSync: true, Regions: region}, false, 1},
		{"devdax as it should be", Health{Kind: KindDevDAX, DAX: true, DIMMs: healthy, Regions: region}, false, 0},
		{"devdax that is no NVDIMM", Health{Kind: KindDevDAX, DAX: true}, false, 1},
		{"unknown domain", Health{Kind: KindDevDAX, DAX: true, DIMMs: healthy, Regions: []nvdimm.Region{{Name: "region0", Domain: nvdimm.DomainNone}}}, false, 1},
		{"shm", Health{Kind: KindShm}, false, 0},
	} {
		c.health.judge()
		if got := c.health.Err() != nil; got != c.unhealthy || len(c.health.Problems) != c.complaints {
			t.Errorf("%s: unhealthy %v, problems %+v", c.name, got, c.health.Problems)
		}
		for _, p := range c.health.Problems {
			if p.Where == "" && c.health.Path != "" || p.What == "" || p.Remedy == "" {
				t.Errorf("%s: an incomplete problem: %+v", c.name, p)
			}
		}
	}
}

// A pool in tmpfs has no DIMMs and says so.
func TestHealthOfShm(t *testing.T) {
	p := openPool(t, poolCase{kind: KindShm, layout: LayoutDirectory})
	h, err := p.Health(nvdimm.Host)
	must(t, err)
	if len(h.DIMMs) != 0 || len(h.Regions) != 0 || len(h.Devices) != 0 || h.Domain != nvdimm.DomainNone || h.DAX || h.FileSystem.Type != "tmpfs" {
		t.Errorf("%+v", h)
	}
	if err := p.Trusted(); err != nil {
		t.Errorf("a pool that promises nothing cannot be distrusted: %v", err)
	}
	if n, err := p.DirtyShutdowns(); n != 0 || err != nil {
		t.Errorf("dirty shutdowns: %d, %v", n, err)
	}
}

// HealthOf answers beside a daemon, and before there is a pool.
func TestHealthOf(t *testing.T) {
	p := openPool(t, poolCase{kind: KindShm, layout: LayoutDirectory})
	if _, err := p.Alloc(Request{Name: "vm.ram", Size: 4 * MiB, Use: UseRAM}); err != nil {
		t.Fatal(err)
	}
	h, err := HealthOf(p.Info().Path, nvdimm.Host)
	must(t, err)
	if h.Kind != KindShm || h.Pages == nil || h.Pages.Sampled != 2 {
		t.Errorf("%+v", h)
	}
	dir := t.TempDir()
	if h, err = HealthOf(dir, onDIMMs(t, dir).System()); err != nil || h.Kind != "" || h.Pages != nil || len(h.DIMMs) != 2 || !h.DAX {
		t.Errorf("a directory without a pool: %+v, %v", h, err)
	}
	if _, err := HealthOf(filepath.Join(dir, "missing"), nvdimm.Host); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nothing there: %v", err)
	}
}

// A kernel that cannot be asked is an error, not health.
func TestHealthUnreadable(t *testing.T) {
	p := openPool(t, poolCase{kind: KindFile, layout: LayoutDirectory})
	m := onDIMMs(t, p.Info().Path)
	must(t, m.Set("region0", "mapping0", "rubbish\n"))
	if _, err := p.Health(m.System()); err == nil || !strings.Contains(err.Error(), "rubbish") {
		t.Errorf("%v", err)
	}
}

func TestMeasurePages(t *testing.T) {
	p := openPool(t, poolCase{kind: KindFile, layout: LayoutSingle})
	sample, err := p.MeasurePages()
	must(t, err)
	if *sample != (PageSample{Unit: 2 * MiB}) {
		t.Errorf("nothing allocated, but %+v", sample)
	}
	if _, err := p.Alloc(Request{Name: "a", Size: 4 * MiB, Use: UseRAM}, Request{Name: "b", Size: 2 * MiB, Use: UseState}); err != nil {
		t.Fatal(err)
	}
	if sample, err = p.MeasurePages(); err != nil || sample.Sampled != 3 {
		t.Errorf("%+v, %v", sample, err)
	}
}

// Small pages are not taken for huge ones. That huge ones are is seen on real DAX only, in the lab.
func TestMapsHuge(t *testing.T) {
	small, err := os.Create(filepath.Join(shmDir(t), "small"))
	must(t, err)
	defer small.Close()
	must(t, small.Truncate(int64(2*MiB)))
	page := make([]byte, 4*KiB)
	for at := Bytes(0); at < 2*MiB; at += 4 * KiB { // page by page, so that tmpfs has no reason for a huge one
		if _, err := small.WriteAt(page, int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	if huge, err := mapsHuge(small, 0, 2*MiB); err != nil || huge {
		t.Errorf("512 pages of tmpfs: huge %v, %v", huge, err)
	}
	if _, err := mapsHuge(small, 2*MiB, 2*MiB); err == nil {
		t.Error("beyond the end of the file: no error")
	}
}
