package logind

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/nv-hypervisor/nv-hypervisor/pod"
)

// Pauses before another attempt to connect: the first, and the longest.
const (
	firstPause   = 250 * time.Millisecond
	longestPause = 5 * time.Second
)

// DefaultMinDelay is that of Config.
const DefaultMinDelay = 30 * time.Second

// Config is what an operator sets. Its key is explained in the package comment.
type Config struct {
	MinDelay time.Duration `toml:"min_delay"`
}

// Watcher watches the logind of this host. Its methods may be called from any goroutine, Run by one at a time.
type Watcher struct {
	minDelay time.Duration

	mu        sync.Mutex
	health    pod.Health // guarded by mu
	inhibitor *os.File   // guarded by mu; nil if none is held
	spell     uint64     // guarded by mu; counts inhibitors, so that an old Done does not release another
}

var _ pod.Watcher = (*Watcher)(nil)

// New makes a watcher that does nothing yet.
func New(config Config) (*Watcher, error) {
	if config.MinDelay < 0 {
		return nil, fmt.Errorf("logind: min_delay = %q is negative: write how long logind should wait at the least, such as \"30s\"", config.MinDelay)
	}
	if config.MinDelay == 0 {
		config.MinDelay = DefaultMinDelay
	}
	return &Watcher{minDelay: config.MinDelay, health: pod.Health{Since: time.Now(), Error: "not watched yet"}}, nil
}

// Name implements pod.Watcher.
func (w *Watcher) Name() string { return "logind" }

// Tier implements pod.Watcher.
func (w *Watcher) Tier() pod.Tier { return pod.Planned }

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
		return err
	}, func(err error) { w.lost(explain(err), report) })
	w.hold(nil)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.health.Connected, w.health.Since = false, time.Now()
	w.health.Error, w.health.Warning = "no longer watched", ""
}

// session is one connection to one logind, until either ends. It tells whether logind has answered all that was asked.
func (w *Watcher) session(ctx context.Context, report func(pod.Report)) (heard bool, err error) {
	b, err := connect(ctx)
	if err != nil {
		return false, err
	}
	defer b.close()
	if err := b.subscribe(ctx); err != nil {
		return false, err
	}
	going, err := w.take(ctx, b)
	if err != nil {
		return false, err
	}
	if err := w.look(ctx, b, going, report); err != nil {
		return false, err
	}
	for {
		select {
		case <-ctx.Done():
			return true, ctx.Err()
		case s, open := <-b.signals:
			if !open {
				return true, errBusLost
			}
			if err := w.heed(ctx, b, s, report); err != nil {
				return true, err
			}
		}
	}
}

// take holds a new inhibitor instead of an old one. While a shutdown is under way logind gives none, and the old one, if there is
// one, stays.
func (w *Watcher) take(ctx context.Context, b *bus) (going bool, err error) {
	inhibitor, err := b.inhibit(ctx)
	switch {
	case shuttingDown(err):
		return true, nil
	case err != nil:
		return false, err
	}
	w.hold(inhibitor)
	return false, nil
}

// look learns how things stand, and reports it.
func (w *Watcher) look(ctx context.Context, b *bus, going bool, report func(pod.Report)) error {
	if err := b.findOwner(ctx); err != nil {
		return err
	}
	delay, err := b.delay(ctx)
	if err != nil {
		return err
	}
	under, err := b.preparing(ctx)
	if err != nil {
		return err
	}
	w.learned(going || under, delay, report)
	return nil
}

