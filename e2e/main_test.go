// Package e2e tests the real nvhd and nvh on real QEMU, both supported versions,
// with a real Linux guest, by cutting the power of all of it.
package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/lab/guest"
	"github.com/nv-hypervisor/nv-hypervisor/lab/rig"
	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/qemu/qemutest"
)

// bin is where TestMain builds the programs under test.
var bin string

func TestMain(m *testing.M) {
	var err error
	if bin, err = os.MkdirTemp("", "nvh-bin-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	build := exec.Command("go", "build", "-o", bin+"/", "../cmd/nvh", "../cmd/nvhd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build nvh and nvhd: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(bin)
	os.Exit(code)
}

// eachQEMU runs a test on every supported QEMU.
func eachQEMU(t *testing.T, test func(t *testing.T, opt rig.Options)) {
	for _, b := range qemutest.Binaries(t) {
		t.Run("qemu-"+b.Version[:4], func(t *testing.T) { test(t, rig.Options{Bin: bin, QEMU: b.Path}) })
	}
}

// boot makes a rig with a running daemon.
func boot(t *testing.T, opt rig.Options) (*rig.Rig, context.Context) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	r, err := rig.New(ctx, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(r.LogPath())
			t.Logf("nvhd's log:\n%s", log)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	must(t, r.Boot(ctx))
	return r, ctx
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tick waits until a guest has printed n ticks.
func tick(t *testing.T, ctx context.Context, r *rig.Rig, name string, n int) guest.Tick {
	t.Helper()
	got, err := r.AwaitTick(ctx, name, n-1, func(guest.Tick) bool { return true })
	must(t, err)
	return got
}

// continued fails unless the guest has gone on as if nothing had happened, beyond
// the ticks it had printed before.
func continued(t *testing.T, ctx context.Context, r *rig.Rig, name string, before int) {
	t.Helper()
	tick(t, ctx, r, name, before+3)
	if _, err := r.Continued(name); err != nil {
		t.Fatal(err)
	}
}

// memory is the least the guest boots with.
const memory = 192 * nvram.MiB
