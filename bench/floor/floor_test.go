package floor

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/qemu"
	"github.com/nv-hypervisor/nv-hypervisor/qemu/qemutest"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

// small is a machine that runs its firmware and finds nothing to boot.
var small = qemu.Guest{Memory: 16 * nvram.MiB, CPUs: 2, Accel: "tcg"}

func start(t *testing.T, ctx context.Context, b *qemu.Binary, capacity int) *VM {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "nvh-floor-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	v, err := Start(ctx, b.Path, dir, small, capacity)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	})
	return v
}

// Two guests are saved again and again, and every save is of guests that ran.
func TestSaveAndRunAgain(t *testing.T) {
	for _, b := range qemutest.Binaries(t) {
		t.Run(b.Version[:4], func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			vms := []*VM{start(t, ctx, b, int(vm.DefaultStateSize)), start(t, ctx, b, int(vm.DefaultStateSize))}
			for i := range 4 {
				for _, v := range vms {
					if err := v.Run(ctx); err != nil {
						t.Fatal(err)
					}
					if status, err := v.process.Status(ctx); err != nil || status != "running" {
						t.Fatalf("save %d: run state %s, %v", i, status, err)
					}
				}
				saved, err := Save(vms, i%2 == 1)
				if err != nil {
					t.Fatal(err)
				}
				if len(saved) != 2 || saved[0].Dumped > saved[1].Dumped {
					t.Fatalf("save %d: %v", i, saved)
				}
				for _, s := range saved {
					if s.Stopped <= 0 || s.Dumped < s.Stopped {
						t.Errorf("save %d: stopped after %v, dumped after %v", i, s.Stopped, s.Dumped)
					}
				}
			}
		})
	}
}

// A loop that did not get the whole state is no floor.
func TestShortDumpIsAnError(t *testing.T) {
	b := qemutest.Installed(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	v := start(t, ctx, b, 64<<10)
	if _, err := Save([]*VM{v}, false); err == nil || !strings.Contains(err.Error(), "buffer") {
		t.Errorf("a dump larger than its buffer: %v", err)
	}
	if err := v.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := Save([]*VM{v}, false); err == nil {
		t.Error("the same again went well")
	}
}

// Without a save that used the descriptor up, QEMU refuses the next: Save reports it.
func TestRefusalIsAnError(t *testing.T) {
	b := qemutest.Installed(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	v := start(t, ctx, b, int(vm.DefaultStateSize))
	if _, err := Save([]*VM{v}, false); err != nil {
		t.Fatal(err)
	}
	if _, err := Save([]*VM{v}, false); err == nil || !strings.Contains(err.Error(), "the save failed") {
		t.Errorf("a save without a descriptor: %v", err)
	}
}

func TestWake(t *testing.T) {
	for _, realtime := range []bool{false, true} {
		d, err := Wake(realtime)
		if err != nil {
			t.Fatal(err)
		}
		if d <= 0 || d > time.Second {
			t.Errorf("realtime %v: woken after %v", realtime, d)
		}
	}
}
