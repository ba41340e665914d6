package host

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/outage"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
	"github.com/nv-hypervisor/nv-hypervisor/vm/saver"
)

// Recover brings every VM back, highest priority first and several at a time, and
// keeps the timeline. startNS is CLOCK_MONOTONIC of the daemon's start. A VM that
// cannot be recovered does not stop the others.
func (h *Host) Recover(ctx context.Context, startNS int64) (outage.Timeline, error) {
	t := h.newTimeline("recovery", "boot", startNS)
	defer func() {
		h.mu.Lock()
		h.recovering = false
		h.mu.Unlock()
	}()
	t.Steps = []outage.Step{{Name: "open", End: outage.MicrosOf(time.Duration(saver.Now() - startNS))}}
	h.rebuildTimelines()
	var mu sync.Mutex
	outage.Parallel(h.parallel(), h.Ordered(), func(v *vm.VM) {
		outcome, steps, err := v.Recover(ctx)
		if err != nil {
			h.log.Error("recover", "vm", v.Name(), "error", err)
		}
		mu.Lock()
		defer mu.Unlock()
		t.VMs = append(t.VMs, h.recovered(v, startNS, outcome, steps, err))
	})
	t.Outcome = "recovered"
	t.Close()
	if len(t.VMs) == 0 {
		return t, nil
	}
	h.events.publish("recovered", "", map[string]string{"id": t.ID, "vms": fmt.Sprint(len(t.VMs))})
	return t, h.store.Put(t)
}

// openVMs loads what the state directory knows.
func (h *Host) openVMs() error {
	names, err := vm.List(h.vmsDir())
	if err != nil {
		return err
	}
	for _, name := range names {
		v, err := h.openVM(name)
		h.mu.Lock()
		if err != nil {
			h.broken[name] = err
		} else {
			h.vms[name] = v
		}
		h.mu.Unlock()
		if err != nil {
			h.warn("VM %s cannot be opened: %v", name, err)
		}
	}
	return nil
}

func (h *Host) openVM(name string) (*vm.VM, error) {
	pool, volatile, err := vm.Home(h.vmsDir(), name)
	if err != nil {
		return nil, err
	}
	if volatile {
		return vm.Open(h.env, nil, name)
	}
	p, err := h.pool(pool)
	if err != nil {
		return nil, err
	}
	return vm.Open(h.env, p, name)
}

// sweepPools frees what creations that were cut short have left, and tells of VMs
// that nobody here knows.
func (h *Host) sweepPools() {
	known := func(name string) bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.vms[name] != nil || h.broken[name] != nil
	}
	for _, p := range h.pools {
		if p.err != nil || p.Trusted() != nil { // nothing is thrown away on the word of doubtful memory
			continue
		}
		freed, err := vm.Sweep(p, known)
		if err != nil {
			h.warn("pool %s: %v", p.name, err)
		}
		for _, name := range freed {
			h.log.Info("freed the regions of a VM whose creation was cut short", "pool", p.name, "vm", name)
		}
		for _, f := range vm.Discover(p) {
			if !known(f.Name) {
				h.warn("pool %s holds VM %s, which this host does not know: take it over with nvh nvram import %s", p.name, f.Name, p.path)
			}
		}
	}
}

// rebuildTimelines restores the timelines of saves that were committed but whose
// timeline did not reach the disk before darkness, from the save records.
func (h *Host) rebuildTimelines() {
	lost := map[string]*outage.Timeline{}
	for _, v := range h.Ordered() {
		last, ok := v.LastSave()
		if !ok || h.store.Has(last.ID) {
			continue
		}
		t := lost[last.ID]
		if t == nil {
			_, kind, _ := strings.Cut(last.ID, "-")
			t = &outage.Timeline{
				ID: last.ID, Kind: kind, Source: "rebuilt from the save records", Event: last.Event,
				EventNS: last.EventNS, BootID: last.BootID, Outcome: "saved",
			}
			lost[last.ID] = t
		}
		t.VMs = append(t.VMs, outage.VMTimeline{
			Name: v.Name(), Priority: v.Priority(), Outcome: "committed", StateSize: last.StateSize,
			Steps: outage.Steps(0, last.Steps),
		})
	}
	for _, t := range lost {
		t.Close()
		if err := h.store.Put(*t); err != nil {
			h.warn("timeline %s: %v", t.ID, err)
		}
	}
}
