package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/kmod/abi"
	"github.com/nv-hypervisor/nv-hypervisor/pod/kmod"
)

// loadChecks come first: the last of them leaves the module loaded.
var loadChecks = []check{
	{"without the module Open says modprobe", func(m *machine) error {
		_, err := kmod.Open(kmod.DefaultPath)
		if !errors.Is(err, kmod.ErrNotLoaded) || !strings.Contains(err.Error(), "modprobe nvh_pod") {
			return fmt.Errorf("error %v", err)
		}
		return nil
	}},
	{"bad parameters are refused and named", badParameters},
	{"loads", func(m *machine) error { return m.load(m.parameters()) }},
	{"the device is root's alone", func(m *machine) error {
		info, err := os.Stat(abi.Device)
		if err == nil && info.Mode() != os.ModeDevice|os.ModeCharDevice|0o600 {
			err = fmt.Errorf("mode %v", info.Mode())
		}
		return err
	}},
}

func badParameters(m *machine) error {
	for parameters, named := range map[string]string{
		"reasons=unknown,lightning": `"lightning"`,
		"reasons=":                  `""`,
		"reasons=serr,":             `""`,
		"reasons=unknow":            `"unknow"`,
		"debounce_us=0":             "debounce_us: 0",
		"debounce_us=1000001":       "debounce_us: 1000001",
	} {
		mark, err := m.log.mark()
		if err != nil {
			return err
		}
		if err := wantError(parameters, m.load(parameters), unix.EINVAL); err != nil {
			return err
		}
		if err := m.log.expect(mark, named); err != nil {
			return fmt.Errorf("%s: %w", parameters, err)
		}
	}
	return nil
}

var readChecks = []check{
	{"an idle device gives EAGAIN", opened(unix.O_RDWR, func(f file) error {
		if ok, err := f.readable(0); ok || err != nil {
			return fmt.Errorf("poll: %v, %v", ok, err)
		}
		_, err := f.read(1)
		return wantError("read", err, unix.EAGAIN)
	})},
	{"a buffer too small gives EINVAL", opened(unix.O_RDWR, func(f file) error {
		if err := f.selfTest(1); err != nil {
			return err
		}
		for _, size := range []int{0, 1, abi.EventSize - 1} {
			_, err := unix.Read(int(f), make([]byte, size))
			if size == 0 {
				_, _, errno := unix.Syscall(unix.SYS_READ, uintptr(f), 0, 0)
				err = errno
			}
			if err := wantError(fmt.Sprint(size, " bytes"), err, unix.EINVAL); err != nil {
				return err
			}
		}
		_, err := f.next()
		return err
	})},
	{"a bad address loses no event", opened(unix.O_RDWR, badReadAddress)},
	{"write and seek are refused", opened(unix.O_RDWR, func(f file) error {
		_, err := unix.Write(int(f), make([]byte, 32))
		if err := wantError("write", err, unix.EINVAL); err != nil {
			return err
		}
		_, err = unix.Seek(int(f), 0, unix.SEEK_SET)
		return wantError("seek", err, unix.ESPIPE)
	})},
	{"a self-test is an event on return", opened(unix.O_RDWR, selfTest)},
	{"one read takes several events, as they fit", opened(unix.O_RDWR, severalEvents)},
	{"each file has its own place", eachFileItsPlace},
	{"a slow reader learns what it lost", opened(unix.O_RDWR, slowReader)},
	{"a blocked read wakes up", blockedRead},
	{"two threads on one file get each event once", opened(unix.O_RDWR, twoThreads)},
}

// opened makes a check of one file that does not block.
func opened(flags int, run func(file) error) func(*machine) error {
	return func(*machine) error {
		f, err := open(flags | unix.O_NONBLOCK)
		if err != nil {
			return err
		}
		defer f.close()
		return run(f)
	}
}

func badReadAddress(f file) error {
	if err := f.selfTest(1); err != nil {
		return err
	}
	_, _, errno := unix.Syscall(unix.SYS_READ, uintptr(f), 1, abi.EventSize)
	if err := wantError("read", errno, unix.EFAULT); err != nil {
		return err
	}
	e, err := f.next()
	if err == nil && (e.Kind != abi.SelfTest || e.Lost != 0) {
		err = fmt.Errorf("then read %+v", e)
	}
	return err
}

