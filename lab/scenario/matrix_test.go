//go:build lab

package scenario

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/nv-hypervisor/nv-hypervisor/host"
	"github.com/nv-hypervisor/nv-hypervisor/lab"
	"github.com/nv-hypervisor/nv-hypervisor/lab/kernel"
	"github.com/nv-hypervisor/nv-hypervisor/lab/labtest"
	"github.com/nv-hypervisor/nv-hypervisor/lab/plan"
	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/outage"
)

// nvdimm is of a size that two guests fit in.
func nvdimm(mode plan.Mode) []lab.NVDIMM { return []lab.NVDIMM{{Size: 512 * nvram.MiB, Mode: mode}} }

// Both ways in which Linux offers an NVDIMM, each with the QEMU that it needs at least, both persistence domains, and both kernels.
func TestMatrix(t *testing.T) {
	for _, k := range []kernel.Series{kernel.V6_1, kernel.V6_12} {
		for _, medium := range []struct {
			mode plan.Mode
			qemu string
		}{{plan.FSDAX, "7.2"}, {plan.DevDAX, "10.0"}} {
			for _, domain := range []lab.Persistence{lab.MemoryController, lab.CPUCache} {
				name := fmt.Sprintf("%s/%s-qemu-%s/%s", k, medium.mode, medium.qemu, domain)
				t.Run(name, func(t *testing.T) {
					surviveCut(t, lab.Options{Kernel: k, QEMU: medium.qemu, Persistence: domain, NVDIMMs: nvdimm(medium.mode)})
				})
			}
		}
	}
}

func surviveCut(t *testing.T, o lab.Options) {
	h := labtest.Start(t, o)
	h.Launch("db", "--priority", "10")
	h.Launch("web")
	h.AwaitRunning("db", "web")
	checkDoctor(t, h)
	for range 2 {
		before := len(h.Outages())
		h.NMI()
		h.AwaitSaved("db", "web")
		checkTimeline(t, h.AwaitOutage(before), o.Persistence)
		h.Cut()
		h.PowerOn()
		h.Continued("db")
		h.Continued("web")
	}
	if g := h.Info("db").Generation; g != 3 {
		t.Errorf("generation %d after a boot and two resumes", g)
	}
}

// checkDoctor: on the emulated host nothing is missing.
func checkDoctor(t *testing.T, h *labtest.Host) {
	t.Helper()
	var checks []host.Check
	if err := json.Unmarshal([]byte(h.Run("nvh", "doctor", "--format", "json")), &checks); err != nil {
		t.Fatal(err)
	}
	if len(checks) == 0 {
		t.Error("nvh doctor has checked nothing")
	}
	for _, c := range checks {
		if c.Status == "fail" {
			t.Errorf("nvh doctor: %s: %s; %s", c.Name, c.Detail, c.Remedy)
		}
	}
}

// checkTimeline: the module announced it, and the caches were written back between the last copy and the first commit, if they had to be.
func checkTimeline(t *testing.T, o outage.Timeline, domain lab.Persistence) {
	t.Helper()
	t.Logf("outage %s, by %s: saved after %v (emulated)", o.ID, o.Source, o.Duration.Duration())
	if o.Outcome != "saved" || !strings.Contains(o.Source, "nvh_pod") {
		t.Errorf("outcome %q, source %q", o.Outcome, o.Source)
	}
	for _, name := range []string{"db", "web"} {
		steps, err := labtest.StepsOf(o, name)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %s", name, steps)
		if flushed := slices.Contains(strings.Fields(steps), "flush"); flushed != (domain == lab.MemoryController) {
			t.Errorf("%s: steps %s in the domain %s", name, steps, domain)
		}
	}
}
