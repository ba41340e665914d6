package host

import (
	"context"
	"errors"
	"fmt"

	"github.com/nv-hypervisor/nv-hypervisor/outage"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
	"github.com/nv-hypervisor/nv-hypervisor/vm/saver"
)

// List describes all VMs, highest priority first.
func (h *Host) List(context.Context) ([]vm.Info, error) {
	list := []vm.Info{}
	for _, v := range h.Ordered() {
		list = append(list, v.Info())
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, err := range h.broken {
		list = append(list, vm.Info{Name: name, State: vm.Failed, Reason: err.Error()})
	}
	return list, nil
}

// Info describes one VM.
func (h *Host) Info(_ context.Context, name string) (vm.Info, error) {
	v, err := h.find(name)
	if err != nil {
		return vm.Info{}, err
	}
	return v.Info(), nil
}

// Create makes a VM from its definition.
func (h *Host) Create(ctx context.Context, d vm.Definition) (vm.Info, error) {
	var p vm.Pool
	if !d.Volatile {
		found, err := h.pool(d.Pool)
		if err != nil {
			return vm.Info{}, err
		}
		p, d.Pool = found, found.name
	}
	h.mu.Lock()
	taken := h.vms[d.Name] != nil || h.broken[d.Name] != nil || h.creating[d.Name]
	if !taken {
		h.creating[d.Name] = true
	}
	h.mu.Unlock()
	if taken {
		return vm.Info{}, vm.WithRemedy(fmt.Errorf("VM %s: %w", d.Name, vm.ErrExists), "Choose another name, or remove that VM with nvh rm.")
	}
	v, err := vm.Create(ctx, h.env, p, d)
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.creating, d.Name)
	if err != nil {
		return vm.Info{}, err
	}
	h.vms[d.Name] = v
	h.events.publish("created", d.Name, nil)
	return v.Info(), nil
}

// Remove deletes a VM that does not run.
func (h *Host) Remove(_ context.Context, name string, discardImage bool) error {
	v, err := h.find(name)
	if err != nil {
		return err
	}
	if err := v.Remove(discardImage); err != nil {
		return err
	}
	h.mu.Lock()
	delete(h.vms, name)
	h.mu.Unlock()
	h.events.publish("removed", name, nil)
	return nil
}

// do runs a verb on a VM and describes the VM afterwards.
func (h *Host) do(name string, verb func(*vm.VM) error) (vm.Info, error) {
	v, err := h.find(name)
	if err != nil {
		return vm.Info{}, err
	}
	if err := verb(v); err != nil {
		return vm.Info{}, explain(err)
	}
	return v.Info(), nil
}

// explain gives the saver's refusals the form callers decide on.
func explain(err error) error {
	if errors.Is(err, saver.ErrOutage) {
		return vm.WithRemedy(fmt.Errorf("%w: %w", vm.ErrState, err), "Wait until power is back, or say so with nvh outage clear.")
	}
	return err
}

// Start resumes a VM's image or boots it cold.
func (h *Host) Start(ctx context.Context, name string, o StartOptions) (vm.Info, error) {
	return h.do(name, func(v *vm.VM) error { return v.Start(ctx, o.DiscardImage) })
}

// Stop ends a guest.
func (h *Host) Stop(ctx context.Context, name string, o StopOptions) (vm.Info, error) {
	return h.do(name, func(v *vm.VM) error { return v.Stop(ctx, o.Force, o.Timeout) })
}

// Pause stops a VM's vCPUs.
func (h *Host) Pause(ctx context.Context, name string) (vm.Info, error) {
	return h.do(name, func(v *vm.VM) error { return v.Pause(ctx) })
}

// Unpause continues them.
func (h *Host) Unpause(ctx context.Context, name string) (vm.Info, error) {
	return h.do(name, func(v *vm.VM) error { return v.Unpause(ctx) })
}

// Save saves one VM and ends its QEMU.
func (h *Host) Save(ctx context.Context, name string) (outage.Timeline, error) {
	v, err := h.find(name)
	if err != nil {
		return outage.Timeline{}, err
	}
	result, err := v.Save(ctx)
	if result == nil {
		return outage.Timeline{}, explain(err)
	}
	t := h.clock.Timeline(result)
	return t, errors.Join(err, h.store.Put(t))
}

// SuspendAll saves every persistent VM that runs, as an outage would, and ends
// their QEMUs. The next recovery resumes them, as does nvh start.
func (h *Host) SuspendAll(ctx context.Context) (outage.Timeline, error) {
	result, err := h.saver.Save(ctx, nil)
	if err != nil {
		return outage.Timeline{}, explain(err)
	}
	t := h.clock.Timeline(result)
	t.Kind = "suspend"
	var errs []error
	for _, r := range result.VMs {
		v := h.VM(r.Name)
		if v == nil {
			continue
		}
		v.NoteSaved(r, result.ID)
		v.EndSaved()
		if r.Err != nil {
			errs = append(errs, r.Err, v.ResumeInPlace(ctx))
		}
	}
	return t, errors.Join(append(errs, h.store.Put(t))...)
}

// Restore resumes a VM's image.
func (h *Host) Restore(ctx context.Context, name string) (outage.Timeline, error) {
	v, err := h.find(name)
	if err != nil {
		return outage.Timeline{}, err
	}
	t := h.newTimeline("restore", "operator", saver.Now())
	steps, err := v.Restore(ctx)
	if len(steps) == 0 {
		return outage.Timeline{}, explain(err)
	}
	t.VMs = []outage.VMTimeline{h.recovered(v, t.EventNS, vm.Resumed, steps, err)}
	t.Close()
	return t, explain(errors.Join(err, h.store.Put(t)))
}

// newTimeline begins a timeline that no save has made.
func (h *Host) newTimeline(kind, source string, eventNS int64) outage.Timeline {
	wall := h.clock.Wall(eventNS)
	return outage.Timeline{
		ID: wall.Format("20060102T150405.000000Z") + "-" + kind, Kind: kind, Source: source,
		Event: wall, EventNS: eventNS, BootID: h.clock.BootID, Outcome: "resumed",
	}
}

func (h *Host) recovered(v *vm.VM, eventNS int64, outcome vm.Outcome, steps []saver.Step, err error) outage.VMTimeline {
	info := v.Info()
	t := outage.VMTimeline{
		Name: v.Name(), Priority: v.Priority(), Volatile: v.Volatile(), Outcome: string(outcome),
		Reason: info.Reason, Steps: outage.Steps(eventNS, steps),
	}
	if err != nil {
		t.Outcome, t.Reason = "failed", err.Error()
	}
	return t
}

// Simulate announces an outage.
func (h *Host) Simulate(ctx context.Context) (outage.Timeline, error) { return h.outages.Simulate(ctx) }

// Clear says that power is back.
func (h *Host) Clear(ctx context.Context) (outage.Timeline, error) { return h.outages.Clear(ctx) }

// Outages lists the timelines, the latest first.
func (h *Host) Outages(context.Context) ([]outage.Timeline, error) {
	list, err := h.store.List()
	if err != nil {
		h.log.Warn("read timelines", "error", err)
	}
	if list == nil {
		list = []outage.Timeline{}
	}
	return list, nil
}

// Outage finds one timeline.
func (h *Host) Outage(_ context.Context, id string) (outage.Timeline, error) { return h.store.Find(id) }

// Subscribe delivers events until ctx ends.
func (h *Host) Subscribe(ctx context.Context) (<-chan Event, error) {
	return h.events.subscribe(ctx), nil
}
