// Package abi is kmod/nvh_pod/nvh_pod.h, the interface of the kernel module nvh_pod, in Go. The header explains it;
// a test compiles the header and compares every number, size and offset.
package abi

// Version is the interface described here. A module with this or a higher one has it.
const Version = 1

// Device is where the module puts its device.
const Device = "/dev/nvh_pod"

// RingSize is how many events the module keeps.
const RingSize = 64

// Kinds of events.
const (
	Outage    = 1
	PowerBack = 2
	SelfTest  = 3
)

// Reasons of events.
const (
	ReasonNone    = 0
	ReasonUnknown = 1
	ReasonIOCheck = 2
	ReasonSERR    = 3
)

// Event is struct nvh_pod_event.
type Event struct {
	Sequence uint64
	TimeNS   uint64 // CLOCK_MONOTONIC
	Kind     uint32
	Reason   uint32
	Lost     uint64
}

// EventSize is the size of an Event in bytes.
const EventSize = 32

// How a park ended.
const (
	ParkTimeout   = 1
	ParkPowerBack = 2
)

// ParkMaxNS is the longest park in nanoseconds.
const ParkMaxNS = 60_000_000_000

// Park is struct nvh_pod_park.
type Park struct {
	TimeoutNS uint64 // to the module
	ParkedNS  uint64 // from it
	Outcome   uint32 // from it
	Reserved  uint32 // 0
}

// Stats is struct nvh_pod_stats.
type Stats struct {
	Events       uint64
	SelfTests    uint64
	Spurious     uint64
	PassedOn     uint64
	WakeupLastNS uint64
	WakeupMaxNS  uint64
	ReadLastNS   uint64
	ReadMaxNS    uint64
}

// Requests of ioctl(2), composed as include/uapi/asm-generic/ioctl.h does: direction, size of the argument, 0xF7, number.
const (
	IoctlVersion  = read | 4<<16 | magic // number 0
	IoctlStats    = read | 64<<16 | magic | 1
	IoctlFlush    = read | 8<<16 | magic | 2
	IoctlPark     = read | write | 24<<16 | magic | 3
	IoctlSelfTest = magic | 4

	write = 1 << 30
	read  = 2 << 30
	magic = 0xF7 << 8
)
