// Package apitest is a daemon without VMs: an api.Backend in memory, for tests
// of the API and of the command line. Its VMs change state as real ones do, but
// nothing runs; what the guest would do, a test does.
//
// A Host is safe for concurrent use. Everything it reports is either a constant
// or was put in by the test.
package apitest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/api"
	"github.com/nv-hypervisor/nv-hypervisor/host"
	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/nvram/nvdimm"
	"github.com/nv-hypervisor/nv-hypervisor/outage"
	"github.com/nv-hypervisor/nv-hypervisor/outage/policy"
	"github.com/nv-hypervisor/nv-hypervisor/pod"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

var _ api.Backend = (*Host)(nil)

// Host is the fake daemon.
type Host struct {
	mu          sync.Mutex
	vms         map[string]*vm.Info
	timelines   []outage.Timeline // oldest first
	fail        map[string]error  // by verb, or verb and name
	subscribers map[chan host.Event]bool
	sequence    uint64
	consoles    map[string]bool
	checks      []host.Check
	announced   announcements
	hook        func(ctx context.Context, verb string)
}

// New returns a host with one pool of 1 GiB and no VM.
func New() *Host {
	return &Host{
		vms:         map[string]*vm.Info{},
		fail:        map[string]error{},
		subscribers: map[chan host.Event]bool{},
		consoles:    map[string]bool{},
		checks:      []host.Check{{Name: "qemu", Status: "ok", Detail: "7.2.22"}},
	}
}

// Put adds a VM as it is.
func (h *Host) Put(info vm.Info) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.vms[info.Name] = &info
}

// Fail makes a verb fail: "Start" for every VM, "Start web" for one. A nil
// error ends that. An error that is a Panic panics.
func (h *Host) Fail(verb string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fail[verb] = err
}

// Panic, given to Fail, makes the backend panic.
type Panic string

func (p Panic) Error() string { return string(p) }

// SetChecks replaces what Doctor finds.
func (h *Host) SetChecks(checks ...host.Check) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.checks = checks
}

// AddTimeline adds the newest timeline.
func (h *Host) AddTimeline(t outage.Timeline) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.timelines = append(h.timelines, t)
}

// Hook is called at the start of every verb, outside the lock.
func (h *Host) Hook(f func(ctx context.Context, verb string)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.hook = f
}

