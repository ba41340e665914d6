package nvdimm_test

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/nvram/nvdimm"
	"github.com/nv-hypervisor/nv-hypervisor/nvram/nvdimm/nvdimmtest"
)

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// machine has two interleaved modules and a third one alone; dir lies on the first two.
func machine(t testing.TB) (m *nvdimmtest.Machine, dir string) {
	t.Helper()
	dir = t.TempDir()
	m, err := nvdimmtest.New(t.TempDir())
	must(t, err,
		m.DIMM("nmem0", ""), m.DIMM("nmem1", "smart_notify "), m.DIMM("nmem2", ""),
		m.Region("region0", nvdimm.DomainMemoryController, "nmem0", "nmem1"),
		m.Region("region1", nvdimm.DomainCPUCache, "nmem2"),
		m.Carry(dir, "region0", "pmem0", "dax=always"),
		m.SetDirtyShutdown("nmem0", 3), m.SetDirtyShutdown("nmem1", 4))
	return m, dir
}

func stat(t *testing.T, path string) *unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Stat(path, &st))
	return &st
}

func TestDIMMs(t *testing.T) {
	m, _ := machine(t)
	list, err := m.System().DIMMs()
	must(t, err)
	three, four := uint64(3), uint64(4)
	want := []nvdimm.DIMM{
		{Name: "nmem0", ID: "8680-56341200-nmem0", Handle: "0x1", Serial: "0x56341200", State: "active",
			Flags: []nvdimm.Flag{}, FlagsKnown: true, DirtyShutdown: &three},
		{Name: "nmem1", ID: "8680-56341200-nmem1", Handle: "0x1", Serial: "0x56341200", State: "active",
			Flags: []nvdimm.Flag{nvdimm.FlagHealthNotified}, FlagsKnown: true, DirtyShutdown: &four},
		{Name: "nmem2", ID: "8680-56341200-nmem2", Handle: "0x1", Serial: "0x56341200", State: "active",
			Flags: []nvdimm.Flag{}, FlagsKnown: true},
	}
	if diff := cmp.Diff(want, list); diff != "" {
		t.Error(diff)
	}
	for _, d := range list {
		if p := d.Problems(); len(p) != 0 {
			t.Errorf("%s is healthy, but: %+v", d.Name, p)
		}
	}
}

// A machine without the NVDIMM driver has no DIMM, which is no error; one by name is.
func TestNoDIMMs(t *testing.T) {
	none := nvdimm.System(t.TempDir())
	if list, err := none.DIMMs(); err != nil || len(list) != 0 {
		t.Errorf("DIMMs of an empty machine: %v, %v", list, err)
	}
	for _, name := range []string{"nmem0", "../nmem0", "nmem", "", "region0"} {
		if _, err := none.DIMM(name); !errors.Is(err, nvdimm.ErrNoDIMM) {
			t.Errorf("DIMM %q: %v", name, err)
		}
	}
}

// Every flag that means loss, or loss to come, is fatal; the others are not.
func TestFlags(t *testing.T) {
	m, _ := machine(t)
	for text, fatal := range map[string]bool{
		"save_fail ": true, "restore_fail ": true, "flush_fail ": true, "not_armed ": true, "map_fail ": true,
		"locked": true, "scrub": true, "smart_event ": false, "smart_notify ": false, "brand_new ": false, "": false,
		"save_fail restore_fail flush_fail not_armed smart_event map_fail smart_notify ": true,
	} {
		must(t, m.SetFlags("nmem0", text))
		d, err := m.System().DIMM("nmem0")
		must(t, err)
		problems := d.Problems()
		if got := slices.ContainsFunc(problems, func(p nvdimm.Problem) bool { return p.Fatal }); got != fatal {
			t.Errorf("%q: fatal is %v, problems %+v", text, got, problems)
		}
		for _, p := range problems {
			if p.Where != "nmem0" || p.What == "" || p.Remedy == "" {
				t.Errorf("%q: a problem without place, text or remedy: %+v", text, p)
			}
		}
		if wanted := len(strings.Fields(text)); text != "" && text != "smart_notify " && len(problems) < min(wanted, 1) {
			t.Errorf("%q: nothing is said about it", text)
		}
	}
}

func TestFlagsUnknown(t *testing.T) {
	m, _ := machine(t)
	must(t, m.Remove("nmem0", "nfit/flags"))
	d, err := m.System().DIMM("nmem0")
	must(t, err)
	if p := d.Problems(); d.FlagsKnown || len(p) != 1 || p[0].Fatal {
		t.Errorf("flags known: %v, problems: %+v", d.FlagsKnown, p)
	}
}

