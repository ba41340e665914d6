package nut

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/pod"
)

// Times that nobody has to set.
const (
	answerTimeout = 5 * time.Second        // for a connection to be made, and for each answer
	leaveTimeout  = 500 * time.Millisecond // for the last LOGOUT, when the watcher ends
	firstPause    = 250 * time.Millisecond // before the second attempt to connect; each further one doubles it
	longestPause  = 5 * time.Second
)

// Watcher watches one UPS of one upsd. Its methods may be called from any goroutine, Run by one at a time.
type Watcher struct {
	config          Config
	ups, host, port string
	address         string // host:port
	dial            func(ctx context.Context, network, address string) (net.Conn, error)

	released chan struct{} // a token: Done was called

	mu      sync.Mutex
	health  pod.Health // guarded by mu
	spell   uint64     // guarded by mu; counts the times that the UPS became critical, so that an old Done does nothing
	parted  bool       // guarded by mu; Done was called in this spell: upsd is not to wait for us
	loginOK bool       // guarded by mu; upsd waits for us
}

var _ pod.Watcher = (*Watcher)(nil)

// New makes a watcher that does nothing yet. An error names the key and what to write there.
func New(config Config) (*Watcher, error) {
	ups, host, port, err := config.target()
	if err := errors.Join(err, config.complete()); err != nil {
		return nil, fmt.Errorf("nut: %w", err)
	}
	w := &Watcher{
		config: config, ups: ups, host: host, port: port, address: net.JoinHostPort(host, port),
		dial:     (&net.Dialer{KeepAlive: -1}).DialContext, // each poll is one
		released: make(chan struct{}, 1),
	}
	w.health = pod.Health{Since: time.Now(), Error: "not watched yet"}
	return w, nil
}

// Name implements pod.Watcher.
func (w *Watcher) Name() string { return "nut " + w.ups + "@" + w.address }

// Tier implements pod.Watcher.
func (w *Watcher) Tier() pod.Tier { return pod.Battery }

// Health implements pod.Watcher.
func (w *Watcher) Health() pod.Health {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.health
}

// Run implements pod.Watcher.
func (w *Watcher) Run(ctx context.Context, report func(pod.Report)) {
	pod.Backoff{First: firstPause, Longest: longestPause}.Repeat(ctx, func(reached func()) error {
		heard, err := w.session(ctx, report)
		if heard {
			reached()
		}
		if errors.Is(err, errParted) {
			return nil // as it was asked to; from now on it only listens
		}
		return err
	}, func(err error) { w.lost(w.explain(err), report) })
	w.mu.Lock()
	defer w.mu.Unlock()
	w.health.Connected, w.health.Since = false, time.Now()
	w.health.Error, w.health.Warning = "no longer watched", ""
}

// Test implements pod.Watcher: it connects as Run does, beside it, logs in and out, and asks for ups.status.
func (w *Watcher) Test(ctx context.Context) error {
	if err := w.test(ctx); err != nil {
		return fmt.Errorf("%s: %w", w.Name(), w.explain(err))
	}
	return nil
}

func (w *Watcher) test(ctx context.Context) error {
	c, err := w.connect(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	if w.config.User != "" {
		if err := w.login(ctx, c); err != nil {
			return err
		}
	}
	status, err := c.variable(ctx, w.ups, "ups.status")
	if err != nil {
		return err
	}
	if r := read(map[string]string{"ups.status": status}); r.condition == pod.Unknown {
		return errors.New(r.warning)
	}
	return c.logout(ctx)
}

// learned takes up what upsd has told, and reports it if it is news.
func (w *Watcher) learned(r reading, report func(pod.Report)) {
	w.mu.Lock()
	now := time.Now()
	last := w.health.Last
	next := pod.Report{Condition: r.condition, At: now, Detail: r.detail, Runtime: r.runtime, Charge: r.charge}
	if !last.At.IsZero() && last.Condition == next.Condition {
		next.At = last.At
	}
	critical := r.condition == pod.LowBattery || r.condition == pod.Going
	if !critical && w.parted {
		w.parted = false
	}
	if !w.health.Connected {
		w.health.Connected, w.health.Since, w.health.Error = true, now, ""
	}
	w.health.Warning = w.warn(r.warning)
	w.health.Last = next
	news := last.At.IsZero() || last.Condition != next.Condition || last.Detail != next.Detail ||
		last.Runtime != next.Runtime || last.Charge != next.Charge
	if critical && w.loginOK {
		spell := w.spell
		next.Done = func() { w.done(spell) }
	} else if !critical {
		w.spell++
	}
	w.mu.Unlock()
	if news {
		report(next)
	}
}

func (w *Watcher) warn(of string) string {
	const deaf = "upsmon's primary does not wait for this host: set user and password_file"
	switch {
	case w.config.User != "":
		return of
	case of == "":
		return deaf
	}
	return of + "; " + deaf
}

// lost reports that nothing is known any more, once a loss.
func (w *Watcher) lost(err error, report func(pod.Report)) {
	w.mu.Lock()
	now := time.Now()
	last := w.health.Last
	if w.health.Connected || w.health.Last.At.IsZero() {
		w.health.Since = now
	}
	w.health.Connected, w.health.Error, w.health.Warning = false, err.Error(), ""
	news := last.At.IsZero() || last.Condition != pod.Unknown
	if news {
		w.health.Last = pod.Report{At: now, Detail: err.Error(), Runtime: -1, Charge: -1}
	}
	next := w.health.Last
	w.mu.Unlock()
	if news {
		report(next)
	}
}

// done is what a report's Done calls: nothing is left to save, so upsd need not wait any more.
func (w *Watcher) done(spell uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.parted || spell != w.spell {
		return // the UPS has recovered meanwhile
	}
	w.parted = true
	select {
	case w.released <- struct{}{}:
	default: // one is there already
	}
}
