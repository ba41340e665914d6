package host

import (
	"github.com/nv-hypervisor/nv-hypervisor/pod"
	"github.com/nv-hypervisor/nv-hypervisor/vm/saver"
)

// Watch adds an outage detector. It must be open until Close has returned.
func (h *Host) Watch(s pod.Source) error {
	if err := h.saver.AddSource(s); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.detectors = append(h.detectors, s.Name())
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
