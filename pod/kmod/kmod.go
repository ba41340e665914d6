// Package kmod is the detector behind the kernel module nvh_pod: a non-maskable interrupt announces the outage, and
// the kernel does what user space cannot do in time, writing back all CPU caches and stopping all CPUs.
//
// A Device is a pod.Source and a saver.Hardware. The module's device is opened once, without blocking, and events are read
// by the saver's own thread, so from the NMI to the first stop there is one wake-up. While a Device is open
// the module claims the NMIs it was loaded for; when the last one is closed, they go the kernel's ordinary way.
//
// Flush, Park and Decode neither allocate nor take locks. A Device may be used from several goroutines,
// except that Close must come last.
package kmod

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/kmod/abi"
	"github.com/nv-hypervisor/nv-hypervisor/pod"
	"github.com/nv-hypervisor/nv-hypervisor/vm/saver"
)

// DefaultPath is where the module puts its device.
const DefaultPath = abi.Device

// MaxPark is the longest time that Park accepts.
const MaxPark = abi.ParkMaxNS * time.Nanosecond

// Errors a caller decides on.
var (
	// ErrNotLoaded: the device is missing.
	ErrNotLoaded = errors.New("the kernel module nvh_pod is not loaded")
	// ErrVersion: the module is older than this program, or the device is another driver's.
	ErrVersion = errors.New("not the interface of nvh_pod that this program needs")
	// ErrUnread: Park refuses to stop the host over events that nobody has read.
	ErrUnread = errors.New("the detector has news: read it before parking")
)

// Device is an open /dev/nvh_pod.
type Device struct {
	fd int
}

var (
	_ pod.Source     = (*Device)(nil)
	_ saver.Hardware = (*Device)(nil)
)

// Open opens the module's device, usually DefaultPath. The error says what to do about it.
func Open(path string) (*Device, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return nil, fmt.Errorf("open %s: %w: run modprobe nvh_pod", path, ErrNotLoaded)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return nil, fmt.Errorf("open %s: %w: it is root's alone: run as root or change its owner", path, err)
	case err != nil:
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	d := &Device{fd: fd}
	if err := d.checkVersion(); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return d, nil
}

func (d *Device) checkVersion() error {
	version, err := d.Version()
	if errors.Is(err, unix.ENOTTY) {
		return fmt.Errorf("%w: this is some other device", ErrVersion)
	}
	if err != nil {
		return err
	}
	return compatible(version)
}

func compatible(version uint32) error {
	if version < abi.Version {
		return fmt.Errorf("%w: the loaded module has version %d, this program needs %d: "+
			"install the module that belongs to it, then rmmod nvh_pod and modprobe nvh_pod", ErrVersion, version, abi.Version)
	}
	return nil
}

var native = binary.NativeEndian

// FD implements pod.Source.
func (d *Device) FD() int { return d.fd }

// Name implements pod.Source.
func (d *Device) Name() string { return "kmod nvh_pod" }

// Close implements pod.Source.
func (d *Device) Close() error { return unix.Close(d.fd) }

// Decode implements pod.Source. Of several events the last NMI decides, as it tells how things stand now; an outage
// has the time of its first NMI. Self-tests announce nothing. Events that were lost, which takes a
// reader 64 events behind, may have been an outage, so they count as one.
func (d *Device) Decode(p []byte) (pod.Event, int64) {
	event, at := saver.None, int64(0)
	for ; len(p) >= abi.EventSize; p = p[abi.EventSize:] {
		timeNS := int64(native.Uint64(p[unsafe.Offsetof(abi.Event{}.TimeNS):]))
		kind := native.Uint32(p[unsafe.Offsetof(abi.Event{}.Kind):])
		lost := native.Uint64(p[unsafe.Offsetof(abi.Event{}.Lost):])
		if lost != 0 && event != saver.Outage {
			event, at = saver.Outage, 0
		}
		switch {
		case kind == abi.Outage && event != saver.Outage:
			event, at = saver.Outage, timeNS
		case kind == abi.PowerBack:
			event, at = saver.PowerBack, timeNS
		}
	}
	return event, at
}

// Flush implements saver.Hardware: it writes back and empties the caches of all CPUs. Everything that
// any CPU stored before the call is in memory when it returns.
func (d *Device) Flush() error {
	var took uint64
	return d.ioctl(abi.IoctlFlush, unsafe.Pointer(&took))
}

// Park implements saver.Hardware: it stops all CPUs of the host, writes back their caches and lets none of them execute
// anything until the limit, 1 ns to MaxPark, is over or another NMI says that power is back. Devices
// are not stopped: what they may write to memory must have ended before.
//
// Events not read yet make it return ErrUnread at once. The NMI that ended a park is also an event, to be read.
func (d *Device) Park(limit time.Duration) (powerBack bool, err error) {
	if limit <= 0 || limit > MaxPark {
		return false, unix.EINVAL
	}
	park := abi.Park{TimeoutNS: uint64(limit)}
	err = d.ioctl(abi.IoctlPark, unsafe.Pointer(&park))
	if err == unix.EAGAIN {
		return false, ErrUnread
	}
	return park.Outcome == abi.ParkPowerBack, err
}

// SelfTest makes the module deliver an event that announces nothing, on the way of a real one. It is readable on return.
func (d *Device) SelfTest() error {
	if err := d.ioctl(abi.IoctlSelfTest, nil); err != nil {
		return fmt.Errorf("nvh_pod self-test: %w", err)
	}
	return nil
}

// Stats counts since the module was loaded. The latencies are those of outages, from the first instruction of the
// NMI handler.
type Stats struct {
	Events    uint64 // outages and returns of power
	SelfTests uint64
	Spurious  uint64 // NMIs that belonged to an event already known: further CPUs, a bouncing line
	PassedOn  uint64 // NMIs left to the kernel because no Device was open

	WakeupLast, WakeupMax time.Duration // until the event was readable
	ReadLast, ReadMax     time.Duration // until the first reader had it
}

// Stats asks the module for its counts.
func (d *Device) Stats() (Stats, error) {
	var s abi.Stats
	if err := d.ioctl(abi.IoctlStats, unsafe.Pointer(&s)); err != nil {
		return Stats{}, fmt.Errorf("nvh_pod statistics: %w", err)
	}
	return Stats{
		Events: s.Events, SelfTests: s.SelfTests, Spurious: s.Spurious, PassedOn: s.PassedOn,
		WakeupLast: time.Duration(s.WakeupLastNS), WakeupMax: time.Duration(s.WakeupMaxNS),
		ReadLast: time.Duration(s.ReadLastNS), ReadMax: time.Duration(s.ReadMaxNS),
	}, nil
}

// Version returns the version of the interface that the loaded module has.
func (d *Device) Version() (uint32, error) {
	var version uint32
	if err := d.ioctl(abi.IoctlVersion, unsafe.Pointer(&version)); err != nil {
		return 0, fmt.Errorf("nvh_pod version: %w", err)
	}
	return version, nil
}

// ioctl returns bare error numbers: wrapping them would allocate.
func (d *Device) ioctl(request uint, arg unsafe.Pointer) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(d.fd), uintptr(request), uintptr(arg))
		if errno == 0 {
			return nil
		}
		if errno != unix.EINTR {
			return errno
		}
	}
}
