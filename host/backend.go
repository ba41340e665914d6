package host

import (
	"encoding/json"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/outage/policy"
)

// Event is one line of the daemon's event stream.
type Event struct {
	Sequence uint64            `json:"sequence"`
	Time     time.Time         `json:"time"`
	Type     string            `json:"type"` // state, devices-dumped, devices-restored, outage-begin, outage-committed, outage-clear, detector, policy, image-refused, warning
	VM       string            `json:"vm,omitempty"`
	Data     map[string]string `json:"data,omitempty"`
}

// Status is the daemon's own state.
type Status struct {
	Version    string         `json:"version"`
	PID        int            `json:"pid"`
	Config     string         `json:"config,omitempty"` // path of the configuration file; empty: built-in defaults
	Outage     string         `json:"outage,omitempty"` // id of the outage in progress
	Power      *policy.Status `json:"power,omitempty"`  // what is made of detectors that leave time; absent: there are none
	Recovering bool           `json:"recovering"`       // VMs are still being brought back after a start
	Signal     string         `json:"signal"`           // signal that announces an outage
	Detectors  []string       `json:"detectors"`        // what is watched, the signal among it
	Accel      string         `json:"accel"`            // "kvm" or "tcg"
	Realtime   bool           `json:"realtime"`         // SCHED_FIFO and locked memory granted
	VMs        map[string]int `json:"vms"`              // number of VMs by state
	Pools      []PoolStatus   `json:"pools"`
	Warnings   []string       `json:"warnings,omitempty"`
}

// PoolStatus is a pool as the daemon uses it.
type PoolStatus struct {
	Name    string `json:"name"`
	Default bool   `json:"default"`
	nvram.PoolInfo
	Trusted bool   `json:"trusted"` // guests may run in it
	Warning string `json:"warning,omitempty"`
}

// PoolHealth is the memory under a pool, and what the daemon makes of it.
type PoolHealth struct {
	Name    string `json:"name"`
	Trusted bool   `json:"trusted"` // guests may run in it
	Forced  bool   `json:"forced"`  // trusted by trust_unhealthy alone
	nvram.Health
}

// Check is one line of `nvh doctor`.
type Check struct {
	Name   string `json:"name"`
	Status string `json:"status"` // "ok", "warn", "fail"
	Detail string `json:"detail"`
	Remedy string `json:"remedy,omitempty"`
}

// StartOptions are the choices of `nvh start`.
type StartOptions struct {
	// DiscardImage gives up the saved image and boots from scratch.
	DiscardImage bool `json:"discard_image,omitempty"`
}

// StopOptions are the choices of `nvh stop`.
type StopOptions struct {
	// Force ends QEMU at once instead of asking the guest to shut down.
	Force bool `json:"force,omitempty"`
	// Timeout is how long the guest may take to shut down; 0 means the daemon's
	// default. When it is over the VM still runs and the verb fails.
	Timeout time.Duration `json:"timeout_ns,omitempty"`
}

// MonitorRequest is one command for a VM's QEMU: a line of its human monitor
// or a QMP command with its arguments. Exactly one of the two is set.
type MonitorRequest struct {
	HMP string          `json:"hmp,omitempty"`
	QMP json.RawMessage `json:"qmp,omitempty"`
}
