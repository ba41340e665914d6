package vm

import (
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
)

// State is a VM's place in its life cycle; see lifecycle.go for the drawing.
type State string

const (
	Stopped   State = "stopped"   // no process, no image
	Starting  State = "starting"  // QEMU is being started for a cold boot
	Running   State = "running"   // the guest executes
	Paused    State = "paused"    // vCPUs stopped by the operator or, for a volatile VM, by an outage
	Saving    State = "saving"    // volatile state is being written
	Saved     State = "saved"     // a committed image exists and no guest instruction has run since
	Restoring State = "restoring" // a QEMU is loading the image
	Held      State = "held"      // an image exists, or existed, that may not be resumed; see Info.Reason
	Failed    State = "failed"    // QEMU died or could not be started; see Info.Reason
)

// Info is everything the daemon tells about one VM.
type Info struct {
	Name       string      `json:"name"`
	UUID       string      `json:"uuid"`
	State      State       `json:"state"`
	Reason     string      `json:"reason,omitempty"` // why it is held, failed, or was cold-booted
	Volatile   bool        `json:"volatile"`
	Pool       string      `json:"pool,omitempty"`
	Priority   int         `json:"priority"`
	OnLost     OnLost      `json:"on_lost,omitempty"`
	Memory     nvram.Bytes `json:"memory"` // bytes
	CPUs       int         `json:"cpus"`
	PID        int         `json:"pid,omitempty"`
	Accel      string      `json:"accel,omitempty"`
	Machine    string      `json:"machine,omitempty"`
	QEMU       string      `json:"qemu,omitempty"` // version, e.g. "7.2.22 (Debian 1:7.2+dfsg-7)"
	Generation uint64      `json:"generation"`     // counts resumes and cold boots
	Image      *ImageInfo  `json:"image,omitempty"`
	Kept       []string    `json:"kept,omitempty"` // images kept aside after a refusal: region names
	StartedAt  *time.Time  `json:"started_at,omitempty"`
	Warnings   []string    `json:"warnings,omitempty"`
	Definition Definition  `json:"definition"`
}

// ImageInfo describes the committed save record of a VM.
type ImageInfo struct {
	Generation uint64      `json:"generation"`
	SavedAt    time.Time   `json:"saved_at"`
	StateSize  nvram.Bytes `json:"state_size"` // bytes of device and vCPU state
	Outage     string      `json:"outage,omitempty"`
	Valid      bool        `json:"valid"`
	Refusal    string      `json:"refusal,omitempty"` // why it may not be resumed
}
