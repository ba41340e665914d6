package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/lab/sham"
	"github.com/nv-hypervisor/nv-hypervisor/pod"
	"github.com/nv-hypervisor/nv-hypervisor/pod/gpio"
	"github.com/nv-hypervisor/nv-hypervisor/vm/saver"
)

var gpioChecks = []check{
	{"a line is found by name, by number and by its chip", findLine},
	{"a line that is not there, ambiguous or in use is refused", refuseLine},
	{"edges are events with the time of the kernel", edgesAreEvents},
	{"an active line announces at the start", startActive},
	{"active low is the other way round", activeLow},
	{"bias is passed on", passBias},
	{"a short pulse is debounced", debounce},
	{"a full queue never loses the last state", overrun},
	{"the saver's thread hears the line", saverHears},
	{"a watcher follows the line", watchLine},
}

// replugChecks plug a controller in again whose line was in use when it was unplugged.
var replugChecks = []check{
	{"a source says that its controller is gone", sourceUnplugged},
	{"a watcher finds its controller when it is plugged in again", watchReplugged},
}

// unplugChecks are for Linux 6.1, which keeps such a controller for ever (gpiod_free gives up its references only
// while there is a chip) and, when another one with named lines comes, follows its null pointer: seen in gpio_name_to_desc.
var unplugChecks = []check{
	{"a watcher says that its controller is gone", watchUnplugged},
}

var line = gpio.Config{Line: "POWER_FAIL"}

func pull(active bool) error {
	if active {
		return set("level", "1")
	}
	return set("level", "0")
}

func withSource(c gpio.Config, do func(*gpio.Source) error) error {
	s, err := gpio.Open(c)
	if err != nil {
		return err
	}
	return errors.Join(do(s), s.Close())
}

