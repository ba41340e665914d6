package vm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/qemu"
)

func TestNormaliseRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(d *Definition)
		part   string
	}{
		{"no name", func(d *Definition) { d.Name = "" }, "name"},
		{"slash", func(d *Definition) { d.Name = "a/b" }, "a/b"},
		{"up", func(d *Definition) { d.Name = ".." }, ".."},
		{"space", func(d *Definition) { d.Name = "a b" }, "name"},
		{"NUL", func(d *Definition) { d.Name = "a\x00" }, "name"},
		{"dash first", func(d *Definition) { d.Name = "-rf" }, "name"},
		{"too long", func(d *Definition) { d.Name = strings.Repeat("x", maxName+1) }, "longer than 40"},
		{"name of an image kept aside", func(d *Definition) { d.Name = "db.kept-1" }, ".kept-"},
		{"policy", func(d *Definition) { d.OnLost = "pray" }, "boot or hold"},
		{"negative priority", func(d *Definition) { d.Priority = -1 }, "between 0 and 1000"},
		{"large priority", func(d *Definition) { d.Priority = 1001 }, "between 0 and 1000"},
		{"pool of a volatile VM", func(d *Definition) { d.Volatile, d.Pool = true, "nv" }, "leave out the pool"},
		{"no memory", func(d *Definition) { d.Memory = 0 }, "memory is missing"},
		{"odd state size", func(d *Definition) { d.StateSize = 3 * nvram.MiB }, "state_size"},
		{"large state size", func(d *Definition) { d.StateSize = nvram.GiB + 2*nvram.MiB }, "state_size"},
	} {
		d := small("db")
		c.change(&d)
		err := d.Normalise()
		if !errors.Is(err, ErrInvalid) || !strings.Contains(fmt.Sprint(err, Remedy(err)), c.part) {
			t.Errorf("%s: %v (%s)", c.name, err, Remedy(err))
		}
	}
}

func TestNormaliseFillsIn(t *testing.T) {
	for _, c := range []struct {
		raw  []string
		want nvram.Bytes
	}{{nil, DefaultStateSize}, {[]string{"-vga", "std"}, foreignStateSize}} {
		d := Definition{Name: strings.Repeat("x", maxName), Guest: qemu.Guest{Memory: 2 * nvram.MiB, Raw: c.raw}}
		check(t, d.Normalise())
		if d.CPUs != 1 || d.OnLost != OnLostBoot || d.StateSize != c.want {
			t.Errorf("filled in: %+v", d)
		}
	}
}

