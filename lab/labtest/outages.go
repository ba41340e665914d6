package labtest

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/lab/plan"
	"github.com/nv-hypervisor/nv-hypervisor/outage"
)

// NMI raises the interrupt of the power-outage detector, and returns when.
func (h *Host) NMI() time.Time {
	h.t.Helper()
	at, err := h.Host.NMI(h.ctx)
	h.must(err)
	return at
}

// PowerFail sends nvhd the signal that a UPS daemon sends, for a host without the kernel module.
func (h *Host) PowerFail() {
	h.t.Helper()
	h.Run("sh", "-c", "kill -PWR $(pidof nvhd)")
}

// Outages are the timelines of the outages that nvhd has noted, the latest first.
func (h *Host) Outages() []outage.Timeline {
	h.t.Helper()
	var list, outages []outage.Timeline
	h.must(json.Unmarshal([]byte(h.Run("nvh", "outage", "ls", "--format", "json")), &list))
	for _, t := range list {
		if t.Kind == "outage" {
			outages = append(outages, t)
		}
	}
	return outages
}

// AwaitOutage waits until nvhd has noted more outages than there were, and returns the latest.
func (h *Host) AwaitOutage(before int) outage.Timeline {
	h.t.Helper()
	var latest outage.Timeline
	h.poll("the timeline of the outage", patience, func() (bool, error) {
		outages := h.Outages()
		if len(outages) <= before {
			return false, nil
		}
		latest = outages[0]
		return true, nil
	})
	return latest
}

// Reboot restarts the host in an orderly way: every VM is suspended first.
func (h *Host) Reboot() {
	h.t.Helper()
	var before, after plan.Report
	h.must(h.Report(h.ctx, &before))
	h.Run("nvh", "suspend", "--all")
	// In the background, since nobody tells a client of a host that was reset.
	h.Run("sh", "-c", "sync; (sleep 1; exec reboot -f) </dev/null >/dev/null 2>&1 &")
	h.poll("the host to boot anew", patience, func() (bool, error) {
		err := h.Report(h.ctx, &after)
		return err == nil && after.Ready && after.BootID != before.BootID, nil
	})
}

// StepsOf are the names of the steps that a VM went through in a timeline.
func StepsOf(t outage.Timeline, name string) (string, error) {
	for _, v := range t.VMs {
		if v.Name != name {
			continue
		}
		var steps []string
		for _, s := range v.Steps {
			steps = append(steps, s.Name)
		}
		return strings.Join(steps, " "), nil
	}
	return "", fmt.Errorf("VM %s is not in the timeline", name)
}