// begin is the start of every verb: it locks, and fails as the test wants.
func (h *Host) begin(ctx context.Context, verb, name string) error {
	h.mu.Lock()
	if hook := h.hook; hook != nil {
		h.mu.Unlock()
		hook(ctx, verb)
		h.mu.Lock()
	}
	for _, key := range []string{verb, verb + " " + name} {
		err := h.fail[key]
		if p, ok := err.(Panic); ok {
			h.mu.Unlock()
			panic(string(p))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// find returns the VM; the lock is held.
func (h *Host) find(name string) (*vm.Info, error) {
	if i, ok := h.vms[name]; ok {
		return i, nil
	}
	return nil, fmt.Errorf("VM %q: %w", name, vm.ErrNotFound)
}

// change moves a VM from one of the states from to the state to.
func (h *Host) change(ctx context.Context, verb, name string, to vm.State, from ...vm.State) (vm.Info, error) {
	err := h.begin(ctx, verb, name)
	defer h.mu.Unlock()
	if err != nil {
		return vm.Info{}, err
	}
	i, err := h.find(name)
	if err != nil {
		return vm.Info{}, err
	}
	if !slices.Contains(from, i.State) {
		return vm.Info{}, fmt.Errorf("VM %q is %s: %s: %w", name, i.State, strings.ToLower(verb), vm.ErrState)
	}
	i.State, i.Reason = to, ""
	h.publish("state", name, map[string]string{"state": string(to)})
	return *i, nil
}

func (h *Host) Status(ctx context.Context) (host.Status, error) {
	err := h.begin(ctx, "Status", "")
	defer h.mu.Unlock()
	counts := map[string]int{}
	for _, i := range h.vms {
		counts[string(i.State)]++
	}
	return host.Status{Version: "1.2.3-test", PID: 4711, Signal: "SIGPWR", Detectors: []string{aSignal, aUPS}, Accel: "tcg", VMs: counts,
		Pools: []host.PoolStatus{h.pool()}, Warnings: []string{"the pool survives processes, not the host"},
		Power: &policy.Status{Phase: policy.Riding, Since: since, Source: aUPS, Cause: "OB DISCHRG"}}, err
}

func (h *Host) pool() host.PoolStatus {
	p := host.PoolStatus{Name: "default", Default: true, Warning: "survives processes, not the host"}
	p.Path, p.Kind, p.Layout, p.Size = "/dev/shm/nvh", nvram.KindShm, nvram.LayoutDirectory, 1<<30
	for _, i := range h.vms {
		if !i.Volatile {
			p.Used, p.Regions = p.Used+i.Memory, p.Regions+2
		}
	}
	p.Free = p.Size - p.Used
	return p
}

func (h *Host) Doctor(ctx context.Context) ([]host.Check, error) {
	err := h.begin(ctx, "Doctor", "")
	defer h.mu.Unlock()
	return h.checks, err
}

// detectors that every fake host has, and when they were connected.
const (
	aSignal = "signal SIGPWR"
	aModule = "kmod nvh_pod"
	aUPS    = "nut ups@localhost:3493"
	aLogind = "logind"
)

var since = time.Date(2026, 11, 22, 11, 0, 0, 0, time.UTC)

func (h *Host) Detectors(ctx context.Context) ([]host.Detector, error) {
	err := h.begin(ctx, "Detectors", "")
	defer h.mu.Unlock()
	battery, unknown, runtime, charge := pod.OnBattery, pod.Unknown, 1234.0, 87.5
	return []host.Detector{
		{Name: aSignal, Tier: pod.Emergency, Connected: true},
		{Name: aModule, Tier: pod.Emergency, Connected: true, Kernel: &host.DetectorCounts{Events: 2, Spurious: 1, ReadLast: 250.5, ReadMax: 1900}},
		{Name: aUPS, Tier: pod.Battery, Connected: true, Since: &since, Condition: &battery, Detail: "OB DISCHRG", Runtime: &runtime, Charge: &charge, Warning: "replace its battery"},
		{Name: aLogind, Tier: pod.Planned, Since: &since, Condition: &unknown, Detail: "the bus is gone", Error: "the bus is gone"},
	}, err
}

func (h *Host) TestDetectors(ctx context.Context, name string) ([]host.DetectorTest, error) {
	err := h.begin(ctx, "TestDetectors", "")
	defer h.mu.Unlock()
	switch name {
	case "":
		return []host.DetectorTest{{Name: aModule, Latency: 250.5}, {Name: aLogind, Error: "the bus is gone"}}, err
	case aModule:
		return []host.DetectorTest{{Name: aModule, Latency: 250.5}}, err
	}
	return nil, fmt.Errorf("detector %q: %w", name, vm.ErrNotFound)
}

func (h *Host) List(ctx context.Context) ([]vm.Info, error) {
	err := h.begin(ctx, "List", "")
	defer h.mu.Unlock()
	if err != nil {
		return nil, err
	}
	var all []vm.Info
	for _, i := range h.vms {
		all = append(all, *i)
	}
	slices.SortFunc(all, func(a, b vm.Info) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

func (h *Host) Info(ctx context.Context, name string) (vm.Info, error) {
	err := h.begin(ctx, "Info", name)
	defer h.mu.Unlock()
	if err != nil {
		return vm.Info{}, err
	}
	i, err := h.find(name)
	if err != nil {
		return vm.Info{}, err
	}
	return *i, nil
}

func (h *Host) Create(ctx context.Context, d vm.Definition) (vm.Info, error) {
	err := h.begin(ctx, "Create", d.Name)
	defer h.mu.Unlock()
	if err != nil {
		return vm.Info{}, err
	}
	if _, taken := h.vms[d.Name]; taken {
		return vm.Info{}, fmt.Errorf("VM %q: %w", d.Name, vm.ErrExists)
	}
	if d.Memory%nvram.Alignment != 0 || d.Memory == 0 {
		return vm.Info{}, fmt.Errorf("VM %q: %w: memory %v is not a multiple of 2 MiB", d.Name, vm.ErrInvalid, d.Memory)
	}
	i := &vm.Info{Name: d.Name, UUID: "5a5a0000-0000-4000-8000-000000000001", State: vm.Stopped, Volatile: d.Volatile,
		Priority: d.Priority, OnLost: d.OnLost, Memory: d.Memory, CPUs: d.CPUs, Definition: d}
	if !d.Volatile {
		if free := h.pool().Free; d.Memory > free {
			return vm.Info{}, vm.WithRemedy(fmt.Errorf("VM %q: pool %q: %w: %v wanted, %v free", d.Name, "default", nvram.ErrFull, d.Memory, free),
				"Remove a VM or choose another pool.")
		}
		i.Pool = "default"
	}
	h.vms[d.Name] = i
	h.publish("state", d.Name, map[string]string{"state": "stopped"})
	return *i, nil
}

func (h *Host) Remove(ctx context.Context, name string, discardImage bool) error {
	err := h.begin(ctx, "Remove", name)
	defer h.mu.Unlock()
	if err != nil {
		return err
	}
	i, err := h.find(name)
	switch {
	case err != nil:
		return err
	case i.State == vm.Running || i.State == vm.Paused:
		return fmt.Errorf("VM %q is %s: %w", name, i.State, vm.ErrState)
	case i.Image != nil && !discardImage:
		return vm.WithRemedy(fmt.Errorf("VM %q has a saved image: %w", name, vm.ErrState), "`nvh rm --discard-image` removes it too.")
	}
	delete(h.vms, name)
	return nil
}

func (h *Host) Monitor(ctx context.Context, name string, req host.MonitorRequest) (json.RawMessage, error) {
	err := h.begin(ctx, "Monitor", name)
	defer h.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if _, err := h.find(name); err != nil {
		return nil, err
	}
	if req.HMP != "" {
		return json.Marshal("you said: " + req.HMP + "\r\n")
	}
	return json.Marshal(map[string]json.RawMessage{"echo": req.QMP})
}

func (h *Host) Pools(ctx context.Context) ([]host.PoolStatus, error) {
	err := h.begin(ctx, "Pools", "")
	defer h.mu.Unlock()
	return []host.PoolStatus{h.pool()}, err
}

func (h *Host) PoolHealth(ctx context.Context, name string) (host.PoolHealth, error) {
	err := h.begin(ctx, "PoolHealth", name)
	defer h.mu.Unlock()
	if err != nil {
		return host.PoolHealth{}, err
	}
	if name != "default" {
		return host.PoolHealth{}, fmt.Errorf("pool %q: %w", name, vm.ErrNotFound)
	}
	count := uint64(3)
	return host.PoolHealth{Name: name, Trusted: true, Health: nvram.Health{
		Path: "/dev/shm/nvh", Kind: nvram.KindShm, Devices: []string{"pmem0"}, Domain: nvdimm.DomainMemoryController, DirtyShutdown: count,
		Regions:  []nvdimm.Region{{Name: "region0", Size: 16 << 30, Domain: nvdimm.DomainMemoryController, Active: true, Mappings: []nvdimm.Mapping{{DIMM: "nmem0", Size: 16 << 30}}}},
		DIMMs:    []nvdimm.DIMM{{Name: "nmem0", State: "active", Flags: []nvdimm.Flag{nvdimm.FlagHealthNotified}, FlagsKnown: true, DirtyShutdown: &count}},
		Pages:    &nvram.PageSample{Unit: 2 << 20, Sampled: 64, Huge: 64},
		Problems: []nvram.Finding{},
	}}, nil
}

func (h *Host) ImportPool(ctx context.Context, path, name string) ([]vm.Info, error) {
	err := h.begin(ctx, "ImportPool", path)
	defer h.mu.Unlock()
	if err != nil {
		return nil, err
	}
	i := vm.Info{Name: "imported", State: vm.Saved, Pool: name, Memory: 256 << 20, CPUs: 1,
		Image: &vm.ImageInfo{Generation: 3, SavedAt: time.Now().Add(-3 * time.Hour), StateSize: 290 << 10, Valid: true}}
	h.vms[i.Name] = &i
	return []vm.Info{i}, nil
}

func (h *Host) Log(ctx context.Context, name, which string, follow bool) (io.ReadCloser, error) {
	err := h.begin(ctx, "Log", name)
	defer h.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if _, err := h.find(name); err != nil {
		return nil, err
	}
	text := fmt.Sprintf("%s log of %s\n", which, name)
	if !follow {
		return io.NopCloser(strings.NewReader(text)), nil
	}
	// Followed: a second line comes later, then silence until Close.
	r, w := io.Pipe()
	go func() { io.WriteString(w, text); io.WriteString(w, "and more\n") }()
	return r, nil
}