func selfTest(f file) error {
	before := monotonic()
	if err := f.selfTest(1); err != nil {
		return err
	}
	after := monotonic()
	events, err := f.read(1)
	if err != nil {
		return err
	}
	e := events[0]
	if e.Kind != abi.SelfTest || e.Reason != abi.ReasonNone || e.Lost != 0 || e.TimeNS < before || e.TimeNS > after {
		return fmt.Errorf("between %d and %d: %+v", before, after, e)
	}
	return nil
}

func severalEvents(f file) error {
	if err := f.selfTest(5); err != nil {
		return err
	}
	one := make([]byte, 3*abi.EventSize+31)
	n, err := unix.Read(int(f), one)
	if err != nil || n != 3*abi.EventSize {
		return fmt.Errorf("a buffer of 127 bytes: %d, %v", n, err)
	}
	events, err := f.read(8)
	if err != nil || len(events) != 2 || events[1].Sequence != events[0].Sequence+1 {
		return fmt.Errorf("the rest: %+v, %v", events, err)
	}
	_, err = f.read(1)
	return wantError("after all", err, unix.EAGAIN)
}

func eachFileItsPlace(*machine) error {
	var files [3]file
	for i := range files {
		f, err := open(unix.O_RDWR | unix.O_NONBLOCK)
		if err != nil {
			return err
		}
		defer f.close()
		files[i] = f
		if i == 1 { // the third comes after it
			if err := f.selfTest(1); err != nil {
				return err
			}
		}
	}
	a, err := files[0].next()
	if err != nil {
		return err
	}
	b, err := files[1].next()
	if err != nil {
		return err
	}
	if a != b {
		return fmt.Errorf("%+v and %+v", a, b)
	}
	_, err = files[2].read(1)
	return wantError("a file opened later", err, unix.EAGAIN)
}

func slowReader(f file) error {
	const tooMany = 7
	if err := f.selfTest(1); err != nil {
		return err
	}
	first, err := f.next()
	if err != nil {
		return err
	}
	if err := f.selfTest(abi.RingSize + tooMany); err != nil {
		return err
	}
	for i := range uint64(abi.RingSize) {
		e, err := f.next()
		if err != nil {
			return err
		}
		lost := uint64(0)
		if i == 0 {
			lost = tooMany
		}
		if e.Sequence != first.Sequence+tooMany+1+i || e.Lost != lost {
			return fmt.Errorf("event %d after %d: %+v", i, first.Sequence, e)
		}
	}
	_, err = f.read(1)
	return wantError("after all", err, unix.EAGAIN)
}

func blockedRead(*machine) error {
	f, err := open(unix.O_RDWR)
	if err != nil {
		return err
	}
	defer f.close()
	type result struct {
		events []abi.Event
		err    error
	}
	got := make(chan result, 1)
	go func() {
		events, err := f.read(1)
		got <- result{events, err}
	}()
	select {
	case r := <-got:
		return fmt.Errorf("read an idle device: %+v", r)
	case <-time.After(100 * time.Millisecond):
	}
	if err := f.selfTest(1); err != nil {
		return err
	}
	select {
	case r := <-got:
		return r.err
	case <-time.After(patience):
		return errors.New("the reader sleeps on")
	}
}

func twoThreads(f file) error {
	const events = abi.RingSize
	if err := f.selfTest(events); err != nil {
		return err
	}
	var seen [2][]uint64
	var both sync.WaitGroup
	for i := range seen {
		both.Go(func() {
			for {
				got, err := f.read(1)
				if err != nil {
					return
				}
				seen[i] = append(seen[i], got[0].Sequence)
			}
		})
	}
	both.Wait()
	unique := map[uint64]bool{}
	for _, sequence := range append(seen[0], seen[1]...) {
		unique[sequence] = true
	}
	if len(unique) != events || len(seen[0])+len(seen[1]) != events {
		return fmt.Errorf("%d and %d events, %d different ones", len(seen[0]), len(seen[1]), len(unique))
	}
	return nil
}
