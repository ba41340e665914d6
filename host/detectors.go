package host

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/outage"
	"github.com/nv-hypervisor/nv-hypervisor/outage/policy"
	"github.com/nv-hypervisor/nv-hypervisor/pod"
	"github.com/nv-hypervisor/nv-hypervisor/pod/kmod"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
	"github.com/nv-hypervisor/nv-hypervisor/vm/saver"
)

// Detector is a source of outages as an operator sees it.
type Detector struct {
	Name      string          `json:"name"`
	Tier      pod.Tier        `json:"tier"`
	Connected bool            `json:"connected"`                // it can be relied upon
	Since     *time.Time      `json:"since,omitempty"`          // of Connected; absent in the emergency tier
	Condition *pod.Condition  `json:"condition,omitempty"`      // of the power; absent in the emergency tier
	Detail    string          `json:"detail,omitempty"`         // in the source's own words
	Runtime   *float64        `json:"runtime_s,omitempty"`      // how long the battery lasts by the source's estimate, in seconds
	Charge    *float64        `json:"charge_percent,omitempty"` // of the battery
	Kernel    *DetectorCounts `json:"kernel,omitempty"`         // what the kernel module counts; absent for other sources
	Error     string          `json:"error,omitempty"`          // why it cannot be relied upon
	Warning   string          `json:"warning,omitempty"`        // what to see to though it can
}

// DetectorCounts are nvh_pod's, since the module was loaded. Latencies are those of outages, from the first instruction
// of the NMI handler.
type DetectorCounts struct {
	Events     uint64        `json:"events"`         // outages and returns of power
	SelfTests  uint64        `json:"self_tests"`     //
	Spurious   uint64        `json:"spurious"`       // NMIs that belonged to an event already known
	PassedOn   uint64        `json:"passed_on"`      // NMIs left to the kernel because nobody listened
	WakeupLast outage.Micros `json:"wakeup_last_us"` // until the event was readable
	WakeupMax  outage.Micros `json:"wakeup_max_us"`
	ReadLast   outage.Micros `json:"read_last_us"` // until the daemon had it
	ReadMax    outage.Micros `json:"read_max_us"`
}

// DetectorTest is how a detector's own test went.
type DetectorTest struct {
	Name    string        `json:"name"`
	Latency outage.Micros `json:"latency_us"` // from the event to the daemon's thread, or from the question to the answer; 0 without one
	Error   string        `json:"error,omitempty"`
}

// kernelDetector is a source that counts and can be tested.
type kernelDetector interface {
	pod.Source
	Stats() (kmod.Stats, error)
	SelfTest() error
}

// Watch adds an outage detector. It must be open until Close has returned.
func (h *Host) Watch(s pod.Source) error {
	if err := h.saver.AddSource(s); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.detectors = append(h.detectors, s)
	return nil
}

// UseHardware gives saves what the kernel can do for them. It is called before Recover.
func (h *Host) UseHardware(hw saver.Hardware) error {
	if err := h.saver.SetHardware(hw); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.hardware = hw
	return nil
}

func (h *Host) cachesFlushable() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.hardware != nil
}

// watchers lists the detectors that leave time.
func (h *Host) watchers() []pod.Watcher {
	var list []pod.Watcher
	if r := h.runner(); r != nil {
		for _, w := range r.Watched() {
			list = append(list, w.Watcher)
		}
	}
	return list
}

// runner is what follows them, or nil.
func (h *Host) runner() *policy.Runner {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.power
}

// watched lists the detectors that the saver's thread listens to.
func (h *Host) watched() []pod.Source {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]pod.Source(nil), h.detectors...)
}

// Detectors lists what announces outages, with the kernel's counts.
func (h *Host) Detectors(context.Context) ([]Detector, error) {
	var list []Detector
	_, dead := h.saver.Detectors()
	for _, s := range h.watched() {
		d := Detector{Name: s.Name(), Tier: pod.Emergency, Connected: true}
		if slices.Contains(dead, s.Name()) {
			d.Connected, d.Error = false, "it came to its end and announces nothing any more: restart nvhd"
		} else if k, ok := s.(kernelDetector); ok {
			stats, err := k.Stats()
			if err != nil {
				d.Error = err.Error()
			} else {
				d.Kernel = countsOf(stats)
			}
		}
		list = append(list, d)
	}
	for _, w := range h.watchers() {
		list = append(list, describe(w))
	}
	return list, nil
}