// heed takes a signal for what it is. An error ends the session.
func (w *Watcher) heed(ctx context.Context, b *bus, s *dbus.Signal, report func(pod.Report)) error {
	switch {
	case s.Name == theBus+".NameOwnerChanged" && s.Sender == theBus:
		var name, before, after string
		if err := dbus.Store(s.Body, &name, &before, &after); err != nil || name != login1 || after == b.owner {
			return nil // what the bus says of others, or of what findOwner has found already
		}
		if after == "" {
			return errGone
		}
		return errReplaced
	case s.Name == manager+".PrepareForShutdown" && s.Sender == b.owner && s.Path == managerPath:
		var start bool
		if err := dbus.Store(s.Body, &start); err != nil {
			return fmt.Errorf("PrepareForShutdown with other arguments than one boolean: %w", err)
		}
		return w.announced(ctx, b, start, report)
	}
	return nil
}

// announced follows PrepareForShutdown. The host is not safe again before an inhibitor is held.
func (w *Watcher) announced(ctx context.Context, b *bus, start bool, report func(pod.Report)) error {
	if !start {
		going, err := w.take(ctx, b)
		if going || err != nil {
			return err // the next announcement has come already
		}
	}
	delay, err := b.delay(ctx)
	if err != nil {
		return err
	}
	w.learned(start, delay, report)
	return nil
}

// learned takes up how things stand, and reports it if it is news.
func (w *Watcher) learned(going bool, delay time.Duration, report func(pod.Report)) {
	w.mu.Lock()
	now := time.Now()
	last := w.health.Last
	next := pod.Report{Condition: pod.Mains, At: now, Detail: fmt.Sprintf("logind will wait up to %v", delay), Runtime: -1, Charge: -1}
	if going {
		next.Condition = pod.Going
		next.Detail = fmt.Sprintf("PrepareForShutdown: logind waits up to %v", delay)
	}
	if !w.health.Connected {
		w.health.Connected, w.health.Since, w.health.Error = true, now, ""
	}
	w.health.Warning = w.warning(delay)
	w.health.Last = next
	news := last.At.IsZero() || last.Condition != next.Condition
	if going && w.inhibitor != nil {
		spell := w.spell
		next.Done = func() { w.done(spell) }
	}
	w.mu.Unlock()
	if news {
		report(next)
	}
}

func (w *Watcher) warning(delay time.Duration) string {
	if delay >= w.minDelay {
		return ""
	}
	return fmt.Sprintf("logind waits only %v for the VMs to be saved, less than min_delay = %v: write [Login] and InhibitDelayMaxSec=%d "+
		"into /etc/systemd/logind.conf.d/nvh.conf, then systemctl restart systemd-logind", delay, w.minDelay, int((w.minDelay+time.Second-1)/time.Second))
}

// lost reports that nothing is known any more, once a loss.
func (w *Watcher) lost(err error, report func(pod.Report)) {
	w.mu.Lock()
	now := time.Now()
	last := w.health.Last
	if w.health.Connected || last.At.IsZero() {
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

// hold replaces the inhibitor by another, or by none, and with it what a Done of before could release.
func (w *Watcher) hold(inhibitor *os.File) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.spell++
	w.replace(inhibitor)
}

func (w *Watcher) replace(inhibitor *os.File) {
	if w.inhibitor != nil {
		w.inhibitor.Close() // of no consequence if it fails: the descriptor is gone
	}
	w.inhibitor = inhibitor
}

// done is what a report's Done calls: logind need not wait any more.
func (w *Watcher) done(spell uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if spell == w.spell {
		w.replace(nil)
	}
}

// Test implements pod.Watcher: beside Run it takes an inhibitor as Run does, gives it up again, and asks how long logind waits.
func (w *Watcher) Test(ctx context.Context) error {
	err := test(ctx)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", ctx.Err(), err) // its end closes the connection, and that may be all that err tells
	}
	if err != nil {
		return fmt.Errorf("logind: %w", explain(err))
	}
	return nil
}

func test(ctx context.Context) error {
	b, err := connect(ctx)
	if err != nil {
		return err
	}
	defer b.close()
	inhibitor, err := b.inhibit(ctx)
	if err != nil {
		return err
	}
	defer inhibitor.Close()
	_, err = b.delay(ctx)
	return err
}
