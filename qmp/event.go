package qmp

import (
	"encoding/json"
	"time"
)

// Event is something QEMU reports unasked. Its dynamic type is one of the value types of
// this file, or Unknown. Events are shared between subscriptions: do not change them.
type Event interface {
	// EventName returns QEMU's name of the event, such as "STOP".
	EventName() string
	// EventTime returns the host's wall-clock time at which QEMU raised the
	// event, in µs, or the zero time if QEMU could not tell.
	EventTime() time.Time
}

// At is the moment of an event. Every event embeds it.
type At struct {
	Time time.Time `json:"-"`
}

// EventTime implements Event.
func (a At) EventTime() time.Time { return a.Time }

func (a *At) setTime(moment time.Time) { a.Time = moment }

// The event types. Field names and meanings are those of QEMU's QAPI schema
// (qapi/run-state.json, migration.json, block-core.json, misc.json, …).
type (
	// Stop says that the vCPUs have stopped.
	Stop struct{ At }

	// Resume says that the vCPUs run again.
	Resume struct{ At }

	// Suspend says that the guest has entered S3 (suspend to RAM).
	Suspend struct{ At }

	// SuspendDisk says that the guest has entered S4 (suspend to disk).
	SuspendDisk struct{ At }

	// Wakeup says that the guest has left S3.
	Wakeup struct{ At }

	// Powerdown says that the guest was asked to power down (ACPI power button).
	Powerdown struct{ At }

	// Shutdown says that the VM has shut down. With -no-shutdown QEMU remains.
	Shutdown struct {
		At
		Guest  bool   `json:"guest"`  // the guest asked for it
		Reason string `json:"reason"` // such as "guest-shutdown", "host-signal", "host-qmp-quit"
	}

	// Reset says that the VM has been reset.
	Reset struct {
		At
		Guest  bool   `json:"guest"`
		Reason string `json:"reason"` // such as "guest-reset", "host-qmp-system-reset"
	}

	// Migration says that a migration has changed its status. QEMU sends it
	// only with the migration capability "events".
	Migration struct {
		At
		Status string `json:"status"` // "setup", "active", "completed", "failed", …
	}

	// MigrationPass says that a pass over guest RAM begins, counted from 1.
	MigrationPass struct {
		At
		Pass int `json:"pass"`
	}

	// JobStatusChange says that a background job has changed its status.
	JobStatusChange struct {
		At
		ID     string `json:"id"`
		Status string `json:"status"`
	}

	// GuestPanicked says that the guest's kernel has reported its crash.
	GuestPanicked struct {
		At
		Action string          `json:"action"` // what QEMU did: "pause", "poweroff", "run"
		Info   json.RawMessage `json:"info"`   // hypervisor specific, may be nil
	}

	// BlockIOError says that a disk has failed a request.
	BlockIOError struct {
		At
		Device    string `json:"device"`    // drive, may be empty
		QOMPath   string `json:"qom-path"`  // device, since QEMU 9.2
		NodeName  string `json:"node-name"` // block node, may be empty
		Operation string `json:"operation"` // "read" or "write"
		Action    string `json:"action"`    // "ignore", "report", "stop"
		NoSpace   bool   `json:"nospace"`   // the host's disk is full
		Reason    string `json:"reason"`    // for people
	}

	// RTCChange says that the guest has set its clock.
	RTCChange struct {
		At
		Seconds int64  `json:"offset"`   // from the host's clock, per -rtc base
		QOMPath string `json:"qom-path"` // since QEMU 7.0
	}

	// DeviceDeleted says that the guest has let go of an unplugged device.
	DeviceDeleted struct {
		At
		Device string `json:"device"` // id, may be empty
		Path   string `json:"path"`
	}

	// NicRxFilterChanged says that the guest has changed a network card's receive filter.
	NicRxFilterChanged struct {
		At
		Name string `json:"name"` // id, may be empty
		Path string `json:"path"`
	}

	// VserportChange says that a program in the guest has opened or closed a
	// virtio-serial port, as the guest agent does.
	VserportChange struct {
		At
		ID   string `json:"id"`
		Open bool   `json:"open"`
	}

	// Watchdog says that the guest's watchdog has expired.
	Watchdog struct {
		At
		Action string `json:"action"`
	}

	// MemoryFailure says that memory of the host under the VM has failed.
	MemoryFailure struct {
		At
		Recipient string `json:"recipient"` // "hypervisor" or "guest"
		Action    string `json:"action"`    // "ignore", "inject", "fatal", "reset"
		Flags     struct {
			ActionRequired bool `json:"action-required"`
			Recursive      bool `json:"recursive"`
		} `json:"flags"`
	}

	// Unknown is an event without a type of its own, or one whose data has not the expected shape.
	Unknown struct {
		At
		Name string
		Data json.RawMessage // as sent, nil if none
	}
)

