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

// Reported notes the last report.
func (l *Logbook) Reported(r Report) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.health.Last = r
}

// Health returns what was noted.
func (l *Logbook) Health() Health {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.health
}
