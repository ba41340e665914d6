// Package policy decides what to do with the time that an outage leaves: ride it
// through on the battery, save all VMs while there is still time, continue them
// when power has come back and stays.
//
//	              counts                     due                        saved
//	calm ────────────────────▶ riding ─────────────────────▶ saving ───────────────▶ saved
//	▲ ▲ ▲ ◀──────────────────    │ ▲                          │  │                   │ ▲
//	│ │ │  mains for debounce    │ └──────────────────────────┘  │           all calm │ │ one is not
//	│ │ │                        │    failed: again in retry     │                   ▼ │
//	│ │ │                        │                               │ under way       returning
//	│ │ └── ended ── elsewhere ◀─┴─ begun by others ◀────────────┘                   │ ▲
//	│ │                                                     mains for power_back      │ │ failed:
//	│ └───────────────────────── ended ────────── clearing ◀──────────────────────────┘ │ again in
//	│                                                 └─────────────────────────────────┘ retry
//	└─── ended by others, from saving, saved, returning and clearing
//
// A source is due when its rules say that all must be saved now. Going and low
// battery are due at once, from calm as from riding: nothing delays them. On battery
// counts when it has lasted for the debounce, and then is due at the earliest limit
// that its rules set: at once, after a time, when the estimate of the runtime falls
// below what a save needs, or when nobody tells how much is left.
//
// What holds whatever the sources say:
//
//   - One outage at a time, however many sources report it. The source that is due
//     first gives it its name.
//   - A save is never given up half way. Power that comes back before it changes
//     nothing but the decision; power that comes back during the dump or after the
//     commit continues the guests in place, once it has lasted for power_back.
//   - Between two saves there is power for power_back, without interruption, or
//     somebody else has ended the first. So a source that flaps or lies, at any rate,
//     makes no more than one save in power_back; one that is never on battery for as
//     long as the debounce makes none.
//   - An outage that others announced, by a signal or by hand, is theirs to end.
//   - Each Report.Done is called once: when all is saved, when it could not be, or at
//     once if its report is no reason to save.
//
// What is assumed where nothing is known, always the worse: a source that is lost
// on battery is still on battery, with nobody to tell how much is left; one that is
// lost after a save has no power. A source that was lost on mains, or was never
// reached, has no say. Of sources that contradict each other the worst is believed,
// unless the rules call them redundant.
//
// Machine is pure: it has no clock, no goroutine and no side effect, and is not safe
// for concurrent use. Runner gives it all three.
package policy

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/pod"
)

// ErrUnderWay is the failure of a save that came while another outage lasted.
var ErrUnderWay = errors.New("another outage is under way")

// retry is how long to wait after a save or a clear that failed.
const retry = time.Second

// Phase is where the machine stands.
type Phase uint8

// Phases, as drawn in the package comment.
const (
	Calm      Phase = iota // no source is on battery, or not long enough to count
	Riding                 // one is, and there is time left
	Saving                 // an outage was announced, its saves are not over
	Saved                  // they are, and there is no power
	Returning              // there is power again, but not for long enough
	Clearing               // the outage is being ended
	Elsewhere              // others announced an outage and will end it
)

var phaseNames = [...]string{"calm", "riding", "saving", "saved", "returning", "clearing", "elsewhere"}

// String implements fmt.Stringer.
func (p Phase) String() string {
	if int(p) < len(phaseNames) {
		return phaseNames[p]
	}
	return fmt.Sprintf("phase %d", uint8(p))
}

// MarshalText implements encoding.TextMarshaler.
func (p Phase) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Phase) UnmarshalText(text []byte) error {
	i := slices.Index(phaseNames[:], string(text))
	if i < 0 {
		return fmt.Errorf("no phase is called %q", text)
	}
	*p = Phase(i)
	return nil
}

// Save is an outage to announce.
type Save struct {
	Source string // name of the source that is due
	Tier   pod.Tier
	Cause  string // why now, e.g. "low battery"
}

