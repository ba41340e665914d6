package host

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/outage"
	"github.com/nv-hypervisor/nv-hypervisor/pod"
	"github.com/nv-hypervisor/nv-hypervisor/pod/kmod"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
	"github.com/nv-hypervisor/nv-hypervisor/vm/saver"
)

// Detector is a source of outages as an operator sees it.
type Detector struct {
	Name   string          `json:"name"`
	Kernel *DetectorCounts `json:"kernel,omitempty"` // what the kernel module counts; absent for other sources
	Error  string          `json:"error,omitempty"`  // why it has no counts
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
	Latency outage.Micros `json:"latency_us"` // from the event to the daemon's thread; 0 when it did not arrive
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

// watched lists the detectors.
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
		d := Detector{Name: s.Name()}
		if slices.Contains(dead, s.Name()) {
			d.Error = "it came to its end and announces nothing any more: restart nvhd"
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
	return list, nil
}

func countsOf(s kmod.Stats) *DetectorCounts {
	return &DetectorCounts{
		Events: s.Events, SelfTests: s.SelfTests, Spurious: s.Spurious, PassedOn: s.PassedOn,
		WakeupLast: outage.MicrosOf(s.WakeupLast), WakeupMax: outage.MicrosOf(s.WakeupMax),
		ReadLast: outage.MicrosOf(s.ReadLast), ReadMax: outage.MicrosOf(s.ReadMax),
	}
}

// testLimit is how long a test may take before it counts as lost.
const testLimit = time.Second

// TestDetectors sends a test event down the way of a real one, for every detector that can. Nothing is saved.
func (h *Host) TestDetectors(ctx context.Context) ([]DetectorTest, error) {
	h.testing.Lock()
	defer h.testing.Unlock()
	var list []DetectorTest
	for _, s := range h.watched() {
		if k, ok := s.(kernelDetector); ok {
			list = append(list, h.testDetector(ctx, k))
		}
	}
	if len(list) == 0 {
		return nil, vm.WithRemedy(fmt.Errorf("a detector that can be tested: %w", vm.ErrNotFound),
			"Load the kernel module nvh_pod and restart nvhd; nvh outage simulate tries everything but the detector.")
	}
	return list, nil
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
