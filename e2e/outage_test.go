package e2e

import (
	"testing"

	"github.com/nv-hypervisor/nv-hypervisor/lab/guest"
	"github.com/nv-hypervisor/nv-hypervisor/lab/rig"
	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

// One VM survives twenty outages in a row: SIGPWR, everything killed, started again.
func TestTwentyOutages(t *testing.T) {
	eachQEMU(t, func(t *testing.T, opt rig.Options) {
		r, ctx := boot(t, opt)
		d := r.Guest("db", memory)
		disk, err := r.Disk("db.img", 64*nvram.MiB)
		must(t, err)
		d.Disks = append(d.Disks, disk)
		must(t, r.Launch(ctx, d))
		tick(t, ctx, r, "db", 3)
		for range 20 {
			before := len(r.Ticks("db"))
			must(t, r.Signal())
			if _, err := r.AwaitState(ctx, "db", vm.Saved); err != nil {
				t.Fatal(err)
			}
			must(t, r.Cut())
			must(t, r.Boot(ctx))
			continued(t, ctx, r, "db", before)
		}
		info, err := r.Client().Info(ctx, "db")
		must(t, err)
		if info.Generation != 21 {
			t.Errorf("generation is %d after one boot and twenty resumes", info.Generation)
		}
		must(t, r.Cut())
		if _, err := guest.VerifyDisk(disk.Path); err != nil {
			t.Error(err)
		}
	})
}