// Output is what is to be done after an input.
type Output struct {
	Save  *Save     // announce this outage, and tell Saved how it went
	Clear string    // end the outage of this id, and tell Cleared if that fails
	Done  []func()  // call these
	Wake  time.Time // Tick at this time, unless there is another input first; zero: never
}

// Machine decides. Its inputs are Report, Tick, Began, Saved, Cleared and Ended,
// with a clock that does not run backwards.
type Machine struct {
	sources   []*source
	redundant bool
	need      func() time.Duration

	phase   Phase
	since   time.Time // of phase
	save    Save      // the latest that was announced
	id      string    // of the outage in progress, be it others'; empty: none is known
	again   time.Time // a save or clear that failed is tried no earlier
	waiting []func()  // Report.Done not called yet
}

// New makes a machine in Calm. With redundant sources of the battery tier, each of
// which feeds the host alone, none is due as long as another one has power or
// time. need tells how long a save takes.
func New(sources []Source, redundant bool, need func() time.Duration) *Machine {
	m := &Machine{redundant: redundant, need: need}
	for _, s := range sources {
		m.sources = append(m.sources, &source{Source: s})
	}
	return m
}

// Status is where a machine stands, for operators.
type Status struct {
	Phase  Phase     `json:"phase"`
	Since  time.Time `json:"since,omitzero"`
	Source string    `json:"source,omitempty"` // that is on battery, or for which the outage was announced
	Cause  string    `json:"cause,omitempty"`  // its own words, or why all was saved
}

// Status is where the machine stands.
func (m *Machine) Status() Status {
	st := Status{Phase: m.phase, Since: m.since}
	switch m.phase {
	case Riding:
		for _, s := range m.sources {
			if s.counts {
				st.Source, st.Cause = s.Name, s.last.Detail
				break
			}
		}
	case Saving, Saved, Returning, Clearing:
		st.Source, st.Cause = m.save.Source, m.save.Cause
	}
	return st
}

// Report takes note of what the source of an index has learned.
func (m *Machine) Report(now time.Time, index int, r pod.Report) Output {
	s := m.sources[index]
	s.hear(now, r)
	s.party = s.party || s.bad() && (m.id != "" || m.phase == Saving)
	if r.Done != nil {
		m.waiting = append(m.waiting, r.Done)
	}
	return m.decide(now)
}

// Tick lets time pass.
func (m *Machine) Tick(now time.Time) Output { return m.decide(now) }

// Began takes note of an outage whose saves are over: that of the last Save, or one
// that others announced.
func (m *Machine) Began(now time.Time, id string) Output {
	if m.id == id {
		return m.decide(now)
	}
	m.id = id
	for _, s := range m.sources {
		s.party = s.party || s.bad()
	}
	if m.phase != Saving {
		m.enter(now, Elsewhere)
	}
	return m.decide(now)
}

// Saved takes note of how the last Save went: the id of its outage, or an error.
func (m *Machine) Saved(now time.Time, id string, err error) Output {
	if m.phase != Saving {
		return m.decide(now)
	}
	out := Output{Done: m.settle()}
	switch {
	case err == nil && m.id == id:
		m.enter(now, Saved)
	case m.id != "": // others were first
		m.enter(now, Elsewhere)
	case err == nil: // and it has been ended already
		m.enter(now, Calm)
	default:
		m.enter(now, Riding)
		m.again = now.Add(retry)
	}
	return out.and(m.decide(now))
}

// Cleared takes note of a Clear that failed.
func (m *Machine) Cleared(now time.Time, id string) Output {
	if m.phase == Clearing && m.id == id {
		m.enter(now, Returning)
		m.again = now.Add(retry)
	}
	return m.decide(now)
}

