package main

import (
	"errors"
	"log/slog"

	"github.com/nv-hypervisor/nv-hypervisor/host"
	"github.com/nv-hypervisor/nv-hypervisor/pod"
	"github.com/nv-hypervisor/nv-hypervisor/pod/gpio"
	"github.com/nv-hypervisor/nv-hypervisor/pod/kmod"
	"github.com/nv-hypervisor/nv-hypervisor/pod/signal"
)

// openDetectors watches every configured source of outages. What it returns closes them, also after an error; the host
// must be closed first.
func openDetectors(h *host.Host, config host.Config, log *slog.Logger) (closeAll func(), err error) {
	d := &detectors{host: h, log: log}
	if err := errors.Join(d.signal(config), d.lines(config.Pod)); err != nil {
		return d.close, err
	}
	if err := d.module(config); err != nil {
		return d.close, err
	}
	watchers, err := newWatchers(h, config.Pod)
	if err != nil {
		return d.close, err
	}
	return d.close, h.Follow(watchers) // last: what they lead to may need the others
}

// detectors are those of the emergency tier.
type detectors struct {
	host *host.Host
	log  *slog.Logger
	open []func() error
}

func (d *detectors) close() {
	for _, c := range d.open {
		if err := c(); err != nil {
			d.log.Warn("close a detector", "error", err)
		}
	}
}

// watch hands an open source to the host.
func (d *detectors) watch(s pod.Source) error {
	d.open = append(d.open, s.Close)
	return d.host.Watch(s)
}

func (d *detectors) signal(config host.Config) error {
	s, err := signal.Open(config.OutageSignal())
	if err != nil {
		return err
	}
	return d.watch(s)
}

func (d *detectors) lines(config host.PodConfig) error {
	for _, line := range config.GPIO {
		if !line.Emergency() {
			continue
		}
		s, err := gpio.Open(line)
		if err != nil {
			return err
		}
		if err := d.watch(s); err != nil {
			return err
		}
	}
	return nil
}

// module uses the kernel module if it is there; it must be if the host is to be parked.
func (d *detectors) module(config host.Config) error {
	if config.PodDevice == "" {
		return nil
	}
	device, err := kmod.Open(config.PodDevice)
	switch {
	case err == nil:
	case config.Park != 0: // it was asked for
		return err
	case errors.Is(err, kmod.ErrNotLoaded):
		d.log.Info("no kernel detector", "reason", err)
		return nil
	default:
		d.log.Warn("no kernel detector", "reason", err)
		return nil
	}
	d.open = append(d.open, device.Close)
	return errors.Join(d.host.UseHardware(device), d.host.Watch(device))
}
