package main

import (
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/lab/plan"
)

// host is what the second process knows.
type host struct {
	plan plan.Plan // read by a step, constant afterwards

	mu     sync.Mutex
	report plan.Report // guarded by mu
}

// step does one step and notes it.
func (h *host) step(name string, do func() error) error {
	h.mu.Lock()
	h.report.Steps = append(h.report.Steps, plan.Step{Name: name, Start: uptime()})
	at := len(h.report.Steps) - 1
	h.mu.Unlock()
	err := do()
	h.mu.Lock()
	defer h.mu.Unlock()
	s := &h.report.Steps[at]
	s.End = uptime()
	if err != nil {
		s.Error = err.Error()
	}
	return err
}

func (h *host) markReady() {
	bootID, _ := os.ReadFile("/proc/sys/kernel/random/boot_id") // an empty one is seen by whoever compares it
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	h.mu.Lock()
	defer h.mu.Unlock()
	h.report.BootID, h.report.Kernel = strings.TrimSpace(string(bootID)), strings.TrimSpace(string(release))
	h.report.Ready = h.report.Failure() == nil
}

func (h *host) currentReport() plan.Report {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.report
	r.Steps = append([]plan.Step(nil), r.Steps...)
	r.ClockNS = clock(unix.CLOCK_MONOTONIC)
	return r
}

func (h *host) noteDaemon(pid int, restarted bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.report.Daemon = pid
	if restarted {
		h.report.Restarts++
	}
}

// uptime is CLOCK_BOOTTIME in seconds.
func uptime() float64 { return float64(clock(unix.CLOCK_BOOTTIME)) / 1e9 }

// clock is a clock in nanoseconds, 0 where there is none.
func clock(id int32) int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(id, &ts); err != nil {
		return 0
	}
	return ts.Nano()
}
