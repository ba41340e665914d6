package host

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/nvram/nvdimm"
	"github.com/nv-hypervisor/nv-hypervisor/nvram/nvdimm/nvdimmtest"
	"github.com/nv-hypervisor/nv-hypervisor/qemu"
)

// expect fails unless a check came out so, with these words in what it says, and with a remedy if it is not ok.
func expect(t *testing.T, c Check, status string, words ...string) {
	t.Helper()
	if c.Status != status || (c.Remedy == "") != (status == statusOK) {
		t.Errorf("%+v: want %s", c, status)
	}
	for _, w := range words {
		if !strings.Contains(c.Detail+" "+c.Remedy, w) {
			t.Errorf("%+v: does not say %q", c, w)
		}
	}
}

// Disks: the guest must not lose a write it was told is done, and the flush in a save must be short.
func TestCheckDisk(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "disk.img")
	must(t, os.WriteFile(image, nil, 0o600))
	m, err := nvdimmtest.New(t.TempDir())
	must(t, err)
	must(t, m.Carry(dir, "../../pci", "sda"))
	const writeCache = "pfn0.1/block/sda/queue/write_cache"
	for _, c := range []struct {
		name   string
		cached string // what the kernel says of the disk's own cache
		disk   qemu.Disk
		status string
		words  []string
	}{
		{"volatile cache", "write back", qemu.Disk{Path: image}, statusWarn, []string{"cache none on sda", "directsync", "power-loss"}},
		{"volatile cache, directsync", "write back", qemu.Disk{Path: image, Cache: "directsync"}, statusOK, []string{"flushed at every write"}},
		{"power-loss protection", "write through", qemu.Disk{Path: image}, statusOK, []string{"without a volatile"}},
		{"unknown cache", "", qemu.Disk{Path: image}, statusWarn, []string{"sda"}},
		{"forced", "write through", qemu.Disk{Path: image, Cache: "writeback", Force: true}, statusWarn, []string{`"writeback"`, "may miss writes"}},
		{"read-only", "write back", qemu.Disk{Path: image, ReadOnly: true}, statusOK, nil},
		{"missing", "write back", qemu.Disk{Path: image + ".gone"}, statusFail, []string{"Restore the image"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			must(t, m.Set("../../pci", writeCache, c.cached+"\n"))
			expect(t, checkDisk(string(m.System()), "disk", c.disk), c.status, c.words...)
		})
	}
	inMemory, err := os.CreateTemp("/dev/shm", "nvh-doctor-")
	must(t, err)
	defer os.Remove(inMemory.Name())
	must(t, inMemory.Close())
	expect(t, checkDisk("/", "disk", qemu.Disk{Path: inMemory.Name()}), statusFail, "tmpfs")
}

func TestCheckDomain(t *testing.T) {
	h := &Host{}
	health := nvram.Health{Domain: nvdimm.DomainCPUCache}
	expect(t, h.checkDomain("d", health), statusOK, "cpu_cache")
	for _, health.Domain = range []nvdimm.Domain{nvdimm.DomainMemoryController, nvdimm.DomainNone} {
		expect(t, h.checkDomain("d", health), statusFail, string(health.Domain), "nvh_pod", "no guest may run")
	}
	h.config.SlowFlush = true
	expect(t, h.checkDomain("d", health), statusWarn, "line by line")
}

func TestCheckMapping(t *testing.T) {
	for _, c := range []struct {
		kind         nvram.Kind
		dax, mapSync bool
		status       string
	}{
		{nvram.KindDevDAX, true, false, statusOK},
		{nvram.KindFSDAX, true, true, statusOK},
		{nvram.KindFSDAX, true, false, statusFail},
		{nvram.KindFSDAX, false, false, statusFail},
	} {
		expect(t, checkMapping("m", nvram.PoolInfo{Kind: c.kind}, nvram.Health{DAX: c.dax, MapSync: c.mapSync}), c.status)
	}
}

// On a healthy site every gate is passed or says what it costs; what is wrong with the site's own choices is found.
func TestDoctor(t *testing.T) {
	s := newSite(t)
	s.boot()
	s.run("patient")
	checks, err := s.Doctor(s.ctx)
	must(t, err)
	for _, c := range checks {
		if (c.Remedy == "") != (c.Status == statusOK) || c.Detail == "" {
			t.Errorf("%+v: a check that is not ok has a remedy, every one a detail", c)
		}
	}
	expect(t, s.doctor("pool nv"), statusWarn, "shm", "not persistent across a host boot")
	expect(t, s.doctor("pool nv: memory"), statusOK, "nmem0, nmem1, 7 dirty shutdowns")
	expect(t, s.doctor("vm patient"), statusOK, "running")
	expect(t, s.doctor("realtime"), statusWarn, "switched off")
	expect(t, s.doctor("socket"), statusFail, "no such file") // nobody serves it here
	if c := s.doctor("state_dir"); c.Status == statusFail {
		t.Errorf("%+v", c)
	}
	if !slices.ContainsFunc(checks, func(c Check) bool { return c.Name == "clock" }) {
		t.Error("nothing is said of the clock")
	}
	must(t, s.modules.Remove("nmem0", "nfit/flags"))
	expect(t, s.doctor("pool nv: memory"), statusWarn, "does not tell whether the module is healthy", "vendor")
	s.config.QEMUUser = "no such user"
	s.Host.config.QEMUUser = s.config.QEMUUser
	expect(t, s.doctor("qemu_user"), statusFail, "useradd")
}