// describe is a watcher as an operator sees it.
func describe(w pod.Watcher) Detector {
	health := w.Health()
	last := health.Last
	d := Detector{
		Name: w.Name(), Tier: w.Tier(), Connected: health.Connected, Condition: &last.Condition, Detail: last.Detail, Error: health.Error, Warning: health.Warning,
	}
	if !health.Since.IsZero() {
		d.Since = &health.Since
	}
	if last.Condition != pod.Unknown && last.Runtime >= 0 {
		seconds := last.Runtime.Seconds()
		d.Runtime = &seconds
	}
	if last.Condition != pod.Unknown && last.Charge >= 0 {
		d.Charge = &last.Charge
	}
	return d
}

func countsOf(s kmod.Stats) *DetectorCounts {
	return &DetectorCounts{
		Events: s.Events, SelfTests: s.SelfTests, Spurious: s.Spurious, PassedOn: s.PassedOn,
		WakeupLast: outage.MicrosOf(s.WakeupLast), WakeupMax: outage.MicrosOf(s.WakeupMax),
		ReadLast: outage.MicrosOf(s.ReadLast), ReadMax: outage.MicrosOf(s.ReadMax),
	}
}

// How long a test may take before it counts as lost: that of the kernel module, which announces an event to this host,
// and that of a source that is asked over a network.
const (
	testLimit     = time.Second
	questionLimit = 10 * time.Second
)

// TestDetectors tests the detector of a name, or all that can be with "". The kernel module sends a test event down the way of
// a real one, the others are asked a question. Nothing is saved.
func (h *Host) TestDetectors(ctx context.Context, name string) ([]DetectorTest, error) {
	h.testing.Lock()
	defer h.testing.Unlock()
	var tests []func() DetectorTest
	known := false
	for _, s := range h.watched() {
		known = known || s.Name() == name
		if k, ok := s.(kernelDetector); ok && (name == "" || s.Name() == name) {
			tests = append(tests, func() DetectorTest { return h.testDetector(ctx, k) })
		}
	}
	for _, w := range h.watchers() {
		known = known || w.Name() == name
		if name == "" || w.Name() == name {
			tests = append(tests, func() DetectorTest { return askWatcher(ctx, w) })
		}
	}
	switch {
	case name != "" && !known:
		return nil, vm.WithRemedy(fmt.Errorf("detector %q: %w", name, vm.ErrNotFound), "List them with nvh pod ls.")
	case len(tests) == 0:
		return nil, vm.WithRemedy(fmt.Errorf("a detector that can be tested: %w", vm.ErrNotFound),
			"Load the kernel module nvh_pod and restart nvhd, or configure a UPS; nvh outage simulate tries everything but the detector.")
	}
	list := make([]DetectorTest, len(tests))
	var wg sync.WaitGroup
	for i, test := range tests {
		wg.Go(func() { list[i] = test() })
	}
	wg.Wait()
	return list, nil
}

// askWatcher sends a question to a source and waits for its answer.
func askWatcher(ctx context.Context, w pod.Watcher) DetectorTest {
	ctx, cancel := context.WithTimeout(ctx, questionLimit)
	defer cancel()
	start := time.Now()
	if err := w.Test(ctx); err != nil {
		return DetectorTest{Name: w.Name(), Error: err.Error()}
	}
	return DetectorTest{Name: w.Name(), Latency: outage.MicrosOf(time.Since(start))}
}

func (h *Host) testDetector(ctx context.Context, k kernelDetector) DetectorTest {
	t := DetectorTest{Name: k.Name()}
	for len(h.saver.Tests()) > 0 {
		<-h.saver.Tests() // of a test that came too late
	}
	if err := k.SelfTest(); err != nil {
		t.Error = err.Error()
		return t
	}
	select {
	case r := <-h.saver.Tests():
		t.Latency = outage.MicrosOf(r.Latency)
	case <-ctx.Done():
		t.Error = ctx.Err().Error()
	case <-time.After(testLimit):
		t.Error = fmt.Sprintf("the event did not arrive within %v", testLimit)
	}
	return t
}
