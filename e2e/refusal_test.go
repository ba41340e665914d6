package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/host"
	"github.com/nv-hypervisor/nv-hypervisor/lab/guest"
	"github.com/nv-hypervisor/nv-hypervisor/lab/rig"
	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/qemu/qemutest"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

// damaged is a machine whose power was cut after a committed save of the VM "db".
type damaged struct {
	*rig.Rig
	t    *testing.T
	ctx  context.Context
	disk string
	qemu string // what the VM's QEMU is started by
}

// cutAfterSave makes the image.
func cutAfterSave(t *testing.T, onLost vm.OnLost) *damaged {
	r, ctx := boot(t, rig.Options{Bin: bin, Size: nvram.GiB})
	d := &damaged{Rig: r, t: t, ctx: ctx, qemu: r.Dir + "/qemu"}
	d.installQEMU(qemutest.Installed(t).Path)
	def := r.Guest("db", memory)
	def.OnLost, def.QEMU = onLost, d.qemu
	disk, err := r.Disk("db.img", 16*nvram.MiB)
	must(t, err)
	def.Disks, d.disk = append(def.Disks, disk), disk.Path
	must(t, r.Launch(ctx, def))
	tick(t, ctx, r, "db", 3)
	must(t, r.Signal())
	if _, err := r.AwaitState(ctx, "db", vm.Saved); err != nil {
		t.Fatal(err)
	}
	must(t, r.Cut())
	return d
}

// installQEMU puts a version of QEMU where the VM expects its own.
func (d *damaged) installQEMU(path string) {
	d.t.Helper()
	os.Remove(d.qemu)
	must(d.t, os.WriteFile(d.qemu, []byte("#!/bin/sh\nexec "+path+" \"$@\"\n"), 0o755))
}

// region is where a region of the pool lies. The pool must not be open.
func (d *damaged) region(name string) nvram.Region {
	d.t.Helper()
	p, err := nvram.OpenReadOnly(d.Pool)
	must(d.t, err)
	defer p.Close()
	region, err := p.Region(name)
	must(d.t, err)
	return region
}

// edit changes bytes of a file in place.
func edit(t *testing.T, path string, at int64, change func([]byte), n int) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	b := make([]byte, n)
	_, err = f.ReadAt(b, at)
	must(t, err)
	change(b)
	_, err = f.WriteAt(b, at)
	must(t, err)
}

func flip(b []byte) { b[len(b)/2] ^= 0x10 }

// Offsets in a state region; see docs/formats.md.
const (
	recordCopies = 4 << 10
	recordCopy   = 4 << 10
	recordUsed   = 1536
	launches     = 64 << 10
	slots        = 1 << 20
)

// damages are ways in which an image becomes doubtful, with a word of the reason
// that nvh info must show.
var damages = []struct {
	name   string
	damage func(d *damaged)
	reason string
}{
	{"state bit-flipped", func(d *damaged) {
		path := d.region("db.state").Path
		for slot := range int64(2) {
			edit(d.t, path, slots+slot*int64(vm.DefaultStateSize)+20000, flip, 64)
		}
	}, "checksum"},
	{"launch record bit-flipped", func(d *damaged) {
		path := d.region("db.state").Path
		for i := range int64(2) {
			edit(d.t, path, launches+i*(256<<10)+200, flip, 8)
		}
	}, "launch record"},
	{"RAM truncated", func(d *damaged) {
		must(d.t, os.Truncate(d.region("db.ram").Path, int64(memory)/2))
	}, "RAM region"},
	{"RAM replaced", func(d *damaged) {
		path := d.region("db.ram").Path
		must(d.t, os.Remove(path))
		must(d.t, os.WriteFile(path, nil, 0o600))
		must(d.t, os.Truncate(path, int64(memory)))
	}, "RAM region"},
	{"another QEMU version", func(d *damaged) {
		d.installQEMU(qemutest.Backports(d.t).Path)
	}, "QEMU"},
	{"disk written after the save", func(d *damaged) {
		edit(d.t, d.disk, 8<<20, flip, 8)
		now := time.Now()
		must(d.t, os.Chtimes(d.disk, now, now))
	}, "Disk 0 was written"},
	{"disk exchanged", func(d *damaged) {
		content, err := os.ReadFile(d.disk)
		must(d.t, err)
		must(d.t, os.Rename(d.disk, d.disk+".old"))
		must(d.t, os.WriteFile(d.disk, content, 0o600))
		old := time.Unix(1, 0)
		must(d.t, os.Chtimes(d.disk, old, old))
	}, "another file"},
	{"disk grown", func(d *damaged) { must(d.t, os.Truncate(d.disk, 32<<20)) }, "bytes, but had"},
	{"disk missing", func(d *damaged) { must(d.t, os.Remove(d.disk)) }, "missing"},
}