// Ended takes note of the end of an outage. When an operator ended it, what the
// sources say at that moment is no reason for another save before their power_back
// is over, unless it gets worse; a source that is lost has no say any more.
func (m *Machine) Ended(now time.Time, id string, operator bool) Output {
	if m.id != id {
		return m.decide(now)
	}
	m.id = ""
	for _, s := range m.sources {
		if operator {
			s.excuse(now)
		}
		s.party = m.phase == Saving && s.bad()
	}
	if m.phase != Saving {
		m.enter(now, Calm)
	}
	return m.decide(now)
}

func (m *Machine) enter(now time.Time, p Phase) {
	if m.phase != p {
		m.phase, m.since = p, now
	}
}

// settle hands over what waits for a decision that has been made.
func (m *Machine) settle() []func() {
	done := m.waiting
	m.waiting = nil
	return done
}

func (o Output) and(more Output) Output {
	more.Done = append(o.Done, more.Done...)
	return more
}

// decide moves the machine on as far as the sources and the time allow.
func (m *Machine) decide(now time.Time) Output {
	var out Output
	due, next := m.judge(now)
	switch m.phase {
	case Calm, Riding:
		if due != nil && !now.Before(m.again) {
			m.save = *due
			m.enter(now, Saving)
			for _, s := range m.sources {
				s.party = s.bad()
			}
			return Output{Save: due}
		}
		if due != nil {
			m.enter(now, Riding)
			return Output{Wake: m.again}
		}
		m.enter(now, m.ridingOrCalm())
	case Saved, Returning:
		quiet, at := m.quiet()
		if at.Before(m.again) {
			at = m.again
		}
		switch {
		case !quiet:
			m.enter(now, Saved)
		case now.Before(at):
			m.enter(now, Returning)
			next = soonest(next, at)
		default:
			m.enter(now, Clearing)
			out.Clear = m.id
		}
	case Saving, Clearing:
		return Output{} // its end is the next input that matters
	}
	out.Done, out.Wake = m.settle(), next
	return out
}

func (m *Machine) ridingOrCalm() Phase {
	if slices.ContainsFunc(m.sources, func(s *source) bool { return s.counts }) {
		return Riding
	}
	return Calm
}

// judge asks every source. It returns what is to be saved now, if anything, and
// otherwise when to ask again.
func (m *Machine) judge(now time.Time) (due *Save, next time.Time) {
	var cause string
	var first *source
	carried := false // by a redundant source
	for _, s := range m.sources {
		at, why := s.judge(now, m.need())
		switch {
		case why == "" || now.Before(at):
			next = soonest(next, at)
			carried = carried || s.Tier == pod.Battery && s.carries()
		case first == nil || worse(s, first):
			first, cause = s, why
		}
	}
	if first == nil || m.redundant && carried && first.Tier == pod.Battery {
		return nil, next
	}
	return &Save{Source: first.Name, Tier: first.Tier, Cause: cause}, time.Time{}
}

// worse orders sources that are due at the same time: what no redundancy can carry
// comes first, then the worst condition.
func worse(a, b *source) bool {
	if (a.Tier == pod.Battery) != (b.Tier == pod.Battery) {
		return a.Tier != pod.Battery
	}
	return a.believed > b.believed
}

// quiet tells whether power is back by what every source says, and when it will have
// been for long enough. One redundant source with power is enough for its tier.
func (m *Machine) quiet() (bool, time.Time) {
	var at, carrier time.Time
	calm, carried := true, false
	for _, s := range m.sources {
		switch ready := s.changed.Add(s.PowerBack); {
		case s.Tier == pod.Battery && m.redundant && s.carries() && !s.bad():
			if !carried || ready.Before(carrier) {
				carrier = ready
			}
			carried = true
		case s.Tier == pod.Battery && m.redundant: // another one may carry
			calm = calm && !s.party
		case s.bad() || s.party && s.lost():
			return false, time.Time{}
		case s.party && at.Before(ready):
			at = ready
		}
	}
	if carried && at.Before(carrier) {
		at = carrier
	}
	return calm || carried, at
}

func soonest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
