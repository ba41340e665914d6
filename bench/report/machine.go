package report

import (
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/host"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

// Machine is what the figures were measured on.
type Machine struct {
	CPU         string `json:"cpu"`
	Cores       int    `json:"cores"`
	MemoryBytes uint64 `json:"memory_bytes"`
	Kernel      string `json:"kernel"`
	QEMU        string `json:"qemu"`     // version
	Accel       string `json:"accel"`    // "kvm", or "tcg": binary translation, many times slower
	Realtime    bool   `json:"realtime"` // the daemon got SCHED_FIFO and locked memory
	Version     string `json:"version"`  // of the product
	Go          string `json:"go"`
	// Load averages over one minute. What is above the benchmark's own share is
	// other people's work, and noise.
	LoadBefore string `json:"load_before"`
	LoadAfter  string `json:"load_after"`
}

// Describe fills in what the kernel knows.
func Describe() (Machine, error) {
	m := Machine{Cores: runtime.NumCPU(), Go: runtime.Version(), LoadBefore: LoadAverage()}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return m, fmt.Errorf("describe the machine: %w", err)
	}
	m.Kernel = unix.ByteSliceToString(name.Sysname[:]) + " " + unix.ByteSliceToString(name.Release[:])
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return m, fmt.Errorf("describe the machine: %w", err)
	}
	m.MemoryBytes = info.Totalram * uint64(info.Unit)
	content, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return m, fmt.Errorf("describe the machine: %w", err)
	}
	m.CPU = modelName(string(content))
	return m, nil
}

// Learn fills in what the product knows: the daemon, and one of its VMs.
func (m *Machine) Learn(status host.Status, info vm.Info) {
	m.QEMU, m.Accel, m.Realtime, m.Version = info.QEMU, info.Accel, status.Realtime, status.Version
}

func modelName(cpuinfo string) string {
	for line := range strings.Lines(cpuinfo) {
		key, value, _ := strings.Cut(line, ":")
		if strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

// LoadAverage is that of the last minute, as the kernel prints it.
func LoadAverage() string {
	content, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(content), " ")
	return first
}

// String is one line for people.
func (m Machine) String() string {
	realtime := "real-time priority refused"
	if m.Realtime {
		realtime = "real-time priority granted"
	}
	return fmt.Sprintf("%s, %d cores, %d MiB, %s; QEMU %s, %s, %s; product %s, %s; load average %s before, %s after",
		m.CPU, m.Cores, m.MemoryBytes>>20, m.Kernel, m.QEMU, m.Accel, realtime, m.Version, m.Go, m.LoadBefore, m.LoadAfter)
}
