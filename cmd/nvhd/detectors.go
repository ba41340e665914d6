package main

import (
	"errors"
	"log/slog"

	"github.com/nv-hypervisor/nv-hypervisor/host"
	"github.com/nv-hypervisor/nv-hypervisor/pod/kmod"
	"github.com/nv-hypervisor/nv-hypervisor/pod/signal"
)

// openDetectors watches every configured source of outages. What it returns closes them, also after an error; the host
// must be closed first.
func openDetectors(h *host.Host, config host.Config, log *slog.Logger) (closeAll func(), err error) {
	var open []func() error
	closeAll = func() {
		for _, c := range open {
			if err := c(); err != nil {
				log.Warn("close a detector", "error", err)
			}
		}
	}
	source, err := signal.Open(config.OutageSignal())
	if err != nil {
		return closeAll, err
	}
	open = append(open, source.Close)
	if err := h.Watch(source); err != nil {
		return closeAll, err
	}
	if config.PodDevice == "" {
		return closeAll, nil
	}
	device, err := kmod.Open(config.PodDevice)
	switch {
	case err == nil:
	case config.Park != 0: // it was asked for
		return closeAll, err
	case errors.Is(err, kmod.ErrNotLoaded):
		log.Info("no kernel detector", "reason", err)
		return closeAll, nil
	default:
		log.Warn("no kernel detector", "reason", err)
		return closeAll, nil
	}
	open = append(open, device.Close)
	return closeAll, errors.Join(h.UseHardware(device), h.Watch(device))
}
