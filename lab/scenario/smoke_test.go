//go:build lab

package scenario

import (
	"testing"

	"github.com/nv-hypervisor/nv-hypervisor/lab"
	"github.com/nv-hypervisor/nv-hypervisor/lab/labtest"
)

func TestMain(m *testing.M) { labtest.Main(m) }

// The main job on a whole host: two guests with their memory in an NVDIMM, under KVM, and one with its memory in DRAM.
// The power is announced to fail, fails, and returns.
func TestPowerCut(t *testing.T) {
	h := labtest.Start(t, lab.Options{CPUs: 1})
	h.Launch("db", "--priority", "10")
	h.Launch("web")
	h.Launch("scratch", "--volatile")
	h.AwaitRunning("db", "web", "scratch")
	if accel := h.Info("db").Accel; accel != "kvm" {
		t.Errorf("the guest runs under %s, want kvm", accel)
	}
	h.NMI()
	h.AwaitSaved("db", "web")
	h.Cut()
	h.PowerOn()
	h.Continued("db")
	h.Continued("web")
	h.Lost("scratch")
}