// What Create refuses leaves nothing behind.
func TestCreateRefuses(t *testing.T) {
	r := newRig(t)
	first := r.create(small("db"))
	for name, c := range map[string]struct {
		change func(d *Definition)
		want   error
	}{
		"name taken":  {func(d *Definition) { d.Name = "db" }, ErrExists},
		"pool full":   {func(d *Definition) { d.Memory = nvram.GiB }, nvram.ErrFull},
		"odd memory":  {func(d *Definition) { d.Memory += 4096 }, ErrInvalid},
		"no machine":  {func(d *Definition) { d.Machine = "abacus" }, ErrInvalid},
		"no disk":     {func(d *Definition) { d.Disks = []qemu.Disk{{Path: "/nowhere/disk.img"}} }, ErrInvalid},
		"unsafe disk": {func(d *Definition) { d.Disks = []qemu.Disk{{Path: "/dev/null", Cache: "unsafe"}} }, ErrInvalid},
		"no QEMU":     {func(d *Definition) { d.QEMU = "/nowhere/qemu" }, os.ErrNotExist},
	} {
		d := small("other")
		c.change(&d)
		_, err := Create(testContext(t), r.env, r.pool, d)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	long := *r.env
	long.RuntimeDir = "/run/" + strings.Repeat("x", 80) // a VM with a shorter name would fit
	d := small(strings.Repeat("y", maxName))
	_, err := Create(testContext(t), &long, r.pool, d)
	if wantError(t, err, ErrInvalid, "socket path"); !strings.Contains(Remedy(err), "shorter") {
		t.Errorf("remedy %q", Remedy(err))
	}
	if regions := r.pool.Regions(); len(regions) != 2 {
		t.Errorf("regions remain: %+v", regions)
	}
	if names, err := List(r.env.StateDir); err != nil || len(names) != 1 {
		t.Errorf("folders remain: %q, %v", names, err)
	}
	check(t, first.Start(testContext(t), false)) // the one that has the name is as it was
}

// fullDisk mounts a file system without room at path.
func fullDisk(t *testing.T, path string) {
	t.Helper()
	check(t, os.MkdirAll(path, 0o755))
	check(t, unix.Mount("tmpfs", path, "tmpfs", 0, "size=64k"))
	t.Cleanup(func() { check(t, unix.Unmount(path, unix.MNT_DETACH)) })
	filler, err := os.Create(filepath.Join(path, "filler"))
	check(t, err)
	defer filler.Close()
	for chunk := make([]byte, 4096); ; {
		if _, err := filler.Write(chunk); err != nil {
			if !errors.Is(err, unix.ENOSPC) {
				t.Fatal(err)
			}
			return
		}
	}
}

// A state directory without room: no VM, no region, a remedy; and everything is
// possible again when there is room.
func TestCreateOnFullDisk(t *testing.T) {
	for _, volatile := range []bool{false, true} {
		t.Run(fmt.Sprintf("volatile=%v", volatile), func(t *testing.T) {
			r := newRig(t)
			fullDisk(t, r.env.StateDir)
			def := small("db")
			def.Volatile = volatile
			var pool Pool
			if !volatile {
				pool = r.pool
			}
			_, err := Create(testContext(t), r.env, pool, def)
			wantError(t, err, unix.ENOSPC, "db: store the definition")
			if !strings.Contains(Remedy(err), "Make room") {
				t.Errorf("remedy %q", Remedy(err))
			}
			if regions := r.pool.Regions(); len(regions) != 0 {
				t.Errorf("regions remain: %+v", regions)
			}
			check(t, os.Remove(filepath.Join(r.env.StateDir, "filler")))
			r.running(def)
		})
	}
}

// A full state directory stops no guest, loses no image, and is told.
func TestVerbsOnFullDisk(t *testing.T) {
	r := newRig(t)
	ctx := testContext(t)
	v := r.create(small("db"))
	check(t, v.Start(ctx, false))
	v.Close()
	// The folder moves to a disk that then fills up.
	content := map[string][]byte{}
	for _, name := range []string{DefinitionFile, stateFileName} {
		b, err := os.ReadFile(filepath.Join(r.env.StateDir, "db", name))
		check(t, err)
		content[name] = b
	}
	check(t, os.RemoveAll(r.env.StateDir))
	check(t, os.MkdirAll(r.env.StateDir, 0o755))
	check(t, unix.Mount("tmpfs", r.env.StateDir, "tmpfs", 0, "size=256k"))
	t.Cleanup(func() { check(t, unix.Unmount(r.env.StateDir, unix.MNT_DETACH)) })
	check(t, os.Mkdir(filepath.Join(r.env.StateDir, "db"), 0o755))
	for name, b := range content {
		check(t, os.WriteFile(filepath.Join(r.env.StateDir, "db", name), b, 0o640))
	}
	v = r.open("db", true)
	v.recover(t, Adopted)
	filler := filepath.Join(r.env.StateDir, "filler")
	os.WriteFile(filler, make([]byte, nvram.MiB), 0o600) // as far as it goes

	wantError(t, v.Pause(ctx), unix.ENOSPC, "db: ")
	v.expect(t, Running)
	v.expectQEMU(t, "running")
	_, err := v.Save(ctx)
	wantError(t, err, unix.ENOSPC)
	v.expect(t, Running)
	v.expectQEMU(t, "running")
	wantError(t, v.Stop(ctx, true, 0), unix.ENOSPC)
	v.expect(t, Running)

	result := r.outage(v) // needs no disk
	if v.expect(t, Saved); !result.VMs[0].Committed {
		t.Errorf("%+v", result.VMs[0])
	}
	r.clear(v)
	v.expect(t, Running)
	check(t, os.Remove(filler))
	check(t, v.Stop(ctx, true, 0))
}
