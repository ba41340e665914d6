package main

import (
	"errors"
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/kmod/abi"
)

// file is a descriptor of the device, bare, so that it can be used wrongly.
type file int

func open(flags int) (file, error) {
	fd, err := unix.Open(abi.Device, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", abi.Device, err)
	}
	return file(fd), nil
}

func (f file) close() { unix.Close(int(f)) }

func (f file) ioctl(request uintptr, arg unsafe.Pointer) error {
	return f.ioctlAt(request, uintptr(arg))
}

// ioctlAt takes any address.
func (f file) ioctlAt(request, address uintptr) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(f), request, address)
	if errno != 0 {
		return errno
	}
	return nil
}

func (f file) stats() (abi.Stats, error) {
	var s abi.Stats
	err := f.ioctl(abi.IoctlStats, unsafe.Pointer(&s))
	return s, err
}

func (f file) selfTest(times int) error {
	for range times {
		if err := f.ioctl(abi.IoctlSelfTest, nil); err != nil {
			return fmt.Errorf("self-test: %w", err)
		}
	}
	return nil
}

func (f file) park(timeout time.Duration) (abi.Park, error) {
	p := abi.Park{TimeoutNS: uint64(timeout)}
	err := f.ioctl(abi.IoctlPark, unsafe.Pointer(&p))
	return p, err
}

// read reads at most so many events.
func (f file) read(most int) ([]abi.Event, error) {
	buffer := make([]abi.Event, most)
	n, err := unix.Read(int(f), unsafe.Slice((*byte)(unsafe.Pointer(&buffer[0])), most*abi.EventSize))
	if err != nil {
		return nil, err
	}
	if n == 0 || n%abi.EventSize != 0 {
		return nil, fmt.Errorf("read %d bytes: want whole events", n)
	}
	return buffer[:n/abi.EventSize], nil
}

// readable polls.
func (f file) readable(timeout time.Duration) (bool, error) {
	fds := []unix.PollFd{{Fd: int32(f), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, int(timeout.Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return n == 1 && fds[0].Revents == unix.POLLIN, err
	}
}

// next waits for an event and reads it.
func (f file) next() (abi.Event, error) {
	ok, err := f.readable(patience)
	if err != nil {
		return abi.Event{}, fmt.Errorf("poll: %w", err)
	}
	if !ok {
		return abi.Event{}, errors.New("no event came")
	}
	events, err := f.read(1)
	if err != nil {
		return abi.Event{}, fmt.Errorf("read: %w", err)
	}
	return events[0], nil
}

// drain reads what is there.
func (f file) drain() error {
	for {
		if _, err := f.read(8); errors.Is(err, unix.EAGAIN) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// monotonic is the clock of events, in nanoseconds.
func monotonic() uint64 {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return uint64(ts.Nano())
}

// wantError compares with ==: error numbers are exact.
func wantError(what string, got, want error) error {
	if !errors.Is(got, want) {
		return fmt.Errorf("%s: %v, want %v", what, got, want)
	}
	return nil
}
