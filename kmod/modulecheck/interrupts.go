package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/kmod/abi"
	"github.com/nv-hypervisor/nv-hypervisor/pod/kmod"
	"github.com/nv-hypervisor/nv-hypervisor/vm/saver"
)

// uhhuh begins what the kernel says of an NMI that nobody claims.
const uhhuh = "Uhhuh. NMI received for unknown reason"

var nmiChecks = []check{
	{"with no reader an NMI is passed on", passedOn},
	{"an NMI wakes two readers", twoReaders},
	{"a Device hears a self-test and an outage", deviceHears},
	{"NMIs of other drivers are not ours", localNMIs},
	{"an NMI reaches a reader in time", latency},
}

func passedOn(m *machine) error {
	before, err := m.statsOf()
	if err != nil {
		return err
	}
	mark, err := m.log.mark()
	if err != nil {
		return err
	}
	m.askForNMI(0)
	if err := m.log.expect(mark, uhhuh); err != nil {
		return err
	}
	time.Sleep(debounce) // the other CPUs
	after, err := m.statsOf()
	if err != nil {
		return err
	}
	if after.PassedOn != before.PassedOn+uint64(m.nmiCPUs) || after.Events != before.Events {
		return fmt.Errorf("before %+v, after %+v: want %d passed on", before, after, m.nmiCPUs)
	}
	return nil
}

// statsOf asks without a reader: the descriptor is closed again before anything can happen.
func (m *machine) statsOf() (abi.Stats, error) {
	f, err := open(unix.O_RDONLY)
	if err != nil {
		return abi.Stats{}, err
	}
	defer f.close()
	return f.stats()
}

func twoReaders(m *machine) error {
	before, err := m.statsOf()
	if err != nil {
		return err
	}
	mark, err := m.log.mark()
	if err != nil {
		return err
	}
	var files [2]file
	for i := range files {
		if files[i], err = open(unix.O_RDWR | unix.O_NONBLOCK); err != nil {
			return err
		}
		defer files[i].close()
	}
	asked := monotonic()
	m.askForNMI(0)
	a, err := files[0].next()
	if err != nil {
		return err
	}
	now := monotonic()
	b, err := files[1].next()
	if err != nil {
		return err
	}
	if a != b || a.Kind != abi.Outage || a.Reason != abi.ReasonUnknown || a.Lost != 0 || a.TimeNS < asked || a.TimeNS > now {
		return fmt.Errorf("between %d and %d: %+v and %+v", asked, now, a, b)
	}
	settle()
	if line, err := m.log.find(mark, uhhuh); err != nil || line != "" {
		return fmt.Errorf("the NMI was claimed and the kernel says %q, %v", line, err)
	}
	after, err := files[0].stats()
	if err != nil {
		return err
	}
	if after.Events != before.Events+1 || after.PassedOn != before.PassedOn || after.Spurious != before.Spurious+uint64(m.nmiCPUs-1) {
		return fmt.Errorf("one NMI on %d CPUs, before %+v, after %+v", m.nmiCPUs, before, after)
	}
	return nil
}

func deviceHears(m *machine) error {
	d, err := kmod.Open(kmod.DefaultPath)
	if err != nil {
		return err
	}
	defer d.Close()
	buffer := make([]byte, 4096)
	for _, c := range []struct {
		name string
		make func() error
		want saver.Event
	}{
		{"self-test", d.SelfTest, saver.Test},
		{"NMI", func() error { m.askForNMI(0); return nil }, saver.Outage},
	} {
		before := int64(monotonic())
		if err := c.make(); err != nil {
			return err
		}
		if ok, err := file(d.FD()).readable(patience); !ok {
			return fmt.Errorf("%s: no event, %v", c.name, err)
		}
		n, err := unix.Read(d.FD(), buffer)
		if err != nil {
			return err
		}
		event, at := d.Decode(buffer[:n])
		if event != c.want || at < before || at > int64(monotonic()) {
			return fmt.Errorf("%s: event %v at %d", c.name, event, at)
		}
	}
	settle()
	return nil
}

// localNMIs makes the kernel send itself NMIs, as perf, kgdb and kdump do: a backtrace of all CPUs.
func localNMIs(m *machine) error {
	f, err := open(unix.O_RDWR | unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	defer f.close()
	before, err := f.stats()
	if err != nil {
		return err
	}
	mark, err := m.log.mark()
	if err != nil {
		return err
	}
	if err := os.WriteFile("/proc/sysrq-trigger", []byte("l"), 0); err != nil {
		return err
	}
	for cpu := range 2 {
		if err := m.log.expect(mark, fmt.Sprintf("NMI backtrace for cpu %d", cpu)); err != nil {
			return err
		}
	}
	after, err := f.stats()
	if err != nil {
		return err
	}
	if after != before {
		return fmt.Errorf("before %+v, after %+v", before, after)
	}
	_, err = f.read(1)
	return wantError("read", err, unix.EAGAIN)
}

// latency measures as the saver is woken: poll, then read.
func latency(m *machine) error {
	f, err := open(unix.O_RDWR | unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	defer f.close()
	var woken, shortest, longest time.Duration
	shortest = time.Hour
	for range 10 {
		m.askForNMI(50 * time.Millisecond)
		if ok, err := f.readable(patience); !ok {
			return fmt.Errorf("no event, %v", err)
		}
		now := monotonic()
		events, err := f.read(1)
		if err != nil {
			return err
		}
		woken = time.Duration(now - events[0].TimeNS)
		shortest, longest = min(shortest, woken), max(longest, woken)
		settle()
	}
	s, err := f.stats()
	if err != nil {
		return err
	}
	m.say("figure nmi-to-poll shortest %v, longest of 10 %v", shortest, longest)
	m.say("figure nmi-to-irq-work last %v, longest %v", time.Duration(s.WakeupLastNS), time.Duration(s.WakeupMaxNS))
	m.say("figure nmi-to-first-read last %v, longest %v", time.Duration(s.ReadLastNS), time.Duration(s.ReadMaxNS))
	switch {
	case s.WakeupLastNS == 0 || s.WakeupLastNS > s.WakeupMaxNS || s.ReadLastNS < s.WakeupLastNS || s.ReadLastNS > s.ReadMaxNS:
		return fmt.Errorf("figures that cannot be: %+v", s)
	case uint64(woken) < s.WakeupLastNS || uint64(woken) > s.ReadLastNS:
		return fmt.Errorf("woken after %v, which is not between: %+v", woken, s)
	case shortest > 50*time.Millisecond: // a few ms even under emulation
		return errors.New("an NMI takes too long")
	}
	return nil
}
