package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/pod"
	"github.com/nv-hypervisor/nv-hypervisor/pod/powersupply"
)

// What a battery does, as POWER_SUPPLY_STATUS_* (include/linux/power_supply.h).
const (
	charging    = "1"
	discharging = "2"
	full        = "4"
)

var supplyChecks = []check{
	{"power supplies are followed by the kernel's uevents", followSupplies},
	{"a test of the power supplies goes through the kernel", testSupplies},
}

// followSupplies has an interval so long that only uevents can tell in time.
func followSupplies() error {
	w, err := powersupply.New(powersupply.Config{Interval: 10 * time.Minute, LowBattery: 10})
	if err != nil {
		return err
	}
	run := watch(w)
	defer run.stop()
	set := func(values ...string) func() error {
		return func() error {
			var err error
			for i := 0; i < len(values); i += 2 {
				err = errors.Join(err, set(values[i], values[i+1]))
			}
			return err
		}
	}
	for i, step := range []struct {
		do      func() error
		want    pod.Condition
		runtime time.Duration
	}{
		{set(), pod.Mains, -1},
		{set("status", discharging, "mains", "0"), pod.OnBattery, time.Hour},
		{set("seconds", "120"), pod.OnBattery, 2 * time.Minute},
		{set("capacity", "9"), pod.LowBattery, 2 * time.Minute},
		{set("mains", "1", "status", charging), pod.Mains, -1},
	} {
		if err := step.do(); err != nil {
			return err
		}
		for {
			r, err := run.any()
			if err != nil {
				return fmt.Errorf("step %d: %w", i, err)
			}
			if r.Condition == step.want && r.Runtime == step.runtime {
				break
			}
		}
	}
	h := w.Health()
	if !h.Connected || !strings.Contains(h.Last.Detail, "nvh_mains online") {
		return fmt.Errorf("health %+v", h)
	}
	return nil
}

func testSupplies() error {
	w, err := powersupply.New(powersupply.Config{})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return w.Test(ctx)
}

// watching is a watcher that runs.
type watching struct {
	reports chan pod.Report
	stop    func()
}

func watch(w pod.Watcher) *watching {
	ctx, cancel := context.WithCancel(context.Background())
	run := &watching{reports: make(chan pod.Report, 100)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.Run(ctx, func(r pod.Report) { run.reports <- r })
	}()
	run.stop = func() { cancel(); <-ended }
	return run
}

func (w *watching) any() (pod.Report, error) {
	select {
	case r := <-w.reports:
		return r, nil
	case <-time.After(patience):
		return pod.Report{}, errors.New("no report came")
	}
}

// next waits for a report of a condition; another one is an error.
func (w *watching) next(want pod.Condition) (pod.Report, error) {
	r, err := w.any()
	if err == nil && r.Condition != want {
		err = fmt.Errorf("report %v (%s): want %v", r.Condition, r.Detail, want)
	}
	return r, err
}