func TestBelowInterleaved(t *testing.T) {
	m, dir := machine(t)
	below, err := m.System().Below(stat(t, dir))
	must(t, err)
	if diff := cmp.Diff([]string{"pmem0"}, below.Devices); diff != "" {
		t.Error(diff)
	}
	want := []nvdimm.Region{{
		Name: "region0", Size: 16 << 30, Domain: nvdimm.DomainMemoryController, Active: true,
		Mappings: []nvdimm.Mapping{{DIMM: "nmem0", Size: 16 << 30}, {DIMM: "nmem1", Size: 16 << 30, Position: 1}},
	}}
	if diff := cmp.Diff(want, below.Regions); diff != "" {
		t.Error(diff)
	}
}

// A file system on a disk lies on no region, and one in memory on no device.
func TestBelowNothing(t *testing.T) {
	m, err := nvdimmtest.New(t.TempDir())
	must(t, err)
	dir := t.TempDir()
	number := stat(t, dir).Dev
	must(t, m.Set("../../sda", "size", "1\n"), m.Carry(dir, "../../nowhere", "sda"))
	below, err := m.System().Below(stat(t, dir))
	must(t, err)
	if len(below.Regions) != 0 || len(below.Devices) != 1 {
		t.Errorf("below device %d: %+v", number, below)
	}
}

func TestBadRegions(t *testing.T) {
	for _, c := range []struct{ attribute, value, want string }{
		{"mapping1", "nmem1,zero,1,0\n", "mapping"},
		{"mapping1", "hello\n", "mapping"},
		{"mapping1", "nmem1,0,1,first\n", "mapping"},
		{"size", "large\n", "size"},
		{"badblocks", "8\n", "badblocks"},
	} {
		m, dir := machine(t)
		must(t, m.Set("region0", c.attribute, c.value))
		if _, err := m.System().Below(stat(t, dir)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s = %q: %v", c.attribute, c.value, err)
		}
	}
}

func TestRegionProblems(t *testing.T) {
	m, _ := machine(t)
	must(t, m.Set("region0", "badblocks", "8 1\n1024 8\n"), m.Set("region0", "read_only", "1\n"), m.Remove("region0", "persistence_domain"))
	r, err := m.System().Region("region0")
	must(t, err)
	if r.BadBytes != 9*512 || !r.ReadOnly || r.Domain != nvdimm.DomainNone {
		t.Errorf("%+v", r)
	}
	if p := r.Problems(); len(p) != 3 || !p[2].Fatal || p[0].Fatal || p[1].Fatal {
		t.Errorf("%+v", p)
	}
}

func TestWeakest(t *testing.T) {
	cpu, mem, none := nvdimm.Region{Domain: nvdimm.DomainCPUCache}, nvdimm.Region{Domain: nvdimm.DomainMemoryController}, nvdimm.Region{Domain: nvdimm.DomainNone}
	for _, c := range []struct {
		regions []nvdimm.Region
		want    nvdimm.Domain
	}{
		{nil, nvdimm.DomainNone},
		{[]nvdimm.Region{cpu}, nvdimm.DomainCPUCache},
		{[]nvdimm.Region{cpu, mem}, nvdimm.DomainMemoryController},
		{[]nvdimm.Region{mem, none, cpu}, nvdimm.DomainNone},
	} {
		if got := nvdimm.Weakest(c.regions); got != c.want {
			t.Errorf("%v: %s, want %s", c.regions, got, c.want)
		}
	}
}

// The machine that runs the test answers without an error, whatever it has.
func TestThisMachine(t *testing.T) {
	if _, err := nvdimm.Host.DIMMs(); err != nil {
		t.Error(err)
	}
	if _, err := nvdimm.Host.Below(stat(t, filepath.Dir(t.TempDir()))); err != nil {
		t.Error(err)
	}
}

func FuzzParseFlags(f *testing.F) {
	f.Add("save_fail restore_fail flush_fail not_armed smart_event map_fail smart_notify \n")
	f.Add("\n")
	f.Add("not_armed not_armed")
	f.Add("\x00 \xff")
	f.Fuzz(func(t *testing.T, text string) {
		list := nvdimm.ParseFlags(text)
		words := make([]string, len(list))
		for i, flag := range list {
			words[i] = string(flag)
			if flag == "" || slices.Contains(words[:i], words[i]) {
				t.Errorf("%q: empty or double: %q", text, list)
			}
			if !slices.Contains(strings.Fields(text), words[i]) {
				t.Errorf("%q: %q is not in it", text, flag)
			}
		}
		if !slices.Equal(nvdimm.ParseFlags(strings.Join(words, " ")), list) {
			t.Errorf("%q: not stable", text)
		}
		nvdimm.DIMM{Name: "nmem0", FlagsKnown: true, Flags: list}.Problems()
	})
}
