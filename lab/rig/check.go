package rig

import (
	"fmt"

	"github.com/nv-hypervisor/nv-hypervisor/host"
	"github.com/nv-hypervisor/nv-hypervisor/lab/guest"
)

var startOptions host.StartOptions

// Continued checks that a guest went on as if nothing had happened: its ticks up
// to now are of one boot, their counts have no gap, and memory and disk were intact
// in every one of them. It returns the last tick.
func (r *Rig) Continued(name string) (guest.Tick, error) { return r.ContinuedSince(name, 0) }

// ContinuedSince is Continued without the first ticks, those of earlier boots.
func (r *Rig) ContinuedSince(name string, first int) (guest.Tick, error) {
	ticks := r.Ticks(name)
	ticks = ticks[min(first, len(ticks)):]
	if len(ticks) == 0 {
		return guest.Tick{}, fmt.Errorf("guest %s has printed no tick", name)
	}
	for i, t := range ticks {
		switch {
		case !t.SumOK:
			return t, fmt.Errorf("guest %s: memory is corrupt at count %d", name, t.Count)
		case t.Disk == guest.DiskBad:
			return t, fmt.Errorf("guest %s: an acknowledged disk record was lost at count %d", name, t.Count)
		case i > 0 && t.BootID != ticks[i-1].BootID:
			return t, fmt.Errorf("guest %s: boot id changed from %s to %s: it was booted anew", name, ticks[i-1].BootID, t.BootID)
		case i > 0 && t.Count != ticks[i-1].Count+1:
			return t, fmt.Errorf("guest %s: count went from %d to %d", name, ticks[i-1].Count, t.Count)
		}
	}
	return ticks[len(ticks)-1], nil
}
