package policy

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/nv-hypervisor/nv-hypervisor/pod"
)

// model is what may and must be, worked out anew each time from all that has been said.
type model struct {
	*Machine
	now  time.Time
	wake time.Time

	said   []history // by source, since an operator ended an outage
	all    []history // ever
	outage string    // that was noted and not ended
	own    bool      // the machine announced it
	saving bool      // a Save has no answer yet
	waits  bool      // and its outage is not noted yet
	ending string    // a Clear without an answer
	troubleUntil,
	excusedUntil time.Time // the machine may wait until then
	outages int
	asked   int
	called  map[int]int
	from    []int // length of the histories at the latest save
}

// history is all that a source has said, and how it is judged.
type history []word

type word struct {
	at   time.Time
	cond pod.Condition
	left time.Duration
}

// known is the last word that is not Unknown, since when a condition as good or bad has lasted, and the silence since.
func (h history) known() (last word, lasts, silent time.Time) {
	for _, w := range h {
		if w.cond == pod.Unknown {
			if silent.IsZero() {
				silent = w.at
			}
			continue
		}
		if bad := w.cond >= pod.OnBattery; bad != (last.cond >= pod.OnBattery) || !bad && !silent.IsZero() || lasts.IsZero() {
			lasts = w.at
		}
		last, silent = w, time.Time{}
	}
	return last, lasts, silent
}

// mayCount tells whether it is on battery and has been for the debounce, without interruption, since it last had power for so long.
func (h history) mayCount(now time.Time, debounce time.Duration) bool {
	var since time.Time
	bad, counts := false, false
	turn := func(at time.Time) {
		if !since.IsZero() && at.Sub(since) >= debounce {
			counts = bad
		}
	}
	for _, w := range h {
		if b := w.cond >= pod.OnBattery; w.cond != pod.Unknown && b != bad {
			turn(w.at)
			since, bad = w.at, b
		}
	}
	turn(now)
	return counts
}

func newModel(t *rapid.T) *model {
	var sources []Source
	for i := range rapid.IntRange(1, 3).Draw(t, "sources") {
		pick := func(label string, of ...time.Duration) time.Duration { return rapid.SampledFrom(of).Draw(t, label) }
		sources = append(sources, Source{Name: fmt.Sprint("source ", i), Tier: rapid.SampledFrom([]pod.Tier{pod.Battery, pod.Planned}).Draw(t, "tier"), Rules: Rules{
			Debounce: pick("debounce", 0, 2*second, 7*second), Ride: rapid.Bool().Draw(t, "ride"), SaveAfter: pick("save after", 0, 30*second),
			Blind: pick("blind", 0, 10*second), Reserve: pick("reserve", 0, 60*second), Safety: 2, PowerBack: pick("power back", 0, 3*second, 10*second),
		}})
	}
	return &model{Machine: New(sources, false, func() time.Duration { return need }), now: begin, said: make([]history, len(sources)), all: make([]history, len(sources)), called: map[int]int{}}
}

// do gives an input and carries out what follows as a runner would.
func (m *model) do(t *rapid.T, in func(now time.Time) Output) {
	before := m.phase
	out := in(m.now)
	m.wake = out.Wake
	if edge := [2]Phase{before, m.phase}; !allowed(edge) {
		t.Fatalf("%v -> %v is not drawn", before, m.phase)
	}
	for _, done := range out.Done {
		done()
	}
	if out.Save != nil {
		if m.saving || m.outage != "" {
			t.Fatalf("a save, with one under way (%v) or in outage %q", m.saving, m.outage)
		}
		if !m.may() {
			t.Fatalf("a save for no reason: %+v", *out.Save)
		}
		m.saving, m.waits = true, true
		m.mark()
	}
	if out.Clear != "" {
		if out.Clear != m.outage || !m.own || m.saving || m.ending != "" || !m.back() {
			t.Fatalf("clear %q, outage %q, own %v, power back %v", out.Clear, m.outage, m.own, m.back())
		}
		m.ending = out.Clear
	}
}

// may tells whether any source gives a reason to save.
func (m *model) may() bool {
	for i, h := range m.said {
		last, _, _ := h.known()
		if last.cond >= pod.LowBattery || last.cond == pod.OnBattery && m.all[i].mayCount(m.now, m.sources[i].Debounce) {
			return true
		}
	}
	return false
}

// must tells whether one is a reason without doubt.
func (m *model) must() bool {
	for i, h := range m.said {
		last, lasts, silent := h.known()
		s := m.sources[i]
		switch battery := m.now.Sub(lasts); {
		case last.cond >= pod.LowBattery:
			return true
		case last.cond < pod.OnBattery || battery < s.Debounce:
		case !s.Ride, s.SaveAfter > 0 && battery >= s.SaveAfter, !silent.IsZero() && m.now.Sub(silent) >= s.Blind:
			return true
		case last.left < 0 && battery >= s.Blind:
			return true
		case last.left >= 0 && m.now.Sub(last.at) >= last.left-s.Reserve-2*need:
			return true
		}
	}
	return false
}

// back tells whether all that were without power have it, and have had it for long enough.
func (m *model) back() bool {
	for i, h := range m.said {
		last, lasts, silent := h.known()
		if last.cond >= pod.OnBattery || m.party(i) && (!silent.IsZero() || m.now.Sub(lasts) < m.sources[i].PowerBack) {
			return false
		}
	}
	return true
}

// mark is the beginning of a save that may be the machine's own.
func (m *model) mark() {
	m.from = nil
	for _, h := range m.all {
		m.from = append(m.from, len(h))
	}
}

