package pod

import (
	"sync"
	"time"
)

// Logbook keeps a watcher's Health. The zero Logbook is that of a watcher that has not run yet. It is safe for
// concurrent use.
type Logbook struct {
	mu     sync.Mutex
	health Health
}

// Connected notes that there is a source to listen to.
func (l *Logbook) Connected() { l.change(true, "") }

// Lost notes that there is none any more, and why.
func (l *Logbook) Lost(why error) { l.change(false, why.Error()) }

func (l *Logbook) change(connected bool, why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.health.Connected != connected || l.health.Since.IsZero() {
		l.health.Since = time.Now()
	}
	l.health.Connected, l.health.Error = connected, why
}

// Health returns what was noted.
func (l *Logbook) Health() Health {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.health
}

// Reporter passes on what is new, and notes it. It belongs to one Run and is not safe for concurrent use.
type Reporter struct {
	log    *Logbook
	report func(Report)
	told   bool
	last   Report
}

// Reporter returns one that has told nothing yet.
func (l *Logbook) Reporter(report func(Report)) *Reporter { return &Reporter{log: l, report: report} }

// Tell passes r on unless it says what the last one did. A report without a time gets one: that of the last if its condition
// is the same, else now.
func (p *Reporter) Tell(r Report) {
	same := p.told && r.Condition == p.last.Condition
	if same && r.Done == nil && r.Detail == p.last.Detail && r.Runtime == p.last.Runtime && r.Charge == p.last.Charge {
		return
	}
	switch {
	case !r.At.IsZero():
	case same:
		r.At = p.last.At
	default:
		r.At = time.Now()
	}
	p.last, p.told = r, true
	p.log.mu.Lock()
	p.log.health.Last = r
	p.log.mu.Unlock()
	p.report(r)
}
