package blockdev

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// machine is a fake root: folders, files, and links in sysfs.
type machine struct {
	t    *testing.T
	root string
}

func newMachine(t *testing.T) machine { return machine{t, t.TempDir()} }

func (m machine) file(name, content string) {
	m.t.Helper()
	path := filepath.Join(m.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

// link makes a relative link, as sysfs has them.
func (m machine) link(name, target string) {
	m.t.Helper()
	path := filepath.Join(m.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	relative, err := filepath.Rel(filepath.Dir(path), filepath.Join(m.root, target))
	if err != nil {
		m.t.Fatal(err)
	}
	if err := os.Symlink(relative, path); err != nil {
		m.t.Fatal(err)
	}
}

func (m machine) below(major, minor uint32) []string {
	m.t.Helper()
	list, err := Below(m.root, unix.Mkdev(major, minor))
	if err != nil {
		m.t.Fatal(err)
	}
	var names []string
	for _, d := range list {
		names = append(names, d.Name)
	}
	return names
}

// A logical volume over a RAID of two partitions and a third disk.
func stacked(t *testing.T) machine {
	m := newMachine(t)
	for _, disk := range []string{"sda", "sdb", "sdc"} {
		m.file("sys/devices/pci/"+disk+"/queue/write_cache", "write back\n")
	}
	for _, disk := range []string{"sda", "sdb"} {
		m.file("sys/devices/pci/"+disk+"/"+disk+"1/partition", "1\n")
		m.link("sys/devices/virtual/block/md0/slaves/"+disk+"1", "sys/devices/pci/"+disk+"/"+disk+"1")
	}
	m.link("sys/devices/virtual/block/dm-0/slaves/md0", "sys/devices/virtual/block/md0")
	m.link("sys/devices/virtual/block/dm-0/slaves/sdc", "sys/devices/pci/sdc")
	m.link("sys/dev/block/253:0", "sys/devices/virtual/block/dm-0")
	m.link("sys/dev/block/8:1", "sys/devices/pci/sda/sda1")
	m.link("sys/dev/block/8:32", "sys/devices/pci/sdc")
	return m
}

func TestBelow(t *testing.T) {
	m := stacked(t)
	for _, c := range []struct {
		major, minor uint32
		want         []string
	}{
		{253, 0, []string{"sda", "sdb", "sdc"}},
		{8, 1, []string{"sda"}},
		{8, 32, []string{"sdc"}},
	} {
		if diff := cmp.Diff(c.want, m.below(c.major, c.minor)); diff != "" {
			t.Errorf("below %d:%d: %s", c.major, c.minor, diff)
		}
	}
}

func TestBelowTmpfsIsNothing(t *testing.T) {
	m := newMachine(t)
	m.file("proc/self/mountinfo", "24 23 0:22 / /dev/shm rw,relatime - tmpfs tmpfs rw\n")
	_, err := Below(m.root, unix.Mkdev(0, 22))
	if !errors.Is(err, ErrNoDevice) {
		t.Errorf("tmpfs: %v", err)
	}
	if _, err := Below(m.root, unix.Mkdev(0, 23)); err == nil || errors.Is(err, ErrNoDevice) {
		t.Errorf("a file system that is not mounted: %v", err)
	}
}

// Slaves that lead back to themselves end in an error and not in an endless loop.
func TestBelowInACircle(t *testing.T) {
	m := newMachine(t)
	m.link("sys/devices/virtual/block/dm-0/slaves/dm-1", "sys/devices/virtual/block/dm-1")
	m.link("sys/devices/virtual/block/dm-1/slaves/dm-0", "sys/devices/virtual/block/dm-0")
	m.link("sys/dev/block/253:0", "sys/devices/virtual/block/dm-0")
	if list, err := Below(m.root, unix.Mkdev(253, 0)); err == nil {
		t.Errorf("found %v", list)
	}
}

func TestVolatileCache(t *testing.T) {
	m := newMachine(t)
	for text, want := range map[string]bool{"write back\n": true, "write through\n": false} {
		m.file("sys/sda/queue/write_cache", text)
		got, err := Device{"sda", filepath.Join(m.root, "sys/sda")}.VolatileCache()
		if err != nil || got != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	m.file("sys/sda/queue/write_cache", "write sideways\n")
	for _, name := range []string{"sda", "sdb"} {
		if _, err := (Device{name, filepath.Join(m.root, "sys", name)}).VolatileCache(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestMountOf(t *testing.T) {
	m := newMachine(t)
	m.file("proc/self/mountinfo", `22 26 0:21 / /sys rw,relatime - sysfs sysfs rw
half a line
36 26 259:0 / /mnt/with\040space rw,noatime shared:1 master:2 - ext4 /dev/pmem0 rw,noatime,dax=always
`)
	got, err := MountOf(m.root, unix.Mkdev(259, 0))
	if err != nil {
		t.Fatal(err)
	}
	want := Mount{Path: "/mnt/with space", Type: "ext4", Source: "/dev/pmem0", Options: []string{"rw", "noatime", "dax=always"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if !got.Has("dax=always") || got.Has("dax") {
		t.Error("an option is more or less than its word")
	}
}

// The machine that runs the test has a root file system; whatever it lies on, the answer is one of the two.
func TestThisMachine(t *testing.T) {
	var st unix.Stat_t
	if err := unix.Stat("/", &st); err != nil {
		t.Fatal(err)
	}
	list, err := Below("/", st.Dev)
	if err == nil && len(list) == 0 || err != nil && !errors.Is(err, ErrNoDevice) {
		t.Errorf("below /: %v, %v", list, err)
	}
}

func FuzzParseMount(f *testing.F) {
	f.Add(`36 35 98:0 /root /mnt\040x rw,noatime master:1 - ext4 /dev/pmem0 rw,dax=always`)
	f.Add("22 26 0:21 / /sys rw - sysfs sysfs rw")
	f.Add(" - ")
	f.Add(`1 1 1:1 / \ rw - a \13`)
	f.Fuzz(func(t *testing.T, line string) {
		m, _, ok := parseMount(line)
		if ok && (m.Path == "" || m.Type == "" || len(m.Options) == 0) {
			t.Errorf("%q: a mount without path, type or options: %+v", line, m)
		}
	})
}
