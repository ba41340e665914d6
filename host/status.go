package host

import (
	"context"
	"os"
	"slices"
)

// Status describes the daemon.
func (h *Host) Status(ctx context.Context) (Status, error) {
	pools, err := h.Pools(ctx)
	if err != nil {
		return Status{}, err
	}
	s := Status{
		Version: h.version, PID: os.Getpid(), Config: h.config.path, Signal: h.config.Signal,
		Accel: "kvm", Realtime: h.saver.Realtime() && h.locked == nil, Pools: pools, VMs: map[string]int{},
	}
	if h.kvm != nil {
		s.Accel = "tcg"
	}
	if t := h.outages.Active(); t != nil {
		s.Outage = t.ID
	}
	if r := h.runner(); r != nil {
		power := r.Status()
		s.Power = &power
	}
	list, err := h.List(ctx)
	if err != nil {
		return Status{}, err
	}
	for _, info := range list {
		s.VMs[string(info.State)]++
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	s.Recovering = h.recovering
	for _, d := range h.detectors {
		s.Detectors = append(s.Detectors, d.Name())
	}
	if h.power != nil {
		for _, w := range h.power.Watched() {
			s.Detectors = append(s.Detectors, w.Name())
		}
	}
	s.Warnings = slices.Clone(h.warnings)
	return s, nil
}
