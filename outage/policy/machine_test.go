package policy

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/pod"
)

const second = time.Second

// driver drives a machine by a clock of its own.
type driver struct {
	*Machine
	t       *testing.T
	now     time.Time
	out     Output
	asked   int // Dones handed in
	called  int
	outages int
	seen    map[[2]Phase]bool
}

var begin = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// need of all machines in these tests.
const need = second

func drive(t *testing.T, redundant bool, sources ...Source) *driver {
	return &driver{Machine: New(sources, redundant, func() time.Duration { return need }), t: t, now: begin, seen: map[[2]Phase]bool{}}
}

// do gives one input.
func (d *driver) do(in func(m *Machine, now time.Time) Output) {
	before := d.phase
	d.out = in(d.Machine, d.now)
	for _, done := range d.out.Done {
		done()
	}
	d.seen[[2]Phase{before, d.phase}] = true
	if len(d.out.Done) != 0 && (d.phase == Saving || d.phase == Clearing) && before == d.phase {
		d.t.Errorf("one who waits was told in %v", d.phase)
	}
	if d.out.Save != nil && (d.phase != Saving || d.id != "") {
		d.t.Errorf("a save in %v, outage %q", d.phase, d.id)
	}
	if (d.out.Clear != "") != (before != Clearing && d.phase == Clearing) {
		d.t.Errorf("clear %q from %v to %v", d.out.Clear, before, d.phase)
	}
}

// step is an input at a time since the beginning, and what follows from it.
type step struct {
	at    time.Duration
	in    func(d *driver)
	phase Phase
}

func report(index int, r pod.Report) func(*driver) {
	return func(d *driver) {
		r.At = d.now
		d.do(func(m *Machine, now time.Time) Output { return m.Report(now, index, r) })
	}
}

func (d *driver) done() { d.called++ }

// wait is a report somebody waits for.
func wait(index int, c pod.Condition) func(*driver) {
	return func(d *driver) {
		d.asked++
		report(index, pod.Report{Condition: c, Runtime: -1, Charge: -1, Done: d.done})(d)
	}
}

func is(c pod.Condition) func(*driver) { return says(0, c) }

// says is a report with half an hour of battery left.
func says(index int, c pod.Condition) func(*driver) {
	return report(index, pod.Report{Condition: c, Detail: "words", Runtime: 30 * time.Minute, Charge: 80})
}

func left(runtime time.Duration) func(*driver) {
	return report(0, pod.Report{Condition: pod.OnBattery, Runtime: runtime, Charge: -1})
}

func charge(percent float64) func(*driver) {
	return report(0, pod.Report{Condition: pod.OnBattery, Runtime: -1, Charge: percent})
}

func tick(d *driver) { d.do((*Machine).Tick) }

// saved is the good end of a save: the outage is noted, then the call returns.
func saved(d *driver) {
	began(d)
	id := d.id
	d.do(func(m *Machine, now time.Time) Output { return m.Saved(now, id, nil) })
}

func failed(err error) func(*driver) {
	return func(d *driver) { d.do(func(m *Machine, now time.Time) Output { return m.Saved(now, "", err) }) }
}

func began(d *driver) {
	d.outages++
	d.do(func(m *Machine, now time.Time) Output { return m.Began(now, fmt.Sprint("outage ", d.outages)) })
}

func ended(d *driver) {
	d.do(func(m *Machine, now time.Time) Output { return m.Ended(now, m.id, false) })
}

func endedByHand(d *driver) {
	d.do(func(m *Machine, now time.Time) Output { return m.Ended(now, m.id, true) })
}

func clearFailed(d *driver) {
	d.do(func(m *Machine, now time.Time) Output { return m.Cleared(now, m.id) })
}

// of makes a source of a tier with its default rules, changed.
func of(tier pod.Tier, change func(*Rules)) Source {
	s := Source{Name: tier.String(), Tier: tier, Rules: Defaults(tier)}
	if change != nil {
		change(&s.Rules)
	}
	return s
}

