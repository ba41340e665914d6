package pod

import (
	"context"
	"fmt"
	"time"
)

// Tier is how much time a source leaves between its word and darkness.
type Tier uint8

// The tiers.
const (
	Emergency Tier = iota // milliseconds: save at once
	Battery               // seconds to minutes: there is something to decide
	Planned               // as long as the save takes, because somebody waits for it
)

// String implements fmt.Stringer.
func (t Tier) String() string {
	switch t {
	case Emergency:
		return "emergency"
	case Battery:
		return "battery"
	case Planned:
		return "planned"
	}
	return fmt.Sprintf("tier %d", uint8(t))
}

// MarshalText implements encoding.TextMarshaler.
func (t Tier) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// Condition is what a watcher knows of the power.
type Condition uint8

// Conditions, from the best to the worst but for Unknown.
const (
	Unknown    Condition = iota // nothing: not connected, or what it knew is stale
	Mains                       // power is there
	OnBattery                   // power is gone, and something lasts for a while
	LowBattery                  // what lasts is nearly spent
	Going                       // the host will go down, whatever the power does: a forced shutdown, a planned one
)

// String implements fmt.Stringer.
func (c Condition) String() string {
	switch c {
	case Unknown:
		return "unknown"
	case Mains:
		return "mains"
	case OnBattery:
		return "on battery"
	case LowBattery:
		return "low battery"
	case Going:
		return "going down"
	}
	return fmt.Sprintf("condition %d", uint8(c))
}

// MarshalText implements encoding.TextMarshaler.
func (c Condition) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// Report is what a watcher has learned: its whole knowledge, not a change to it.
type Report struct {
	Condition Condition
	At        time.Time     // when it became so, or when the watcher learned of it; it has a monotonic reading
	Detail    string        // the source's own words, such as "OB DISCHRG"
	Runtime   time.Duration // how long the battery lasts by the source's estimate; negative if it has none
	Charge    float64       // of the battery, in percent; negative if it has none
	Done      func()        // not nil if somebody waits: called once when nothing is left to save, or it could not be saved
}

// Health is whether a watcher can be relied upon.
type Health struct {
	Connected bool      // it has a source to listen to
	Since     time.Time // of Connected
	Error     string    // why it is not connected, with the remedy; empty if it is
	Warning   string    // what an operator should see to though it is connected, with the remedy
	Last      Report    // the zero Report before there was one
}

// Watcher is a detector that leaves time. Unlike a Source it may use goroutines, locks and the network, and it
// reports what it knows rather than what to do: whether to save is decided by package outage/policy.
type Watcher interface {
	// Name tells operators where a report came from, e.g. "nut ups@localhost:3493".
	Name() string
	// Tier is how much time its reports leave.
	Tier() Tier
	// Run watches until ctx is done, and returns only then. It connects again by itself whenever it has to. Calls of
	// report come one at a time, in order, from goroutines that have ended when Run returns; report does not block.
	// Each loss of the source is a report of Unknown.
	Run(ctx context.Context, report func(Report))
	// Health may be called at any time, from any goroutine.
	Health() Health
	// Test sends a question the whole way to the source and back, without announcing anything.
	Test(ctx context.Context) error
}
