package policy

import (
	"fmt"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/pod"
)

// Rules say what to make of a source. Low battery and a host that is going down are
// always saved at once; the rules are about being on battery, and about the end.
type Rules struct {
	Debounce    time.Duration // how long it must last before it counts, and mains before it is over
	Ride        bool          // go on until one of the limits below is reached; false: save as soon as it counts
	SaveAfter   time.Duration // save after so long on battery; 0: no limit
	Blind       time.Duration // save after so long without anybody to tell how much is left
	Reserve     time.Duration // save when the estimated runtime falls to this and
	Safety      float64       // this many times what a save needs
	LeastCharge float64       // save at this charge, in percent
	PowerBack   time.Duration // how long there must be power before the guests go on
}

// Defaults are the rules of a tier. Estimates of batteries are coarse and come every
// half a minute from many, hence the reserve.
func Defaults(t pod.Tier) Rules {
	switch t {
	case pod.Battery:
		return Rules{
			Debounce: 2 * time.Second, Ride: true, Blind: 10 * time.Second,
			Reserve: time.Minute, Safety: 3, LeastCharge: 10, PowerBack: 10 * time.Second,
		}
	case pod.Planned:
		return Rules{}
	}
	return Rules{PowerBack: 10 * time.Second}
}

// Source is a watcher as the machine knows it.
type Source struct {
	Name string
	Tier pod.Tier
	Rules
}

// source is what is known of a Source.
type source struct {
	Source
	last     pod.Report    // the latest that knew anything
	heard    time.Time     // when it came
	believed pod.Condition // what is assumed
	changed  time.Time     // when power went or came
	episode  time.Time     // on battery since, short returns of power included; zero: it is not
	counts   bool          // the episode has lasted for the debounce
	silent   time.Time     // nothing is known since; zero: something is
	party    bool          // it has been without power in the outage in progress

	excused      pod.Condition // no reason to save
	excusedUntil time.Time     // before this time
}

// bad: there is no power, or will be none.
func (s *source) bad() bool { return s.believed >= pod.OnBattery }

// lost: it does not speak, and what it said last still matters.
func (s *source) lost() bool { return !s.silent.IsZero() }

// carries: it is known to have power, or time.
func (s *source) carries() bool { return s.believed != pod.Unknown && !s.lost() }

// hear takes note of a report.
func (s *source) hear(now time.Time, r pod.Report) {
	at := r.At
	if at.IsZero() || at.After(now) {
		at = now
	}
	if at.Before(s.changed) {
		at = s.changed
	}
	if r.Done != nil { // somebody asks anew
		s.excusedUntil = time.Time{}
	}
	if r.Condition == pod.Unknown {
		if s.silent.IsZero() && (s.bad() || s.party) {
			s.silent = now
		} else if !s.bad() && !s.party {
			s.believed = pod.Unknown
		}
		return
	}
	s.settle(at)
	was, unheard := s.bad(), s.lost() || s.believed == pod.Unknown
	s.last, s.heard, s.believed, s.silent = r, now, r.Condition, time.Time{}
	switch {
	case s.bad() && !was:
		s.changed = at
		if s.episode.IsZero() {
			s.episode = at
		}
	case !s.bad() && was:
		s.changed = at
	case !s.bad() && unheard: // power that nobody has seen meanwhile does not count
		s.changed = now
	}
}

// settle passes the debounces that are over by now.
func (s *source) settle(now time.Time) {
	over := !s.episode.IsZero() && !now.Before(s.changed.Add(s.Debounce))
	switch {
	case over && s.bad():
		s.counts = true
	case over:
		s.episode, s.counts = time.Time{}, false
	}
}

// excuse makes what the source says no reason to save for a while, and its time on
// battery begin anew. What a lost source said is forgotten.
func (s *source) excuse(now time.Time) {
	if s.lost() {
		s.believed, s.silent, s.episode, s.counts = pod.Unknown, time.Time{}, time.Time{}, false
		return
	}
	if s.bad() {
		s.excused, s.excusedUntil, s.episode = s.believed, now.Add(max(s.PowerBack, grace)), now
	}
}

// grace is the least time that an operator's word stands against a source's.
const grace = 10 * time.Second

// judge tells when all must be saved because of this source, and why. Without a
// reason the time is when to ask again; zero is never.
func (s *source) judge(now time.Time, need time.Duration) (at time.Time, why string) {
	s.settle(now)
	if !s.bad() {
		if !s.episode.IsZero() {
			at = s.changed.Add(s.Debounce)
		}
		return at, ""
	}
	if s.believed == pod.OnBattery && !s.counts {
		return s.changed.Add(s.Debounce), ""
	}
	at, why = s.limit(need)
	if why != "" && s.believed <= s.excused && at.Before(s.excusedUntil) {
		at = s.excusedUntil
	}
	return at, why
}

// limit is the earliest of the limits on a source without power, whose debounce is over.
func (s *source) limit(need time.Duration) (at time.Time, why string) {
	switch s.believed {
	case pod.Going:
		return s.heard, "the host is going down"
	case pod.LowBattery:
		return s.heard, "low battery"
	}
	earliest := func(t time.Time, text string) {
		if why == "" || t.Before(at) {
			at, why = t, text
		}
	}
	if !s.Ride {
		return s.episode, "on battery"
	}
	if s.SaveAfter > 0 {
		earliest(s.episode.Add(s.SaveAfter), fmt.Sprintf("on battery for %v", s.SaveAfter))
	}
	switch r := s.last; {
	case s.lost():
		earliest(s.silent.Add(s.Blind), fmt.Sprintf("on battery, and lost for %v", s.Blind))
	case r.Runtime < 0 && r.Charge < 0:
		earliest(s.episode.Add(s.Blind), fmt.Sprintf("on battery for %v, and nothing tells how long it lasts", s.Blind))
	}
	if r := s.last; r.Runtime >= 0 && r.Condition == pod.OnBattery {
		least := s.Reserve + time.Duration(s.Safety*float64(need))
		earliest(s.heard.Add(r.Runtime-least), fmt.Sprintf("no more than %v of battery left", least.Round(time.Millisecond)))
	}
	if r := s.last; r.Charge >= 0 && r.Charge <= s.LeastCharge {
		earliest(s.heard, fmt.Sprintf("the battery is down to %.0f %%", r.Charge))
	}
	return at, why
}