var ups = of(pod.Battery, nil)

// script is what happens to a machine.
type script struct {
	name      string
	redundant bool
	sources   []Source
	steps     []step
	cause     string // of the last save; empty: there was none
}

var scripts = []script{
	{"too short to count", false, []Source{ups}, []step{
		{0, is(pod.OnBattery), Calm}, {1999 * time.Millisecond, tick, Calm}, {1999 * time.Millisecond, is(pod.Mains), Calm}, {time.Hour, tick, Calm},
	}, ""},
	{"ridden through", false, []Source{ups}, []step{
		{0, is(pod.OnBattery), Calm}, {2 * second, tick, Riding}, {60 * second, is(pod.Mains), Riding}, {61 * second, tick, Riding}, {62 * second, tick, Calm},
	}, ""},
	{"low battery while riding", false, []Source{ups}, []step{
		{0, is(pod.OnBattery), Calm}, {2 * second, tick, Riding}, {9 * second, is(pod.LowBattery), Saving}, {9 * second, saved, Saved},
		{20 * second, is(pod.OnBattery), Saved}, {30 * second, is(pod.Mains), Returning}, {39 * second, tick, Returning}, {40 * second, tick, Clearing}, {40 * second, ended, Calm},
	}, "low battery"},
	{"low battery from nowhere is not debounced", false, []Source{ups}, []step{{0, is(pod.LowBattery), Saving}}, "low battery"},
	{"going down beats all", false, []Source{ups}, []step{{0, is(pod.OnBattery), Calm}, {1 * second, is(pod.Going), Saving}}, "the host is going down"},
	{"power back during the dump", false, []Source{ups}, []step{
		{0, is(pod.LowBattery), Saving}, {1 * second, is(pod.Mains), Saving}, {2 * second, saved, Returning}, {11 * second, tick, Clearing}, {11 * second, ended, Calm},
	}, "low battery"},
	{"power back during the dump, for long enough", false, []Source{ups}, []step{
		{0, is(pod.LowBattery), Saving}, {1 * second, is(pod.Mains), Saving}, {20 * second, saved, Clearing},
	}, "low battery"},
	{"power comes and goes after the save", false, []Source{ups}, []step{
		{0, is(pod.LowBattery), Saving}, {0, saved, Saved}, {5 * second, is(pod.Mains), Returning}, {14 * second, is(pod.OnBattery), Saved},
		{20 * second, is(pod.Mains), Returning}, {29 * second, is(pod.Mains), Returning}, {30 * second, tick, Clearing}, {30 * second, ended, Calm},
	}, "low battery"},
	{"power goes again while the guests are to go on", false, []Source{ups}, []step{
		{0, is(pod.LowBattery), Saving}, {0, saved, Saved}, {1 * second, is(pod.Mains), Returning}, {11 * second, tick, Clearing},
		{11 * second, is(pod.LowBattery), Clearing}, {12 * second, ended, Saving}, {12 * second, saved, Saved},
	}, "low battery"},
	{"on battery again while the guests are to go on", false, []Source{ups}, []step{
		{0, is(pod.LowBattery), Saving}, {0, saved, Saved}, {1 * second, is(pod.Mains), Returning}, {11 * second, tick, Clearing},
		{11 * second, is(pod.OnBattery), Clearing}, {14 * second, ended, Riding},
	}, "low battery"},
	{"a clear that fails is tried again", false, []Source{ups}, []step{
		{0, is(pod.LowBattery), Saving}, {0, saved, Saved}, {1 * second, is(pod.Mains), Returning}, {11 * second, tick, Clearing},
		{12 * second, clearFailed, Returning}, {12500 * time.Millisecond, tick, Returning}, {13 * second, tick, Clearing}, {13 * second, ended, Calm},
	}, "low battery"},
	{"a clear that fails when power has gone again", false, []Source{ups}, []step{
		{0, is(pod.LowBattery), Saving}, {0, saved, Saved}, {1 * second, is(pod.Mains), Returning}, {11 * second, tick, Clearing},
		{11 * second, is(pod.OnBattery), Clearing}, {12 * second, clearFailed, Saved}, {13 * second, clearFailed, Saved},
	}, "low battery"},
	{"a save that fails is tried again", false, []Source{ups}, []step{
		{0, is(pod.LowBattery), Saving}, {0, failed(errors.New("no")), Riding}, {999 * time.Millisecond, tick, Riding}, {1 * second, tick, Saving}, {1 * second, saved, Saved},
	}, "low battery"},
	{"a save that fails, and power is back", false, []Source{ups}, []step{
		{0, is(pod.LowBattery), Saving}, {1 * second, is(pod.Mains), Saving}, {1 * second, failed(errors.New("no")), Calm}, {5 * second, tick, Calm},
	}, "low battery"},
	{"a save that fails is not needed any more", false, []Source{of(pod.Battery, func(r *Rules) { r.Ride = false })}, []step{
		{0, is(pod.OnBattery), Calm}, {2 * second, tick, Saving}, {3 * second, is(pod.Mains), Saving}, {3 * second, failed(errors.New("no")), Riding}, {5 * second, tick, Calm},
	}, "on battery"},
	{"save at once", false, []Source{of(pod.Battery, func(r *Rules) { r.Ride, r.Debounce = false, 0 })}, []step{{0, is(pod.OnBattery), Saving}}, "on battery"},
	{"save as soon as it counts", false, []Source{of(pod.Battery, func(r *Rules) { r.Ride = false })}, []step{{0, is(pod.OnBattery), Calm}, {2 * second, tick, Saving}}, "on battery"},
	{"save after a time", false, []Source{of(pod.Battery, func(r *Rules) { r.SaveAfter = time.Minute })}, []step{
		{0, is(pod.OnBattery), Calm}, {2 * second, tick, Riding}, {59 * second, tick, Riding}, {60 * second, tick, Saving},
	}, "on battery for 1m0s"},
	{"short returns of power do not stop the clock", false, []Source{of(pod.Battery, func(r *Rules) { r.SaveAfter = time.Minute })}, []step{
		{0, is(pod.OnBattery), Calm}, {2 * second, tick, Riding}, {30 * second, is(pod.Mains), Riding}, {31 * second, is(pod.OnBattery), Riding},
		{59 * second, is(pod.Mains), Riding}, {60 * second, tick, Riding}, {60 * second, is(pod.OnBattery), Saving},
	}, "on battery for 1m0s"},
	{"power in between does", false, []Source{of(pod.Battery, func(r *Rules) { r.SaveAfter = time.Minute })}, []step{
		{0, is(pod.OnBattery), Calm}, {2 * second, tick, Riding}, {30 * second, is(pod.Mains), Riding}, {33 * second, is(pod.OnBattery), Calm},
		{61 * second, tick, Riding}, {92 * second, tick, Riding}, {93 * second, tick, Saving},
	}, "on battery for 1m0s"},
	{"the runtime counts down between estimates", false, []Source{ups}, []step{ // reserve 60 s + 3 × 1 s
		{0, left(100 * second), Calm}, {2 * second, tick, Riding}, {36 * second, tick, Riding}, {36 * second, left(70 * second), Riding}, {42 * second, tick, Riding}, {43 * second, tick, Saving},
	}, "no more than 1m3s of battery left"},
	{"the runtime is short from the start, which is debounced all the same", false, []Source{ups}, []step{
		{0, left(5 * second), Calm}, {1 * second, tick, Calm}, {2 * second, tick, Saving},
	}, "no more than 1m3s of battery left"},
	{"the charge", false, []Source{ups}, []step{{0, charge(11), Calm}, {2 * second, tick, Riding}, {time.Hour, tick, Riding}, {time.Hour, charge(10), Saving}}, "the battery is down to 10 %"},
	{"nothing tells how long it lasts", false, []Source{ups}, []step{
		{0, left(-1), Calm}, {2 * second, tick, Riding}, {9 * second, tick, Riding}, {10 * second, tick, Saving},
	}, "on battery for 10s, and nothing tells how long it lasts"},
	{"lost on battery", false, []Source{ups}, []step{
		{0, is(pod.OnBattery), Calm}, {2 * second, tick, Riding}, {60 * second, is(pod.Unknown), Riding}, {65 * second, is(pod.Unknown), Riding},
		{70 * second, tick, Saving}, {70 * second, saved, Saved}, {time.Hour, tick, Saved}, {time.Hour, is(pod.Mains), Returning},
	}, "on battery, and lost for 10s"},
	{"lost on battery, and found in time", false, []Source{ups}, []step{
		{0, is(pod.OnBattery), Calm}, {2 * second, tick, Riding}, {60 * second, is(pod.Unknown), Riding}, {69 * second, is(pod.OnBattery), Riding}, {99 * second, tick, Riding},
		{100 * second, is(pod.Unknown), Riding}, {101 * second, is(pod.Mains), Riding}, {103 * second, tick, Calm},
	}, ""},
	{"lost during the debounce", false, []Source{ups}, []step{
		{0, is(pod.OnBattery), Calm}, {1 * second, is(pod.Unknown), Calm}, {2 * second, tick, Riding}, {11 * second, tick, Saving},
	}, "on battery, and lost for 10s"},
	{"lost while power returns", false, []Source{ups}, []step{
		{0, is(pod.LowBattery), Saving}, {0, saved, Saved}, {5 * second, is(pod.Mains), Returning}, {6 * second, is(pod.Unknown), Saved}, {time.Hour, tick, Saved},
		{time.Hour, is(pod.Mains), Returning}, {time.Hour + 9*second, tick, Returning}, {time.Hour + 10*second, tick, Clearing},
	}, "low battery"},
	{"never reached, or lost on mains", false, []Source{ups}, []step{
		{0, is(pod.Unknown), Calm}, {time.Hour, tick, Calm}, {time.Hour, is(pod.Mains), Calm}, {2 * time.Hour, is(pod.Unknown), Calm}, {3 * time.Hour, tick, Calm},
	}, ""},
	{"two sources, one outage", false, []Source{ups, ups}, []step{
		{0, says(0, pod.OnBattery), Calm}, {1 * second, says(1, pod.OnBattery), Calm}, {2 * second, tick, Riding}, {9 * second, says(1, pod.LowBattery), Saving},
		{9 * second, says(0, pod.LowBattery), Saving}, {9 * second, saved, Saved}, {20 * second, says(0, pod.Mains), Saved}, {25 * second, says(1, pod.Mains), Returning},
		{34 * second, tick, Returning}, {35 * second, tick, Clearing}, {35 * second, ended, Calm},
	}, "low battery"},
	{"of contradicting sources the worst is believed", false, []Source{ups, ups}, []step{
		{0, says(0, pod.Mains), Calm}, {0, says(1, pod.LowBattery), Saving}, {0, saved, Saved}, {time.Hour, says(0, pod.Mains), Saved},
	}, "low battery"},
	{"redundant sources: one has power", true, []Source{ups, ups}, []step{
		{0, says(0, pod.Mains), Calm}, {0, says(1, pod.LowBattery), Calm}, {9 * second, says(0, pod.OnBattery), Riding}, {11 * second, tick, Riding},
		{20 * second, says(0, pod.LowBattery), Saving}, {20 * second, saved, Saved}, {30 * second, says(1, pod.Mains), Returning}, {40 * second, tick, Clearing},
	}, "low battery"},
	{"redundant sources: the other one is lost", true, []Source{ups, ups}, []step{
		{0, says(0, pod.Mains), Calm}, {0, says(1, pod.LowBattery), Calm}, {9 * second, says(0, pod.Unknown), Saving}, {9 * second, saved, Saved},
		{20 * second, says(0, pod.Mains), Returning}, {29 * second, tick, Returning}, {30 * second, tick, Clearing},
	}, "low battery"},
	{"redundant sources do not carry a shutdown", true, []Source{ups, of(pod.Planned, nil)}, []step{
		{0, says(0, pod.Mains), Calm}, {9 * second, wait(1, pod.Going), Saving}, {9 * second, saved, Saved}, {19 * second, says(1, pod.Mains), Clearing},
	}, "the host is going down"},
	{"redundant sources: a battery that is low during a shutdown", true, []Source{ups, of(pod.Planned, nil)}, []step{
		{0, says(1, pod.Going), Saving}, {0, saved, Saved}, {1 * second, says(0, pod.LowBattery), Saved}, {2 * second, says(1, pod.Mains), Saved}, {3 * second, says(0, pod.Mains), Returning},
	}, "the host is going down"},
	{"a shutdown, cancelled", false, []Source{of(pod.Planned, nil)}, []step{
		{0, is(pod.Mains), Calm}, {1 * second, wait(0, pod.Going), Saving}, {2 * second, saved, Saved}, {3 * second, is(pod.Mains), Clearing}, {3 * second, ended, Calm},
	}, "the host is going down"},
	{"a shutdown whose source is lost is not cancelled", false, []Source{of(pod.Planned, nil)}, []step{
		{1 * second, wait(0, pod.Going), Saving}, {2 * second, saved, Saved}, {3 * second, is(pod.Unknown), Saved}, {time.Hour, tick, Saved},
	}, "the host is going down"},
	{"somebody waits, and the save fails", false, []Source{of(pod.Planned, nil)}, []step{
		{1 * second, wait(0, pod.Going), Saving}, {1 * second, wait(0, pod.Going), Saving}, {2 * second, failed(errors.New("no")), Riding}, {2 * second, wait(0, pod.Going), Riding}, {3 * second, tick, Saving}, {4 * second, saved, Saved},
	}, "the host is going down"},
	{"somebody waits for nothing", false, []Source{ups}, []step{{0, wait(0, pod.OnBattery), Calm}, {1 * second, wait(0, pod.Mains), Calm}}, ""},
	{"somebody waits during a clear", false, []Source{ups, of(pod.Planned, nil)}, []step{
		{0, is(pod.LowBattery), Saving}, {0, saved, Saved}, {1 * second, is(pod.Mains), Returning}, {11 * second, tick, Clearing},
		{11 * second, wait(1, pod.Going), Clearing}, {12 * second, ended, Saving}, {13 * second, saved, Saved},
	}, "the host is going down"},
	{"an outage of others", false, []Source{ups}, []step{
		{0, began, Elsewhere}, {0, is(pod.LowBattery), Elsewhere}, {1 * second, wait(0, pod.Going), Elsewhere}, {9 * second, is(pod.Mains), Elsewhere}, {time.Hour, tick, Elsewhere}, {time.Hour, ended, Calm},
	}, ""},
	{"an outage of others while riding, whose end is too early", false, []Source{ups}, []step{
		{0, is(pod.OnBattery), Calm}, {2 * second, tick, Riding}, {3 * second, began, Elsewhere}, {4 * second, is(pod.LowBattery), Elsewhere}, {5 * second, ended, Saving},
	}, "low battery"},
	{"an outage of others comes first", false, []Source{ups}, []step{
		{0, is(pod.LowBattery), Saving}, {0, began, Saving}, {0, failed(ErrUnderWay), Elsewhere}, {1 * second, is(pod.Mains), Elsewhere}, {time.Hour, ended, Calm},
	}, "low battery"},
	{"an outage of others comes first and is noted late", false, []Source{ups}, []step{
		{0, is(pod.LowBattery), Saving}, {0, failed(ErrUnderWay), Riding}, {0, began, Elsewhere},
	}, "low battery"},
	{"an outage of others comes first and is over", false, []Source{ups}, []step{
		{0, began, Elsewhere}, {0, ended, Calm}, {0, is(pod.LowBattery), Saving}, {0, failed(ErrUnderWay), Riding}, {1 * second, tick, Saving}, {1 * second, saved, Saved},
	}, "low battery"},
	{"another outage follows at once", false, []Source{ups}, []step{
		{0, is(pod.LowBattery), Saving}, {0, saved, Saved}, {1 * second, began, Elsewhere}, {2 * second, is(pod.Mains), Elsewhere}, {time.Hour, tick, Elsewhere}, {time.Hour, ended, Calm},
	}, "low battery"},
	{"another outage follows while power returns", false, []Source{ups}, []step{
		{0, is(pod.LowBattery), Saving}, {0, saved, Saved}, {1 * second, is(pod.Mains), Returning}, {2 * second, began, Elsewhere}, {3 * second, ended, Calm},
	}, "low battery"},
	{"another outage follows before the end is known", false, []Source{ups}, []step{
		{0, is(pod.LowBattery), Saving}, {0, saved, Saved}, {1 * second, is(pod.Mains), Returning}, {11 * second, tick, Clearing}, {11 * second, began, Elsewhere}, {12 * second, clearFailed, Elsewhere},
	}, "low battery"},
	{"ended by hand on battery: the ride begins anew", false, []Source{of(pod.Battery, func(r *Rules) { r.SaveAfter = time.Minute })}, []step{
		{0, is(pod.OnBattery), Calm}, {60 * second, tick, Saving}, {60 * second, saved, Saved}, {70 * second, endedByHand, Riding}, {129 * second, tick, Riding}, {130 * second, tick, Saving},
	}, "on battery for 1m0s"},
	{"ended by hand on low battery", false, []Source{ups}, []step{
		{0, is(pod.LowBattery), Saving}, {0, saved, Saved}, {70 * second, endedByHand, Riding}, {71 * second, is(pod.LowBattery), Riding}, {79 * second, tick, Riding}, {80 * second, tick, Saving},
	}, "low battery"},
	{"ended by hand, and then it gets worse", false, []Source{ups}, []step{
		{0, is(pod.LowBattery), Saving}, {0, saved, Saved}, {70 * second, endedByHand, Riding}, {71 * second, is(pod.Going), Saving},
	}, "the host is going down"},
	{"ended by hand, and then somebody asks again", false, []Source{of(pod.Planned, nil)}, []step{
		{0, wait(0, pod.Going), Saving}, {0, saved, Saved}, {1 * second, endedByHand, Riding}, {10 * second, tick, Riding}, {10 * second, wait(0, pod.Going), Saving}, {10 * second, saved, Saved},
	}, "the host is going down"},
	{"ended by hand with the source lost", false, []Source{ups}, []step{
		{0, is(pod.LowBattery), Saving}, {0, saved, Saved}, {1 * second, is(pod.Unknown), Saved}, {70 * second, endedByHand, Calm}, {time.Hour, tick, Calm},
	}, "low battery"},
	{"ended by hand while power returns", false, []Source{ups}, []step{
		{0, is(pod.LowBattery), Saving}, {0, saved, Saved}, {1 * second, is(pod.Mains), Returning}, {2 * second, endedByHand, Calm},
	}, "low battery"},
	{"ended by hand before the save is known to be over", false, []Source{ups}, []step{
		{0, is(pod.LowBattery), Saving}, {0, began, Saving}, {0, endedByHand, Saving}, {0, func(d *driver) {
			d.do(func(m *Machine, now time.Time) Output { return m.Saved(now, "outage 1", nil) })
		}, Calm}, {10 * second, tick, Saving},
	}, "low battery"},
	{"what is out of place changes nothing", false, []Source{ups}, []step{
		{0, failed(nil), Calm}, {0, clearFailed, Calm}, {0, func(d *driver) {
			d.do(func(m *Machine, now time.Time) Output { return m.Ended(now, "another", true) })
		}, Calm},
		{0, is(pod.LowBattery), Saving}, {0, saved, Saved}, {0, func(d *driver) {
			d.do(func(m *Machine, now time.Time) Output { return m.Began(now, m.id) })
			d.do(func(m *Machine, now time.Time) Output { return m.Ended(now, "another", true) })
		}, Saved},
	}, "low battery"},
	{"an emergency is not ridden through", false, []Source{of(pod.Emergency, nil)}, []step{
		{0, is(pod.OnBattery), Saving}, {0, saved, Saved}, {1 * second, is(pod.Mains), Returning}, {11 * second, tick, Clearing},
	}, "on battery"},
}

