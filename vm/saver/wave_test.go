package saver

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/vm/record"
)

// machinery is a host's Hardware that notes, whenever it is asked for something, which guests are committed.
type machinery struct {
	guests []*guest
	refuse error
	back   bool // what Park reports

	flushes []int // guests committed when each flush began
	flushed []int64
	parks   []int // the same for each park
}

func (m *machinery) Flush() error {
	m.flushes = append(m.flushes, m.committed())
	m.flushed = append(m.flushed, monotonic())
	return m.refuse
}

func (m *machinery) Park(time.Duration) (bool, error) {
	m.parks = append(m.parks, m.committed())
	return m.back, nil
}

func (m *machinery) committed() int {
	n := 0
	for _, g := range m.guests {
		if rec, err := g.area.Latest(); err == nil && rec.Status == record.StatusSaved {
			n++
		}
	}
	return n
}

// behind boots n guests whose RAM lies behind volatile caches.
func (r *rig) behind(n int, opt Options) []*guest {
	var guests []*guest
	for i := range n {
		opt.Name, opt.Priority, opt.VolatileCaches = fmt.Sprintf("vm%d", i), n-i, true
		guests = append(guests, r.boot(opt))
	}
	return guests
}

// Every record is committed after a flush that began when its guest had stopped and its state was in NVRAM.
func TestCommitFollowsFlush(t *testing.T) {
	for _, inFlight := range []int{1, 2, 8} {
		t.Run(fmt.Sprint(inFlight), func(t *testing.T) {
			r := newRig(t, Config{InFlight: inFlight})
			m := &machinery{guests: r.behind(5, Options{})}
			check(t, r.saver.SetHardware(m))
			result := r.save()
			for _, g := range m.guests {
				g.expectSaved(result)
				tm, between := g.times(result), false
				for _, at := range m.flushed {
					between = between || at > tm.stopped && at > tm.copied && at < tm.committed
				}
				if !between {
					t.Errorf("%s: no flush between its copy and its commit: %+v, flushes at %v", g.target.Name(), tm, m.flushed)
				}
			}
			if m.flushes[0] != 0 {
				t.Errorf("%d guests were committed before the first flush", m.flushes[0])
			}
			if most := (5+inFlight-1)/inFlight + 1; inFlight > 1 && len(m.flushes) > most {
				t.Errorf("%d flushes for 5 guests in waves of %d", len(m.flushes), inFlight)
			}
			if names := stepNames(m.guests[0].of(result)); names != "stop dump check copy flush commit" {
				t.Errorf("steps of the result: %s", names)
			}
			rec, err := m.guests[0].area.Latest()
			check(t, err)
			if n := len(rec.Steps); rec.Steps[n-2].Code != record.StepFlush || rec.Steps[n-1].Code != record.StepCommit {
				t.Errorf("steps of the record: %+v", rec.Steps)
			}
		})
	}
}

func stepNames(v VMResult) string {
	var names string
	for i, s := range v.Steps {
		if i > 0 {
			names += " "
		}
		names += s.Name
	}
	return names
}

// Caches that cannot be written back leave no record that says otherwise, and the guests go on afterwards.
func TestFlushFails(t *testing.T) {
	r := newRig(t, Config{})
	m := &machinery{guests: r.behind(2, Options{}), refuse: errMedium}
	check(t, r.saver.SetHardware(m))
	result := r.save()
	for _, g := range m.guests {
		g.expectUnsaved(result, "CPU caches")
	}
	m.refuse = nil
	for _, g := range m.guests {
		check(t, g.run())
	}
	result = r.save()
	for _, g := range m.guests {
		g.expectSaved(result)
	}
}

// Without hardware an operator's save writes back line by line; an outage does so only where that was allowed.
func TestFlushLineByLine(t *testing.T) {
	for _, c := range []struct {
		name                 string
		outage, slow, broken bool
		saved                bool
	}{
		{"operator", false, false, false, true},
		{"operator, failing", false, false, true, false},
		{"outage", true, false, false, false},
		{"outage, allowed", true, true, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, Config{})
			calls := 0
			g := r.behind(1, Options{SlowFlush: c.slow, FlushRAM: func() error {
				calls++
				if c.broken {
					return errMedium
				}
				return nil
			}})[0]
			var result *Result
			if c.outage {
				check(t, r.saver.Simulate(testContext(t), Now()))
				result = r.outage()
			} else {
				result = r.save()
			}
			if c.saved {
				g.expectSaved(result)
			} else {
				g.expectUnsaved(result, "CPU caches")
			}
			if want := map[bool]int{true: 0, false: 1}[c.outage && !c.slow]; calls != want {
				t.Errorf("RAM was written back %d times, want %d", calls, want)
			}
		})
	}
}

// The host is parked once, after the last commit of an outage, and the news that power is back is passed on.
func TestPark(t *testing.T) {
	r := newRig(t, Config{Park: time.Second})
	m := &machinery{guests: r.behind(3, Options{}), back: true}
	check(t, r.saver.SetHardware(m))
	r.save()
	if len(m.parks) != 0 {
		t.Error("an operator's save has parked the host")
	}
	for _, g := range m.guests {
		check(t, g.run())
	}
	check(t, r.saver.Simulate(testContext(t), Now()))
	result := r.outage()
	if len(m.parks) != 1 || m.parks[0] != 3 {
		t.Errorf("parks, by guests that were committed: %v", m.parks)
	}
	if result.Parked.End == 0 || result.Parked.Start < m.flushed[len(m.flushed)-1] {
		t.Errorf("the park is not in the result: %+v", result.Parked)
	}
	expectPowerBack(t, r, true)
	check(t, r.saver.Clear())
	expectPowerBack(t, r, false)
}

func expectPowerBack(t *testing.T, r *rig, want bool) {
	t.Helper()
	patience := limit
	if !want {
		patience = 50 * time.Millisecond
	}
	select {
	case <-r.saver.PowerBack():
		if !want {
			t.Error("power was reported back once more")
		}
	case <-time.After(patience):
		if want {
			t.Error("nobody was told that power is back")
		}
	}
}

// Power that comes back is news only during an outage; Clear forgets what was not read.
func TestPowerBack(t *testing.T) {
	r := newRig(t, Config{})
	g := r.boot(Options{Name: "db"})
	p := r.pipe("line")
	p.say("b")
	expectPowerBack(t, r, false)
	p.say("x")
	r.outage()
	p.say("b")
	expectPowerBack(t, r, true)
	p.say("b")
	time.Sleep(20 * time.Millisecond)
	check(t, r.saver.Clear())
	check(t, g.run())
	expectPowerBack(t, r, false)
	p.say("x")
	g.expectSaved(r.outage())
	expectPowerBack(t, r, false)
}

// A test event comes through with its latency and saves nothing.
func TestTestEvent(t *testing.T) {
	r := newRig(t, Config{})
	r.boot(Options{Name: "db"})
	r.pipe("line").say("t")
	select {
	case result := <-r.saver.Tests():
		if result.Source != "line" || result.Latency < 0 || result.Latency > limit {
			t.Errorf("%+v", result)
		}
	case <-time.After(limit):
		t.Error("the test event was lost")
	}
	if _, err := r.saver.Save(testContext(t), nil); errors.Is(err, ErrOutage) {
		t.Error("a test event began an outage")
	}
}
