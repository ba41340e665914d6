package main

import (
	"errors"
	"fmt"

	"github.com/nv-hypervisor/nv-hypervisor/host"
	"github.com/nv-hypervisor/nv-hypervisor/pod"
	"github.com/nv-hypervisor/nv-hypervisor/pod/gpio"
	"github.com/nv-hypervisor/nv-hypervisor/pod/logind"
	"github.com/nv-hypervisor/nv-hypervisor/pod/nut"
	"github.com/nv-hypervisor/nv-hypervisor/pod/powersupply"
	"github.com/nv-hypervisor/nv-hypervisor/pod/webhook"
)

// newWatchers makes the configured detectors that leave time. They do nothing before they are followed.
func newWatchers(h *host.Host, c host.PodConfig) ([]pod.Watcher, error) {
	var list watchers
	for _, ups := range c.NUT {
		list.add(nut.New(ups))
	}
	if c.PowerSupply != nil {
		list.add(powersupply.New(*c.PowerSupply))
	}
	for _, line := range c.GPIO {
		if !line.Emergency() {
			list.add(gpio.New(line))
		}
	}
	if c.Webhook != nil {
		w, err := webhook.New(*c.Webhook)
		list.add(w, err)
		if err == nil {
			h.UseWebhook(w)
		}
	}
	if c.Logind != nil {
		list.add(logind.New(*c.Logind))
	}
	return list.made, list.err
}

// watchers are those that could be made, and why others could not.
type watchers struct {
	made []pod.Watcher
	err  error
}

func (l *watchers) add(w pod.Watcher, err error) {
	if err != nil {
		l.err = errors.Join(l.err, fmt.Errorf("configuration: pod: %w", err))
		return
	}
	l.made = append(l.made, w)
}