// drawn are the transitions of the package comment.
var drawn = [][2]Phase{
	{Calm, Riding}, {Riding, Calm}, {Calm, Saving}, {Riding, Saving}, {Saving, Riding}, {Saving, Saved}, {Saved, Returning}, {Returning, Saved},
	{Returning, Clearing}, {Clearing, Returning}, {Clearing, Calm}, {Saving, Calm}, {Saved, Calm}, {Returning, Calm},
	{Calm, Elsewhere}, {Riding, Elsewhere}, {Saving, Elsewhere}, {Saved, Elsewhere}, {Returning, Elsewhere}, {Clearing, Elsewhere}, {Elsewhere, Calm},
}

// allowed tells whether a transition is drawn, or passes in one input through phases in which everything is decided
// already: a save that is over when power is back, an end with the next cause waiting.
func allowed(edge [2]Phase) bool {
	if edge[0] == edge[1] || slices.Contains(drawn, edge) {
		return true
	}
	return slices.ContainsFunc([]Phase{Calm, Saved, Returning}, func(through Phase) bool {
		return through != edge[0] && slices.Contains(drawn, [2]Phase{edge[0], through}) &&
			(slices.Contains(drawn, [2]Phase{through, edge[1]}) || through == Saved && edge[1] == Clearing)
	})
}

