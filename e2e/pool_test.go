package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nv-hypervisor/nv-hypervisor/lab/rig"
	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/qemu/qemutest"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

// Two VMs in one file, as on a devdax device: each QEMU maps its extent by offset.
func TestSingleFilePool(t *testing.T) {
	r, ctx := boot(t, rig.Options{Bin: bin, QEMU: qemutest.Backports(t).Path, Layout: nvram.LayoutSingle, Size: nvram.GiB})
	for _, name := range []string{"one", "two"} {
		must(t, r.Launch(ctx, r.Guest(name, memory)))
	}
	before := map[string]int{}
	for _, name := range []string{"one", "two"} {
		tick(t, ctx, r, name, 2)
	}
	must(t, r.Signal())
	for _, name := range []string{"one", "two"} {
		_, err := r.AwaitState(ctx, name, vm.Saved)
		must(t, err)
	}
	must(t, r.Cut())
	out, err := r.Nvh(ctx, "nvram", "check", r.Pool)
	must(t, err)
	if !strings.Contains(out, "layout single, 4 regions") || !strings.Contains(out, "sound") {
		t.Errorf("nvh nvram check of the pool at rest:\n%s", out)
	}
	for _, name := range []string{"one", "two"} {
		before[name] = len(r.Ticks(name))
	}
	must(t, r.Boot(ctx))
	for _, name := range []string{"one", "two"} {
		continued(t, ctx, r, name, before[name])
	}
}

// A QEMU that cannot map a file at an offset is refused when the VM is created or started, with what to do.
func TestSingleFilePoolNeedsOffset(t *testing.T) {
	r, ctx := boot(t, rig.Options{Bin: bin, QEMU: qemutest.Installed(t).Path, Layout: nvram.LayoutSingle, Size: nvram.GiB})
	err := r.Launch(ctx, r.Guest("db", memory))
	if err == nil || !strings.Contains(err.Error(), "offset") {
		t.Errorf("a VM in a single-file pool under QEMU 7.2: %v", err)
	}
	if pids := r.QEMUs(); len(pids) != 0 {
		t.Errorf("QEMU runs all the same: %v", pids)
	}
}

// A pool that is carried to another host: a daemon with an empty state directory, and the pool at another path.
// Nothing runs until its operator says so; then the guest continues.
func TestImportOnAnotherHost(t *testing.T) {
	eachQEMU(t, func(t *testing.T, opt rig.Options) {
		opt.Size = nvram.GiB
		from, ctx := boot(t, opt)
		d := from.Guest("db", memory)
		disk, err := from.Disk("db.img", 16*nvram.MiB)
		must(t, err)
		d.Disks = append(d.Disks, disk)
		must(t, from.Launch(ctx, d))
		tick(t, ctx, from, "db", 3)
		must(t, from.Signal())
		_, err = from.AwaitState(ctx, "db", vm.Saved)
		must(t, err)
		must(t, from.Cut())
		last := from.Ticks("db")[len(from.Ticks("db"))-1]

		to, ctx := boot(t, opt)
		carried := to.Pool + "-carried"
		t.Cleanup(func() { os.RemoveAll(carried) })
		must(t, os.Rename(from.Pool, carried))
		out, err := to.Nvh(ctx, "nvram", "import", carried)
		must(t, err)
		if !strings.Contains(out, "db") || !strings.Contains(out, string(vm.Saved)) {
			t.Errorf("nvh nvram import prints:\n%s", out)
		}
		if len(to.QEMUs()) != 0 {
			t.Error("an imported VM was started without being asked")
		}
		_, err = to.Nvh(ctx, "start", "db")
		must(t, err)
		next := tick(t, ctx, to, "db", 1)
		if next.Count != last.Count+1 || next.BootID != last.BootID || !next.SumOK || next.Disk != "ok" {
			t.Errorf("the guest did not continue: %v after %v", next, last)
		}

		// The pool stays known, and the VM survives here as well.
		before := len(to.Ticks("db"))
		must(t, to.Signal())
		_, err = to.AwaitState(ctx, "db", vm.Saved)
		must(t, err)
		must(t, to.Cut())
		must(t, to.Boot(ctx))
		continued(t, ctx, to, "db", before)
	})
}

// A copy of the disk beside the pool is another disk: the image is refused on the other host as well.
func TestImportWithAnotherDisk(t *testing.T) {
	d := cutAfterSave(t, vm.OnLostHold)
	to, ctx := boot(t, rig.Options{Bin: bin, Size: nvram.GiB})
	carried := to.Pool + "-carried"
	t.Cleanup(func() { os.RemoveAll(carried) })
	must(t, os.Rename(d.Pool, carried))
	content, err := os.ReadFile(d.disk)
	must(t, err)
	must(t, os.Remove(d.disk))
	must(t, os.WriteFile(filepath.Clean(d.disk), content, 0o600))
	_, err = to.Nvh(ctx, "nvram", "import", carried)
	must(t, err)
	if _, err = to.Nvh(ctx, "start", "db"); err == nil || !strings.Contains(err.Error(), "Disk 0") {
		t.Errorf("start with another disk: %v", err)
	}
}
