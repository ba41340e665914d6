// Package pod defines what a power-outage detector (POD) is. Each source has a
// package of its own below this one.
//
// A source is a readable file descriptor and a decoder. The saver's thread polls
// the descriptor itself, so between an event and the first stop lies one wake-up
// and no goroutine, queue or lock. Sources are usable together; events of several
// sources during one outage make one outage.
package pod

import "github.com/nv-hypervisor/nv-hypervisor/vm/saver"

// Event is what a source announces: saver.None, saver.Outage or saver.PowerBack.
type Event = saver.Event

// Source announces outages. One that stands for a state, such as the level of a line,
// is a saver.Starter as well and can announce one when it is added.
type Source interface {
	// FD is polled for reading. It stays the same for the life of the source.
	FD() int
	// Name tells operators where an event came from, e.g. "signal SIGPWR".
	Name() string
	// Decode is called with what was read from FD, on the saver's thread: it must
	// not block or allocate. It reports what this announces, and CLOCK_MONOTONIC of
	// the event in nanoseconds, or 0 when the source cannot tell.
	Decode(p []byte) (event Event, eventNS int64)
	// Close releases the descriptor. The source must not be watched any more.
	Close() error
}