// Every transition that is drawn is taken, and no other.
func TestTransitions(t *testing.T) {
	seen := map[[2]Phase]bool{}
	for _, s := range scripts {
		t.Run(s.name, func(t *testing.T) {
			d := drive(t, s.redundant, s.sources...)
			for i, step := range s.steps {
				d.now = begin.Add(step.at)
				step.in(d)
				if got, since := d.phase, d.Status().Since; got != step.phase || got != Calm && since.Before(begin) || since.After(d.now) {
					t.Fatalf("step %d, after %v: %v since %v, want %v", i, step.at, got, since, step.phase)
				}
			}
			if d.save.Cause != s.cause {
				t.Errorf("cause %q, want %q", d.save.Cause, s.cause)
			}
			if d.asked != d.called {
				t.Errorf("%d waited, %d were told", d.asked, d.called)
			}
			maps.Copy(seen, d.seen)
		})
	}
	for _, edge := range drawn {
		if !seen[edge] {
			t.Errorf("%v -> %v is drawn and not tested", edge[0], edge[1])
		}
	}
	for edge := range seen {
		if !allowed(edge) {
			t.Errorf("%v -> %v is taken and not drawn", edge[0], edge[1])
		}
	}
}

// The machine asks to be woken when the time decides, and not at other times.
func TestWake(t *testing.T) {
	for name, c := range map[string]struct {
		source Source
		in     []func(*driver)
		wake   time.Duration // negative: never
	}{
		"mains":             {ups, []func(*driver){is(pod.Mains)}, -1},
		"debounce":          {ups, []func(*driver){is(pod.OnBattery)}, 2 * second},
		"power is back":     {ups, []func(*driver){is(pod.OnBattery), is(pod.Mains)}, 2 * second},
		"low":               {ups, []func(*driver){is(pod.LowBattery)}, -1},
		"saved":             {ups, []func(*driver){is(pod.LowBattery), saved}, -1},
		"returning":         {of(pod.Battery, func(r *Rules) { r.Debounce = 0 }), []func(*driver){is(pod.LowBattery), saved, is(pod.Mains)}, 10 * second},
		"failed":            {ups, []func(*driver){is(pod.LowBattery), failed(errors.New("no"))}, second},
		"excused":           {ups, []func(*driver){is(pod.LowBattery), saved, endedByHand}, 10 * second},
		"runtime":           {of(pod.Battery, func(r *Rules) { r.Debounce = 0 }), []func(*driver){left(100 * second)}, 37 * second},
		"only a charge":     {of(pod.Battery, func(r *Rules) { r.Debounce = 0 }), []func(*driver){charge(50)}, -1},
		"blind":             {of(pod.Battery, func(r *Rules) { r.Debounce = 0 }), []func(*driver){left(-1)}, 10 * second},
		"the first of many": {of(pod.Battery, func(r *Rules) { r.Debounce, r.SaveAfter = 0, 5*second }), []func(*driver){left(100 * second)}, 5 * second},
	} {
		d := drive(t, false, c.source)
		for _, in := range c.in {
			in(d)
		}
		want := time.Time{}
		if c.wake >= 0 {
			want = begin.Add(c.wake)
		}
		if !d.out.Wake.Equal(want) {
			t.Errorf("%s: wakes at %v, want %v", name, d.out.Wake, want)
		}
	}
}

