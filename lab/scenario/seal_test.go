//go:build lab

package scenario

import (
	"fmt"
	"testing"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/lab"
	"github.com/nv-hypervisor/nv-hypervisor/lab/labtest"
	"github.com/nv-hypervisor/nv-hypervisor/lab/plan"
	"github.com/nv-hypervisor/nv-hypervisor/outage"
)

// parkTime is how long TestSeal has the host blocked.
const parkTime = 3 * time.Second

// After the last commit no byte of a guest's RAM, of a state slot or of a record changes until darkness or until power is back:
// the NVDIMM's file is compared with itself over seconds, from outside. The guests rewrite their memory as fast as
// they can until they are stopped, and what a host can do with a stopped guest is done: typing on its console,
// reading its log, checking the pool. When the outage ends as a glitch, every guest's RAM and state change again.
//
// The NVDIMM is in devdax mode, so that where a region is in the pool tells where it is in the file.
func TestSeal(t *testing.T) {
	t.Run("open", func(t *testing.T) { seal(t, "") })
	t.Run("parked", func(t *testing.T) { seal(t, fmt.Sprintf("park = %q\n", parkTime)) })
}

func seal(t *testing.T, config string) {
	h := labtest.Start(t, lab.Options{QEMU: "10.0", NVDIMMs: nvdimm(plan.DevDAX), Config: config})
	device := plan.Plan{NVDIMMs: []plan.NVDIMM{{Mode: plan.DevDAX}}}.PoolPath(0)
	for _, name := range []string{"db", "web"} {
		h.Launch(name, "--cmdline", h.GuestCmdline("nvh.load=memory"))
	}
	h.AwaitRunning("db", "web")
	memory := mapRegions(t, h, device)
	before := len(h.Outages())
	h.NMI()
	memory.awaitSaved(t)
	sealed := memory.contents()
	looks := 0
	for start := time.Now(); time.Since(start) < parkTime; time.Sleep(parkTime / 20) {
		unchanged(t, memory, sealed, time.Since(start))
		looks++
	}
	timeline := h.AwaitOutage(before)
	if parked := parkedFor(timeline); config != "" && parked < parkTime || config == "" && parked != 0 {
		t.Errorf("the host was parked for %v", parked)
	}
	start := time.Now()
	disturb(h, device)
	unchanged(t, memory, sealed, time.Since(start))
	t.Logf("sealed: %d looks at %d regions", looks+1, len(memory))

	h.Run("nvh", "outage", "clear")
	h.Continued("db")
	h.Continued("web")
	changed := memory.differences(sealed)
	for name := range memory {
		if changed[name] == "" {
			t.Errorf("%s has not changed, with its guest running", name)
		}
		t.Logf("%s, after the outage: %s", name, changed[name])
	}
}

func unchanged(t *testing.T, memory, sealed regions, after time.Duration) {
	t.Helper()
	for name, what := range memory.differences(sealed) {
		t.Errorf("%s changed within %v after the last commit: %s", name, after, what)
	}
}

// parkedFor is how long the host was blocked.
func parkedFor(o outage.Timeline) time.Duration {
	for _, s := range o.Steps {
		if s.Name == "park" {
			return s.End.Duration() - s.Start.Duration()
		}
	}
	return 0
}

// disturb does to stopped guests and to their pool what must not reach them.
func disturb(h *labtest.Host, device string) {
	h.Type("sum", "db", "web")
	for _, name := range []string{"db", "web"} {
		h.Info(name)
		h.Run("nvh", "logs", name)
	}
	h.Run("nvh", "nvram", "check", device)
	h.Run("sync")
}