// party tells whether a source was without power since the latest save was announced.
func (m *model) party(i int) bool {
	if m.from == nil {
		return false
	}
	before, since := m.all[i][:m.from[i]], m.all[i][m.from[i]:]
	last, _, _ := before.known()
	return last.cond >= pod.OnBattery || slices.ContainsFunc(since, func(w word) bool { return w.cond >= pod.OnBattery })
}

// check is called after every input.
func (m *model) check(t *rapid.T) {
	free := m.outage == "" && !m.saving
	if free && m.must() && !m.now.Before(m.troubleUntil) && !m.now.Before(m.excusedUntil) {
		t.Fatalf("%v: nothing is saved, and must be", m.phase)
	}
	if m.outage != "" && m.own && !m.saving && m.ending == "" && m.back() && !m.now.Before(m.troubleUntil) {
		t.Fatalf("%v: power is back, and the outage goes on", m.phase)
	}
	for i := range m.asked {
		held := m.saving || m.ending != "" || m.now.Before(m.troubleUntil)
		if n := m.called[i]; n > 1 || n == 0 && !held {
			t.Fatalf("%v: one who waits was told %d times", m.phase, n)
		}
	}
	if m.saving != (m.phase == Saving) || m.phase == Elsewhere != (m.outage != "" && !m.own && !m.saving) {
		t.Fatalf("%v: saving %v, outage %q, own %v", m.phase, m.saving, m.outage, m.own)
	}
}

// advance lets time pass, with a tick whenever one was asked for and at no other time.
func (m *model) advance(t *rapid.T, d time.Duration) {
	end := m.now.Add(d)
	for !m.wake.IsZero() && !m.wake.After(end) {
		if m.wake.After(m.now) {
			m.now = m.wake
		}
		m.do(t, m.Tick)
		m.check(t)
	}
	m.now = end
}

func (m *model) begins(t *rapid.T, own bool) string {
	m.outages++
	m.outage, m.own = fmt.Sprint("outage ", m.outages), own
	m.waits = m.waits && !own
	id := m.outage
	m.do(t, func(now time.Time) Output { return m.Began(now, id) })
	return id
}

func (m *model) ends(t *rapid.T, operator bool) {
	id := m.outage
	m.outage, m.own, m.ending = "", false, ""
	if operator {
		m.excusedUntil = m.now.Add(10 * second)
		for i := range m.said {
			if _, _, silent := m.said[i].known(); !silent.IsZero() {
				m.said[i], m.all[i] = nil, nil
			}
			m.said[i] = m.said[i].anew(m.now)
		}
	}
	m.mark()
	m.do(t, func(now time.Time) Output { return m.Ended(now, id, operator) })
}

// anew is the history of a source whose ride begins at this time.
func (h history) anew(now time.Time) history {
	last, _, _ := h.known()
	if last.cond < pod.OnBattery {
		return h
	}
	return history{{now, last.cond, max(-1, last.left-now.Sub(last.at))}}
}

func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t)
		t.Repeat(map[string]func(*rapid.T){
			"report": func(t *rapid.T) {
				i := rapid.IntRange(0, len(m.said)-1).Draw(t, "source")
				w := word{m.now, rapid.SampledFrom([]pod.Condition{pod.Unknown, pod.Mains, pod.Mains, pod.OnBattery, pod.OnBattery, pod.LowBattery, pod.Going}).Draw(t, "condition"),
					rapid.SampledFrom([]time.Duration{-1, 30 * second, 90 * second}).Draw(t, "left")}
				m.said[i], m.all[i] = append(m.said[i], w), append(m.all[i], w)
				m.do(t, func(now time.Time) Output {
					return m.Report(now, i, pod.Report{Condition: w.cond, At: now, Runtime: w.left, Charge: -1, Done: m.waiter(t)})
				})
			},
			"time": func(t *rapid.T) {
				m.advance(t, time.Duration(rapid.SampledFrom([]int{10, 500, 1000, 2000, 5000, 30000}).Draw(t, "ms"))*time.Millisecond)
			},
			"saved": func(t *rapid.T) {
				if !m.saving || m.outage != "" {
					return
				}
				id := m.begins(t, true)
				m.saving = false
				m.do(t, func(now time.Time) Output { return m.Saved(now, id, nil) })
			},
			"not saved": func(t *rapid.T) {
				if !m.saving {
					return
				}
				err := errors.New("no")
				if m.outage != "" {
					err = ErrUnderWay
				} else {
					m.troubleUntil = m.now.Add(retry)
				}
				m.saving = false
				m.do(t, func(now time.Time) Output { return m.Saved(now, "", err) })
			},
			"others begin": func(t *rapid.T) {
				if m.outage != "" {
					return
				}
				m.begins(t, false)
			},
			"others end": func(t *rapid.T) {
				if m.outage == "" {
					return
				}
				m.ends(t, rapid.Bool().Draw(t, "operator"))
			},
			"cleared": func(t *rapid.T) {
				if m.ending == "" {
					return
				}
				m.ends(t, false)
			},
			"not cleared": func(t *rapid.T) {
				if m.ending == "" {
					return
				}
				id := m.ending
				m.ending, m.troubleUntil = "", m.now.Add(retry)
				m.do(t, func(now time.Time) Output { return m.Cleared(now, id) })
			},
			"": m.check,
		})
	})
}

// waiter is a Done, or none.
func (m *model) waiter(t *rapid.T) func() {
	if !rapid.Bool().Draw(t, "waits") {
		return nil
	}
	i := m.asked
	m.asked++
	return func() { m.called[i]++ }
}