// A source that flaps at 10 Hz is saved for as often as its rules allow, whatever they are.
func TestFlapping(t *testing.T) {
	const lasts = 5 * time.Minute
	for name, c := range map[string]struct {
		bad   pod.Condition
		rules func(*Rules)
		most  int
	}{
		"on battery":            {pod.OnBattery, nil, 0},
		"low battery":           {pod.LowBattery, nil, 1},
		"going":                 {pod.Going, nil, 1},
		"no ride, no debounce":  {pod.OnBattery, func(r *Rules) { r.Ride, r.Debounce = false, 0 }, 1},
		"power_back of 10 ms":   {pod.LowBattery, func(r *Rules) { r.PowerBack = 10 * time.Millisecond }, 3000},
		"power_back of a blink": {pod.LowBattery, func(r *Rules) { r.PowerBack = 50 * time.Millisecond }, 3000},
	} {
		d, saves := drive(t, false, of(pod.Battery, c.rules)), 0
		for at := time.Duration(0); at < lasts; at += 10 * time.Millisecond {
			d.now = begin.Add(at)
			switch at % (100 * time.Millisecond) {
			case 0:
				is(c.bad)(d)
			case 50 * time.Millisecond:
				is(pod.Mains)(d)
			default:
				tick(d)
			}
			if d.out.Save != nil {
				saves++
				saved(d)
			}
			if d.out.Clear != "" {
				ended(d)
			}
		}
		if saves > c.most || c.most > 0 && saves == 0 {
			t.Errorf("%s: %d saves, want at most %d", name, saves, c.most)
		}
		d.now = begin.Add(lasts)
		for range 4 {
			is(pod.Mains)(d)
			if d.out.Clear != "" {
				ended(d)
			}
			d.now = d.now.Add(time.Minute)
		}
		if d.phase != Calm {
			t.Errorf("%s: power is back, and it is %v", name, d.phase)
		}
	}
}

func TestWords(t *testing.T) {
	for p := Calm; p <= Elsewhere; p++ {
		if text, err := p.MarshalText(); err != nil || string(text) != p.String() || len(text) < 4 || p.String() == fmt.Sprintf("phase %d", p) {
			t.Errorf("phase %d: %s, %v", p, text, err)
		}
		var again Phase
		if err := again.UnmarshalText([]byte(p.String())); err != nil || again != p {
			t.Errorf("%v reads as %v, %v", p, again, err)
		}
	}
	if err := new(Phase).UnmarshalText([]byte("dreaming")); err == nil {
		t.Error("a phase that does not exist was read")
	}
	if got := Phase(99).String(); got != "phase 99" {
		t.Error(got)
	}
	d := drive(t, false, ups)
	is(pod.OnBattery)(d)
	d.now = begin.Add(2 * second)
	tick(d)
	if got, want := d.Status(), (Status{Riding, d.now, "battery", "words"}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	is(pod.LowBattery)(d)
	if got, want := d.Status(), (Status{Saving, d.now, "battery", "low battery"}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}
