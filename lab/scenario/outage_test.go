//go:build lab

package scenario

import (
	"strings"
	"testing"

	"github.com/nv-hypervisor/nv-hypervisor/lab"
	"github.com/nv-hypervisor/nv-hypervisor/lab/labtest"
	"github.com/nv-hypervisor/nv-hypervisor/lab/plan"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

// The power is announced to fail and does not; the guests go on where they are. The next time it does.
func TestGlitch(t *testing.T) {
	h := labtest.Start(t, lab.Options{})
	h.Launch("db")
	h.Launch("scratch", "--volatile")
	h.AwaitRunning("db", "scratch")
	for range 3 {
		h.NMI()
		h.AwaitSaved("db")
		h.AwaitState("scratch", vm.Paused)
		h.Run("nvh", "outage", "clear")
		h.Continued("db")
		h.Continued("scratch")
	}
	if g := h.Info("db").Generation; g != 1 {
		t.Errorf("generation %d: going on in place is no resume", g)
	}
	h.NMI()
	h.AwaitSaved("db")
	h.Cut()
	h.PowerOn()
	h.Continued("db")
}

// An operator restarts the host. The guests are suspended before and continue after, whichever way the host went down.
func TestPlannedReboot(t *testing.T) {
	h := labtest.Start(t, lab.Options{})
	h.Launch("db")
	h.AwaitRunning("db")
	h.Reboot()
	h.Continued("db")
	h.Cut() // not announced: db has no image, and is booted anew
	h.PowerOn()
	h.Lost("db")
}

// The power fails again before every guest is back, without a guest having run, and once more right after.
func TestOutageDuringRecovery(t *testing.T) {
	h := labtest.Start(t, lab.Options{})
	h.Launch("db", "--priority", "10")
	h.Launch("web")
	h.AwaitRunning("db", "web")
	h.NMI()
	h.AwaitSaved("db", "web")
	h.Cut()
	h.PowerOn()
	h.NMI() // nvhd serves, and the guests are being restored
	h.AwaitSaved("db", "web")
	h.Cut()
	h.PowerOn()
	h.Cut() // not even announced; nobody has run since
	h.PowerOn()
	h.Continued("db")
	h.Continued("web")
}

// Without the kernel module, nothing can write the CPU caches back in time. nvhd refuses to run a VM that it could not save, and
// says why; with the module it runs, and so it does when the operator takes the slow way.
func TestModuleMissing(t *testing.T) {
	h := labtest.Start(t, lab.Options{Persistence: lab.MemoryController})
	h.Launch("db")
	h.AwaitRunning("db")
	h.NMI()
	h.AwaitSaved("db")
	h.Cut()

	if err := h.SetDetector(false); err != nil {
		t.Fatal(err)
	}
	h.PowerOn()
	_, err := h.Host.Run(h.Context(), "nvh", "start", "db")
	if err == nil || !strings.Contains(err.Error(), "nvh_pod") {
		t.Fatalf("started without the module: %v", err)
	}
	if info := h.Info("db"); info.State == vm.Running || info.Image == nil {
		t.Fatalf("db is %s, image %v", info.State, info.Image)
	}

	h.Run("sed", "-i", "1i slow_flush = true", plan.Config)
	h.Cut()
	h.PowerOn()
	h.Continued("db")
	h.PowerFail()
	h.AwaitSaved("db")
	h.Cut()
	h.PowerOn()
	h.Continued("db")
}

// The host comes back with an NVDIMM that says that it could not keep its content. Nothing in it is touched; when it is healthy
// again the guest continues.
func TestUnhealthyNVDIMM(t *testing.T) {
	h := labtest.Start(t, lab.Options{})
	h.Launch("db")
	h.AwaitRunning("db")
	h.NMI()
	h.AwaitSaved("db")
	h.Cut()

	if err := h.SetArmed(false); err != nil {
		t.Fatal(err)
	}
	h.PowerOn()
	if _, err := h.Host.Run(h.Context(), "nvh", "start", "db"); err == nil || !strings.Contains(err.Error(), "nv0 is not available") {
		t.Fatalf("db was to start on an NVDIMM that is not armed: %v", err)
	}
	if out, err := h.Host.Run(h.Context(), "nvh", "doctor"); err == nil || !strings.Contains(out, "not_armed") {
		t.Errorf("nvh doctor finds nothing: %v\n%s", err, out)
	}
	h.Cut()
	if err := h.SetArmed(true); err != nil {
		t.Fatal(err)
	}
	h.PowerOn()
	h.Continued("db")
}