// A doubtful image under on_lost = hold: the VM is held, the reason is in nvh info,
// the image is untouched, nvh start refuses with exit code 6, and --discard-image
// boots.
func TestRefusalsHold(t *testing.T) {
	for _, c := range damages {
		t.Run(c.name, func(t *testing.T) {
			d := cutAfterSave(t, vm.OnLostHold)
			c.damage(d)
			must(t, d.Boot(d.ctx))
			info := d.held(c.reason)
			if info.Image == nil || info.Image.Valid {
				t.Errorf("image after the refusal: %+v", info.Image)
			}
			d.startRefused()
		})
	}
}

// held fails unless the VM is held for that reason and nothing of it ran.
func (d *damaged) held(reason string) vm.Info {
	d.t.Helper()
	info, err := d.Client().Info(d.ctx, "db")
	must(d.t, err)
	if info.State != vm.Held || !strings.Contains(info.Reason, reason) {
		d.t.Fatalf("state %s, reason %q; want held because of %q", info.State, info.Reason, reason)
	}
	if pids := d.QEMUs(); len(pids) != 0 {
		d.t.Errorf("QEMU runs for a VM that is held: %v", pids)
	}
	return info
}

func (d *damaged) startRefused() {
	d.t.Helper()
	_, err := d.Nvh(d.ctx, "start", "db")
	if err == nil || !strings.Contains(err.Error(), "exit status 6") {
		d.t.Errorf("nvh start of a held VM: %v, want exit status 6", err)
	}
}

// A doubtful image under on_lost = boot: the guest boots anew, the reason is in nvh
// info, and the image is kept aside.
func TestRefusalsBoot(t *testing.T) {
	for _, c := range damages[:2] {
		t.Run(c.name, func(t *testing.T) {
			d := cutAfterSave(t, vm.OnLostBoot)
			boots := len(d.Ticks("db"))
			c.damage(d)
			must(t, d.Boot(d.ctx))
			info, err := d.Client().Info(d.ctx, "db")
			must(t, err)
			if info.State != vm.Running || !strings.Contains(info.Reason, c.reason) || len(info.Kept) != 2 {
				t.Fatalf("state %s, reason %q, kept %v", info.State, info.Reason, info.Kept)
			}
			first := d.Ticks("db")[boots-1].BootID
			_, err = d.AwaitTick(d.ctx, "db", boots, func(k guest.Tick) bool { return k.BootID != first && k.SumOK })
			must(t, err)
		})
	}
}

// A record torn at every 512 bytes is never taken for another: either the whole
// record is there and the guest continues, or the VM is held.
func TestRecordTornAtEverySector(t *testing.T) {
	d := cutAfterSave(t, vm.OnLostHold)
	path := d.region("db.state").Path
	whole, err := os.ReadFile(path)
	must(t, err)
	for sector := 0; sector < recordUsed; sector += 512 {
		for _, keep := range []string{"head", "tail"} {
			t.Run(fmt.Sprintf("%s-%d", keep, sector), func(t *testing.T) {
				d.t = t
				f, err := os.OpenFile(path, os.O_RDWR, 0)
				must(t, err)
				defer f.Close()
				_, err = f.WriteAt(whole, 0)
				must(t, err)
				for i := range int64(2) {
					at, zero := recordCopies+i*recordCopy, make([]byte, sector+512)
					if keep == "head" {
						at, zero = at+int64(sector), make([]byte, recordUsed-sector)
					}
					_, err = f.WriteAt(zero, at)
					must(t, err)
				}
				defer d.Cut()
				must(t, d.Boot(d.ctx))
				d.held("ecord")
			})
		}
	}
	// The record as it was: the guest continues.
	d.t = t
	must(t, os.WriteFile(path, whole, 0o600))
	before := len(d.Ticks("db"))
	must(t, d.Boot(d.ctx))
	if info, err := d.Client().Info(d.ctx, "db"); err != nil || info.State == vm.Held {
		_, err = d.Client().Restore(d.ctx, "db")
		must(t, err)
	}
	continued(t, d.ctx, d.Rig, "db", before)
}

// NVRAM that was put back to an earlier state holds an image that was resumed
// already: resuming it again would run the guest's past against its present disk.
func TestGenerationAlreadyResumed(t *testing.T) {
	d := cutAfterSave(t, vm.OnLostHold)
	path := d.region("db.state").Path
	old, err := os.ReadFile(path)
	must(t, err)
	stat, err := os.Stat(d.disk)
	must(t, err)
	before := len(d.Ticks("db"))
	must(t, d.Boot(d.ctx))
	continued(t, d.ctx, d.Rig, "db", before)
	must(t, d.Cut())
	must(t, os.WriteFile(path, old, 0o600))
	must(t, os.Chtimes(d.disk, stat.ModTime(), stat.ModTime()))
	must(t, d.Boot(d.ctx))
	d.held("already resumed")
	d.startRefused()
	_, err = d.Client().Start(d.ctx, "db", host.StartOptions{DiscardImage: true})
	must(t, err)
}