// hear waits for what the source announces next, as the saver does.
func hear(s *gpio.Source) (pod.Event, int64, error) {
	fds := []unix.PollFd{{Fd: int32(s.FD()), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, int(patience.Milliseconds()))
	if err != nil || n != 1 {
		return saver.None, 0, fmt.Errorf("no edge came: %d ready, %v", n, err)
	}
	p := make([]byte, 4096)
	if n, err = unix.Read(s.FD(), p); err != nil {
		return saver.None, 0, fmt.Errorf("read: %w", err)
	}
	event, at := s.Decode(p[:n])
	return event, at, nil
}

func expect(s *gpio.Source, want pod.Event) (at int64, err error) {
	got, at, err := hear(s)
	if err == nil && got != want {
		err = fmt.Errorf("event %v: want %v", got, want)
	}
	return at, err
}

// silent tells whether nothing is to be read.
func silent(s *gpio.Source) error {
	if n, err := unix.Read(s.FD(), make([]byte, 4096)); err != unix.EAGAIN {
		return fmt.Errorf("read %d bytes, %v: want nothing there", n, err)
	}
	return nil
}

func monotonic() int64 {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano()
}

func findLine() error {
	for _, c := range []gpio.Config{
		line, {Chip: "/dev/gpiochip0", Line: "2"}, {Chip: "gpiochip0", Line: "POWER_FAIL"}, {Chip: "nvh-sham", Line: "2"},
	} {
		err := withSource(c, func(s *gpio.Source) error {
			if err := pull(true); err != nil {
				return err
			}
			if _, err := expect(s, saver.Outage); err != nil {
				return err
			}
			return errors.Join(s.Test(), pull(false))
		})
		if err != nil {
			return fmt.Errorf("%+v: %w", c, err)
		}
	}
	return nil
}

func refuseLine() error {
	for _, c := range []struct {
		config gpio.Config
		cause  error
		says   string
	}{
		{gpio.Config{Line: "POWER_GOOD"}, gpio.ErrNoLine, "gpioinfo"},
		{gpio.Config{Line: "TWICE"}, gpio.ErrNoLine, "give chip and number"},
		{gpio.Config{Line: "2"}, gpio.ErrNoLine, "gpioinfo"}, // of which chip?
		{gpio.Config{Chip: "/dev/gpiochip0", Line: "5"}, gpio.ErrNoLine, "has 5 lines"},
		{gpio.Config{Chip: "another", Line: "2"}, gpio.ErrNoLine, "gpioinfo"},
		{gpio.Config{Chip: "/dev/gpiochip9", Line: "2"}, gpio.ErrNoLine, "ls /dev/gpiochip"},
		{gpio.Config{Chip: "/dev/console", Line: "2"}, unix.ENOTTY, "not a GPIO chip"},
	} {
		if _, err := gpio.Open(c.config); !errors.Is(err, c.cause) || !strings.Contains(err.Error(), c.says) {
			return fmt.Errorf("%+v: %v, want %q", c.config, err, c.says)
		}
	}
	return withSource(line, func(*gpio.Source) error {
		if _, err := gpio.Open(line); !errors.Is(err, gpio.ErrInUse) || !strings.Contains(err.Error(), `by "nvhd"`) {
			return fmt.Errorf("a line in use: %v", err)
		}
		return nil
	})
}

func edgesAreEvents() error {
	return withSource(line, func(s *gpio.Source) error {
		if event, _ := s.Start(); event != saver.None {
			return fmt.Errorf("at rest it announces %v", event)
		}
		for _, want := range []pod.Event{saver.Outage, saver.PowerBack, saver.Outage, saver.PowerBack} {
			before := monotonic()
			if err := pull(want == saver.Outage); err != nil {
				return err
			}
			after := monotonic()
			if at, err := expect(s, want); err != nil {
				return err
			} else if at < before || at > after {
				return fmt.Errorf("event at %d: the line was pulled between %d and %d", at, before, after)
			}
		}
		// A pulse that is over when it is read.
		if err := errors.Join(pull(true), settle(), pull(false), settle()); err != nil {
			return err
		}
		_, err := expect(s, saver.PowerBack)
		return errors.Join(err, silent(s))
	})
}

// settle lets the kernel's thread of the interrupt read the level before it changes again.
func settle() error {
	time.Sleep(5 * time.Millisecond)
	return nil
}

func startActive() error {
	// Linux keeps an edge that nobody listens to, and may give it to whoever listens next (check_irq_resend in
	// kernel/irq/resend.c). So somebody else hears this one, and the one that a check before has left.
	err := withSource(line, func(s *gpio.Source) error {
		if err := pull(true); err != nil {
			return err
		}
		_, err := expect(s, saver.Outage)
		return err
	})
	if err != nil {
		return err
	}
	return withSource(line, func(s *gpio.Source) error {
		if event, _ := s.Start(); event != saver.Outage {
			return fmt.Errorf("it announces %v", event)
		}
		if err := errors.Join(silent(s), pull(false)); err != nil {
			return err
		}
		_, err := expect(s, saver.PowerBack)
		return err
	})
}

func activeLow() error {
	c := line
	c.ActiveLow = true
	return withSource(c, func(s *gpio.Source) error {
		if event, _ := s.Start(); event != saver.Outage {
			return fmt.Errorf("low, it announces %v", event)
		}
		if err := pull(true); err != nil {
			return err
		}
		if _, err := expect(s, saver.PowerBack); err != nil {
			return err
		}
		if err := pull(false); err != nil {
			return err
		}
		_, err := expect(s, saver.Outage)
		return err
	})
}

func passBias() error {
	seen := map[string]string{}
	for _, bias := range []string{"pull-up", "pull-down", "disabled"} {
		c := line
		c.Bias = bias
		if err := withSource(c, func(*gpio.Source) error { return nil }); err != nil {
			return fmt.Errorf("%s: %w", bias, err)
		}
		got, err := os.ReadFile(sham.Parameters + "bias")
		if err != nil {
			return err
		}
		if other := seen[string(got)]; other != "" || strings.HasPrefix(string(got), "-1") {
			return fmt.Errorf("%s: the driver was asked for %s, as for %q", bias, got, other)
		}
		seen[string(got)] = bias
	}
	return nil
}

func debounce() error {
	c := line
	c.Debounce = 300 * time.Millisecond
	return withSource(c, func(s *gpio.Source) error {
		if err := errors.Join(pull(true), settle(), pull(false)); err != nil {
			return err
		}
		time.Sleep(2 * c.Debounce)
		if err := silent(s); err != nil {
			return fmt.Errorf("a short pulse: %w", err)
		}
		if err := pull(true); err != nil {
			return err
		}
		_, err := expect(s, saver.Outage)
		return err
	})
}

// queued is how many edges the kernel keeps for a source, and edge is the size of one in bytes.
const (
	queued = 64
	edge   = 48
)

// overrun fills the queue three times and a half, once for each last state.
func overrun() error {
	return withSource(line, func(s *gpio.Source) error {
		for _, last := range []bool{true, false} {
			for i := range 224 {
				if err := errors.Join(pull(i%2 == 0), settle()); err != nil {
					return err
				}
			}
			if err := errors.Join(pull(last), settle()); err != nil {
				return err
			}
			p := make([]byte, 4096)
			n, err := unix.Read(s.FD(), p)
			if err != nil {
				return err
			}
			if edges := n / edge; edges != queued {
				return fmt.Errorf("%d edges were queued: want the %d that the queue holds", edges, queued)
			}
			want := saver.PowerBack
			if last {
				want = saver.Outage
			}
			if event, _ := s.Decode(p[:n]); event != want {
				return fmt.Errorf("after %d bytes: %v, want %v", n, event, want)
			}
			if err := silent(s); err != nil {
				return fmt.Errorf("one read does not take all: %w", err)
			}
		}
		return nil
	})
}

// saverHears is the whole way: the thread that saves VMs, of which there are none here.
func saverHears() error {
	s, err := saver.New(saver.Config{Realtime: true})
	if err != nil {
		return err
	}
	defer s.Close()
	return withSource(line, func(source *gpio.Source) error {
		if err := s.AddSource(source); err != nil {
			return err
		}
		if err := pull(true); err != nil {
			return err
		}
		result, err := outage(s)
		if err != nil {
			return err
		}
		if result.Source != source.Name() || result.EventNS == 0 || result.WokenNS < result.EventNS {
			return fmt.Errorf("outage by %q at %d, woken at %d", result.Source, result.EventNS, result.WokenNS)
		}
		say("figure from the edge to the thread: %v (emulated)", time.Duration(result.WokenNS-result.EventNS))
		if err := pull(false); err != nil {
			return err
		}
		select {
		case <-s.PowerBack():
		case <-time.After(patience):
			return errors.New("the return of power was not heard")
		}
		return s.Clear()
	})
}

func outage(s *saver.Saver) (*saver.Result, error) {
	select {
	case r := <-s.Outages():
		return r, nil
	case <-time.After(patience):
		return nil, errors.New("the outage was not heard")
	}
}

func sourceUnplugged() error {
	s, err := saver.New(saver.Config{})
	if err != nil {
		return err
	}
	defer s.Close()
	return withSource(line, func(source *gpio.Source) error {
		if err := s.AddSource(source); err != nil {
			return err
		}
		if err := set("present", "0"); err != nil {
			return err
		}
		if err := source.Test(); !errors.Is(err, unix.ENODEV) || !strings.Contains(err.Error(), "controller is gone") {
			return fmt.Errorf("test: %v", err)
		}
		return nil
	})
}

type step struct {
	do   func() error
	want pod.Condition
}

var (
	rest   = step{func() error { return nil }, pod.Mains}
	fails  = step{func() error { return pull(true) }, pod.LowBattery}
	back   = step{func() error { return pull(false) }, pod.Mains}
	unplug = step{func() error { return set("present", "0") }, pod.Unknown}
	replug = step{func() error { return errors.Join(pull(true), set("present", "1")) }, pod.LowBattery}
)

func watchLine() error      { return followLine(rest, fails, back) }
func watchUnplugged() error { return followLine(rest, fails, unplug) }
func watchReplugged() error { return followLine(rest, unplug, replug, back) }

// followLine has a watcher report the steps one by one, with their times.
func followLine(steps ...step) error {
	c := line
	c.Tier, c.Means = "battery", "low-battery"
	w, err := gpio.New(c)
	if err != nil {
		return err
	}
	before := time.Now() // the first report may come before the first step
	run := watch(w)
	defer run.stop()
	for i, step := range steps {
		if err := step.do(); err != nil {
			return err
		}
		r, err := run.next(step.want)
		if err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
		if r.At.Before(before.Add(-time.Millisecond)) || r.At.After(time.Now()) {
			return fmt.Errorf("step %d: at %v, which is %v after it", i, r.At, r.At.Sub(before))
		}
		connected := step.want != pod.Unknown
		if h := w.Health(); h.Connected != connected {
			return fmt.Errorf("step %d: health %+v", i, h)
		}
		if err := w.Test(context.Background()); (err == nil) != connected {
			return fmt.Errorf("step %d: test: %w", i, err)
		}
		before = time.Now()
	}
	return nil
}
