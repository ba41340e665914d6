package apitest

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/host"
	"github.com/nv-hypervisor/nv-hypervisor/outage"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

func (h *Host) Start(ctx context.Context, name string, o host.StartOptions) (vm.Info, error) {
	err := h.begin(ctx, "Start", name)
	defer h.mu.Unlock()
	if err != nil {
		return vm.Info{}, err
	}
	i, err := h.find(name)
	switch {
	case err != nil:
		return vm.Info{}, err
	case i.State == vm.Running || i.State == vm.Paused:
		return vm.Info{}, fmt.Errorf("VM %q is %s: %w", name, i.State, vm.ErrState)
	case i.Image != nil && !i.Image.Valid && !o.DiscardImage:
		return vm.Info{}, vm.WithRemedy(fmt.Errorf("VM %q: %w: %s", name, vm.ErrRefused, i.Image.Refusal),
			"`nvh start --discard-image "+name+"` boots from scratch.")
	}
	now := time.Now()
	i.State, i.Reason, i.Image, i.StartedAt = vm.Running, "", nil, &now
	i.PID, i.Generation = 1234, i.Generation+1
	h.publish("state", name, map[string]string{"state": "running"})
	return *i, nil
}

func (h *Host) Stop(ctx context.Context, name string, o host.StopOptions) (vm.Info, error) {
	return h.change(ctx, "Stop", name, vm.Stopped, vm.Running, vm.Paused)
}

func (h *Host) Pause(ctx context.Context, name string) (vm.Info, error) {
	return h.change(ctx, "Pause", name, vm.Paused, vm.Running)
}

func (h *Host) Unpause(ctx context.Context, name string) (vm.Info, error) {
	return h.change(ctx, "Unpause", name, vm.Running, vm.Paused)
}

func (h *Host) Save(ctx context.Context, name string) (outage.Timeline, error) {
	if _, err := h.change(ctx, "Save", name, vm.Saved, vm.Running, vm.Paused); err != nil {
		return outage.Timeline{}, err
	}
	return h.record("save", "operator", name), nil
}

func (h *Host) Restore(ctx context.Context, name string) (outage.Timeline, error) {
	if _, err := h.change(ctx, "Restore", name, vm.Running, vm.Saved); err != nil {
		return outage.Timeline{}, err
	}
	h.mu.Lock()
	h.vms[name].Image = nil
	h.publish("devices-restored", name, nil)
	h.mu.Unlock()
	return h.record("restore", "operator", name), nil
}

func (h *Host) SuspendAll(ctx context.Context) (outage.Timeline, error) {
	return h.saveAll(ctx, "SuspendAll", "suspend", "operator")
}

func (h *Host) Simulate(ctx context.Context) (outage.Timeline, error) {
	return h.saveAll(ctx, "Simulate", "outage", "simulate")
}

func (h *Host) Clear(ctx context.Context) (outage.Timeline, error) {
	err := h.begin(ctx, "Clear", "")
	defer h.mu.Unlock()
	if err != nil {
		return outage.Timeline{}, err
	}
	return outage.Timeline{}, fmt.Errorf("no outage is in progress: %w", vm.ErrState)
}

// saveAll saves every running persistent VM.
func (h *Host) saveAll(ctx context.Context, verb, kind, source string) (outage.Timeline, error) {
	err := h.begin(ctx, verb, "")
	var names []string
	for name, i := range h.vms {
		if i.State == vm.Running && !i.Volatile {
			i.State = vm.Saved
			names = append(names, name)
		}
	}
	h.mu.Unlock()
	if err != nil {
		return outage.Timeline{}, err
	}
	return h.record(kind, source, names...), nil
}

// record adds a timeline with the steps of the named VMs.
func (h *Host) record(kind, source string, names ...string) outage.Timeline {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now().UTC()
	t := outage.Timeline{ID: fmt.Sprintf("20261122T1133%02d.123Z-%s", len(h.timelines), kind), Kind: kind, Source: source,
		Event: now, EventNS: 1e9, BootID: "b", Outcome: "saved", Duration: 5250.5, VMs: []outage.VMTimeline{}}
	for _, name := range names {
		steps := []outage.Step{{Name: "stop", Start: 110, End: 900.25}, {Name: "dump", Start: 901, End: 5000}, {Name: "commit", Start: 5001, End: 5250.5}}
		t.VMs = append(t.VMs, outage.VMTimeline{Name: name, Outcome: "committed", StateSize: 290 << 10, Steps: steps})
		if i := h.vms[name]; kind != "restore" {
			i.Image = &vm.ImageInfo{Generation: i.Generation, SavedAt: now, StateSize: 290 << 10, Outage: t.ID, Valid: true}
			h.publish("devices-dumped", name, map[string]string{"outage": t.ID})
		}
	}
	h.timelines = append(h.timelines, t)
	return t
}

