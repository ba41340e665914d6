package outage

import "time"

// Timeline is what happened to whom, and when, in one outage, save or recovery.
// Offsets are taken from CLOCK_MONOTONIC, relative to the event.
type Timeline struct {
	ID       string       `json:"id"`                 // "20261122T113322.123456Z-outage"
	Kind     string       `json:"kind"`               // "outage", "save", "suspend", "recovery", "restore"
	Source   string       `json:"source"`             // "signal SIGPWR", "nut ups@localhost:3493", "simulate", "operator", "boot"
	Tier     string       `json:"tier,omitempty"`     // how much time the source left: "emergency", "battery", "planned"; empty if it was no outage
	Cause    string       `json:"cause,omitempty"`    // why all was saved, if the source may have several reasons: "low battery"
	Event    time.Time    `json:"event"`              // wall clock of the event
	EventNS  int64        `json:"event_monotonic_ns"` // CLOCK_MONOTONIC of the event
	BootID   string       `json:"boot_id"`            // the host's boot id, which the monotonic clock belongs to
	Outcome  string       `json:"outcome"`            // "saved", "resumed in place", "incomplete", "recovered"
	Duration Micros       `json:"duration_us"`        // event to the end of the last step
	VMs      []VMTimeline `json:"vms"`
	Steps    []Step       `json:"steps,omitempty"` // steps of the host itself
}

// VMTimeline is one VM's part of a Timeline.
type VMTimeline struct {
	Name      string `json:"name"`
	Priority  int    `json:"priority"`
	Volatile  bool   `json:"volatile"`
	Outcome   string `json:"outcome"` // "committed", "paused", "failed", "resumed", "resumed in place", "cold-booted", "held", "adopted"
	Reason    string `json:"reason,omitempty"`
	StateSize int64  `json:"state_size,omitempty"` // bytes of volatile state written or read
	Steps     []Step `json:"steps"`
}

// Step is one named step. The names of an outage are wake, stop, dump, check,
// copy, flush, commit and park; those of a recovery validate, spawn, load, mark, cont.
type Step struct {
	Name  string `json:"name"`
	Start Micros `json:"start_us"` // since the event
	End   Micros `json:"end_us"`
}

// Micros is a duration in microseconds, with fractions, as JSON shows it.
type Micros float64

// Duration converts to a time.Duration.
func (m Micros) Duration() time.Duration { return time.Duration(float64(m) * 1e3) }

// MicrosOf converts from a time.Duration.
func MicrosOf(d time.Duration) Micros { return Micros(float64(d) / 1e3) }
