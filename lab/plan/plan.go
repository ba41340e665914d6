// Package plan is what the outside of an emulated host tells its inside: the hardware to set up at a boot, and the
// places both know. It travels as a JSON file on the host's second disk, beside the programs under test.
package plan

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

// Places inside a host.
const (
	Product = "/opt/nvh"           // the programs under test, read-only, with File and Module
	File    = "plan.json"          // in Product
	Module  = "nvh_pod.ko"         // in Product; the kernel module of the outage detector
	Config  = "/etc/nvh/nvhd.toml" // written at the first boot, kept from then on
	State   = "/var/lib/nvh"       // on the disk that survives power cuts
	NVRAM   = "/nvram"             // fsdax pools are mounted below it, by name
	Guest   = "/usr/share/nvh-lab" // kernel and initrd of the test guest
	QEMU7   = "/usr/bin/qemu-system-x86_64"
	QEMU10  = "/opt/qemu-10/bin/qemu-system-x86_64"
	LogPort = "nvh.lab.log"     // virtio serial port for what nvhd logs
	Go      = "/run/nvh-lab.go" // appears when a host in standby is to go on
)

// StandbyStep is the step of a boot in which a host waits for Go.
const StandbyStep = "standby"

// Mode is how Linux offers an NVDIMM, in ndctl's words.
type Mode string

// The two modes for persistent memory that is mapped.
const (
	FSDAX  Mode = "fsdax"  // a block device with an ext4 that is mounted -o dax
	DevDAX Mode = "devdax" // a character device
)

// NVDIMM is one module in the order of its slot.
type NVDIMM struct {
	Pool string `json:"pool"` // name of the pool it holds
	Mode Mode   `json:"mode"`
}

// Plan is one boot.
type Plan struct {
	NVDIMMs []NVDIMM `json:"nvdimms"`
	Daemon  string   `json:"daemon"`            // nvhd.toml, if there is none yet
	POD     bool     `json:"pod"`               // load the kernel module
	Standby bool     `json:"standby,omitempty"` // wait for Go before anything is read that survives power cuts
}

// PoolPath is where the n-th NVDIMM's pool is.
func (p Plan) PoolPath(n int) string {
	if p.NVDIMMs[n].Mode == DevDAX {
		return fmt.Sprintf("/dev/dax%d.0", n)
	}
	return NVRAM + "/" + p.NVDIMMs[n].Pool
}

// Write makes the file.
func (p Plan) Write(path string) error {
	content, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(content, '\n'), 0o644)
}

// Read reads it.
func Read(path string) (Plan, error) {
	var p Plan
	content, err := os.ReadFile(path)
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal(content, &p); err != nil {
		return p, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

// Step is one step of a boot. Times are seconds since the kernel started.
type Step struct {
	Name  string  `json:"name"`
	Start float64 `json:"start"`
	End   float64 `json:"end"`
	Error string  `json:"error,omitempty"` // the step that failed, which is the last one
}

// Report is how far a host has come.
type Report struct {
	BootID   string `json:"boot_id"`
	Kernel   string `json:"kernel"` // release
	Steps    []Step `json:"steps"`
	Ready    bool   `json:"ready"`    // every step succeeded: nvhd serves
	Daemon   int    `json:"daemon"`   // process id of nvhd; 0 while it does not run
	Restarts int    `json:"restarts"` // how often nvhd was started again in this boot
	ClockNS  int64  `json:"clock_ns"` // CLOCK_MONOTONIC of this report
}

// Failure is why the host did not become ready, or nil.
func (r Report) Failure() error {
	for _, s := range r.Steps {
		if s.Error != "" {
			return fmt.Errorf("boot step %q failed: %s", s.Name, s.Error)
		}
	}
	return nil
}

// String gives the steps and their durations on one line.
func (r Report) String() string {
	var b strings.Builder
	for _, s := range r.Steps {
		fmt.Fprintf(&b, "%s %.2fs, ", s.Name, s.End-s.Start)
	}
	return strings.TrimSuffix(b.String(), ", ")
}