func (h *Host) Outages(ctx context.Context) ([]outage.Timeline, error) {
	err := h.begin(ctx, "Outages", "")
	defer h.mu.Unlock()
	return h.timelines, err
}

func (h *Host) Outage(ctx context.Context, id string) (outage.Timeline, error) {
	err := h.begin(ctx, "Outage", id)
	defer h.mu.Unlock()
	if err != nil {
		return outage.Timeline{}, err
	}
	if n := len(h.timelines); id == "latest" && n > 0 {
		return h.timelines[n-1], nil
	}
	var found []outage.Timeline
	for _, t := range h.timelines {
		if strings.HasPrefix(t.ID, id) {
			found = append(found, t)
		}
	}
	switch len(found) {
	case 0:
		return outage.Timeline{}, fmt.Errorf("outage %q: %w", id, vm.ErrNotFound)
	case 1:
		return found[0], nil
	}
	return outage.Timeline{}, fmt.Errorf("%w: outage %q could be %d of them", vm.ErrInvalid, id, len(found))
}

// subscriberQueue is enough for any test; a full one drops the subscriber.
const subscriberQueue = 10_000

func (h *Host) Subscribe(ctx context.Context) (<-chan host.Event, error) {
	err := h.begin(ctx, "Subscribe", "")
	defer h.mu.Unlock()
	if err != nil {
		return nil, err
	}
	c := make(chan host.Event, subscriberQueue)
	h.subscribers[c] = true
	context.AfterFunc(ctx, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.drop(c)
	})
	return c, nil
}

// Subscribers returns how many subscriptions are open.
func (h *Host) Subscribers() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.subscribers)
}

// DropSubscribers ends every subscription, as a backend does with one that is
// too slow.
func (h *Host) DropSubscribers() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.subscribers {
		h.drop(c)
	}
}

// Publish sends an event to all subscribers.
func (h *Host) Publish(kind, name string, data map[string]string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.publish(kind, name, data)
}

func (h *Host) publish(kind, name string, data map[string]string) {
	h.sequence++
	e := host.Event{Sequence: h.sequence, Time: time.Now().UTC(), Type: kind, VM: name, Data: data}
	for c := range h.subscribers {
		select {
		case c <- e:
		default:
			h.drop(c)
		}
	}
}

func (h *Host) drop(c chan host.Event) {
	if h.subscribers[c] {
		delete(h.subscribers, c)
		close(c)
	}
}

// Console echoes what is typed, in upper case. The word "poweroff" ends it, as
// the guest's shutdown would.
func (h *Host) Console(ctx context.Context, name string) (io.ReadWriteCloser, error) {
	err := h.begin(ctx, "Console", name)
	defer h.mu.Unlock()
	if err != nil {
		return nil, err
	}
	i, err := h.find(name)
	switch {
	case err != nil:
		return nil, err
	case i.State != vm.Running && i.State != vm.Paused:
		return nil, fmt.Errorf("VM %q is %s and has no console: %w", name, i.State, vm.ErrState)
	case h.consoles[name]:
		return nil, fmt.Errorf("the console of VM %q is taken: %w", name, vm.ErrBusy)
	}
	h.consoles[name] = true
	r, w := io.Pipe()
	return &console{host: h, name: name, r: r, w: w}, nil
}

type console struct {
	host *Host
	name string
	r    *io.PipeReader
	w    *io.PipeWriter
}

func (c *console) Read(p []byte) (int, error) { return c.r.Read(p) }

func (c *console) Write(p []byte) (int, error) {
	text := strings.ToUpper(string(p))
	if _, err := io.WriteString(c.w, text); err != nil {
		return 0, err
	}
	if strings.Contains(text, "POWEROFF") {
		c.host.mu.Lock()
		c.host.vms[c.name].State = vm.Stopped
		c.host.mu.Unlock()
		c.w.Close()
	}
	return len(p), nil
}

func (c *console) Close() error {
	c.host.mu.Lock()
	delete(c.host.consoles, c.name)
	c.host.mu.Unlock()
	c.w.Close()
	return c.r.Close()
}