// EventName implements Event.
func (Stop) EventName() string               { return "STOP" }
func (Resume) EventName() string             { return "RESUME" }
func (Suspend) EventName() string            { return "SUSPEND" }
func (SuspendDisk) EventName() string        { return "SUSPEND_DISK" }
func (Wakeup) EventName() string             { return "WAKEUP" }
func (Powerdown) EventName() string          { return "POWERDOWN" }
func (Shutdown) EventName() string           { return "SHUTDOWN" }
func (Reset) EventName() string              { return "RESET" }
func (Migration) EventName() string          { return "MIGRATION" }
func (MigrationPass) EventName() string      { return "MIGRATION_PASS" }
func (JobStatusChange) EventName() string    { return "JOB_STATUS_CHANGE" }
func (GuestPanicked) EventName() string      { return "GUEST_PANICKED" }
func (BlockIOError) EventName() string       { return "BLOCK_IO_ERROR" }
func (RTCChange) EventName() string          { return "RTC_CHANGE" }
func (DeviceDeleted) EventName() string      { return "DEVICE_DELETED" }
func (NicRxFilterChanged) EventName() string { return "NIC_RX_FILTER_CHANGED" }
func (VserportChange) EventName() string     { return "VSERPORT_CHANGE" }
func (Watchdog) EventName() string           { return "WATCHDOG" }
func (MemoryFailure) EventName() string      { return "MEMORY_FAILURE" }
func (u Unknown) EventName() string          { return u.Name }

// decoders gives each known event its type.
var decoders = map[string]func(time.Time, json.RawMessage) (Event, error){
	"STOP":                  typed[Stop],
	"RESUME":                typed[Resume],
	"SUSPEND":               typed[Suspend],
	"SUSPEND_DISK":          typed[SuspendDisk],
	"WAKEUP":                typed[Wakeup],
	"POWERDOWN":             typed[Powerdown],
	"SHUTDOWN":              typed[Shutdown],
	"RESET":                 typed[Reset],
	"MIGRATION":             typed[Migration],
	"MIGRATION_PASS":        typed[MigrationPass],
	"JOB_STATUS_CHANGE":     typed[JobStatusChange],
	"GUEST_PANICKED":        typed[GuestPanicked],
	"BLOCK_IO_ERROR":        typed[BlockIOError],
	"RTC_CHANGE":            typed[RTCChange],
	"DEVICE_DELETED":        typed[DeviceDeleted],
	"NIC_RX_FILTER_CHANGED": typed[NicRxFilterChanged],
	"VSERPORT_CHANGE":       typed[VserportChange],
	"WATCHDOG":              typed[Watchdog],
	"MEMORY_FAILURE":        typed[MemoryFailure],
}

// typed decodes an event of type E.
func typed[E Event, P interface {
	*E
	setTime(time.Time)
}](moment time.Time, data json.RawMessage) (Event, error) {
	var event E
	if data != nil {
		if err := json.Unmarshal(data, &event); err != nil {
			return nil, err
		}
	}
	P(&event).setTime(moment)
	return event, nil
}

// decodeEvent never fails: what has no type, or not its type's shape, is Unknown.
func decodeEvent(name string, moment time.Time, data json.RawMessage) Event {
	if decode, ok := decoders[name]; ok {
		if event, err := decode(moment, data); err == nil {
			return event
		}
	}
	return Unknown{At: At{Time: moment}, Name: name, Data: data}
}
