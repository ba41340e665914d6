package gpio

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/pod"
)

// Watcher watches a line in the battery tier. It implements pod.Watcher.
type Watcher struct {
	config Config
	log    pod.Logbook

	mu   sync.Mutex
	line *line // while it is requested; guards its descriptor as well
}

var _ pod.Watcher = (*Watcher)(nil)

const (
	// checking is how often the line itself is read: for controllers that vanish without a word, and for edges that no
	// interrupt came for.
	checking = 5 * time.Second
	minRetry = time.Second
	maxRetry = 30 * time.Second
)

// New checks a configuration. Run requests the line, as it may come later.
func New(c Config) (*Watcher, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	if c.Emergency() {
		return nil, fmt.Errorf("%s: it is configured for the emergency tier: use Open", c.name())
	}
	return &Watcher{config: c}, nil
}

// Name implements pod.Watcher.
func (w *Watcher) Name() string { return w.config.name() }

// Tier implements pod.Watcher.
func (w *Watcher) Tier() pod.Tier { return pod.Battery }

// Health implements pod.Watcher.
func (w *Watcher) Health() pod.Health { return w.log.Health() }

// Run implements pod.Watcher.
func (w *Watcher) Run(ctx context.Context, report func(pod.Report)) {
	news := w.log.Reporter(report)
	pod.Backoff{First: minRetry, Longest: maxRetry}.Repeat(ctx, func(reached func()) error {
		return w.watch(ctx, news, reached)
	}, func(err error) {
		w.log.Lost(err)
		news.Tell(pod.Report{Condition: pod.Unknown, Detail: err.Error(), Runtime: -1, Charge: -1})
	})
}

// watch requests the line and tells of it until it is lost, or ctx is done.
func (w *Watcher) watch(ctx context.Context, news *pod.Reporter, connected func()) error {
	l, err := request(w.config)
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(l.fd), w.Name())
	w.setLine(l)
	defer func() {
		w.setLine(nil)
		file.Close()
	}()
	defer context.AfterFunc(ctx, func() { file.SetReadDeadline(time.Unix(1, 0)) })()
	connected()
	w.log.Connected()
	now, sinceNS := l.read(unchanged, 0)
	for p := make([]byte, queued*eventSize); ; {
		w.tell(news, now, sinceNS)
		file.SetReadDeadline(time.Now().Add(checking))
		if ctx.Err() != nil { // or its deadline is gone
			return ctx.Err()
		}
		n, err := file.Read(p)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, os.ErrDeadlineExceeded):
			on, err := l.active()
			if err != nil {
				return fmt.Errorf("%s: read the line: %w: %s", w.Name(), err, unplugged(err))
			}
			now, sinceNS = inactive, 0
			if on {
				now = active
			}
		case err != nil:
			return fmt.Errorf("%s: wait for an edge: %w: %s", w.Name(), err, unplugged(err))
		default:
			now, sinceNS = l.decode(p[:n])
		}
	}
}

// tell reports how the line stands.
func (w *Watcher) tell(news *pod.Reporter, now level, sinceNS int64) {
	r := pod.Report{Runtime: -1, Charge: -1}
	switch now {
	case unchanged:
		return
	case active:
		r.Condition, r.Detail = means[w.config.Means], "line active"
	case inactive:
		r.Condition, r.Detail = pod.Mains, "line inactive"
	}
	if sinceNS != 0 {
		r.At = timeOf(sinceNS)
	}
	news.Tell(r)
}

// timeOf turns CLOCK_MONOTONIC into a time with a monotonic reading.
func timeOf(ns int64) time.Time {
	var now unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // cannot fail for this clock
	return time.Now().Add(-time.Duration(now.Nano() - ns))
}

func (w *Watcher) setLine(l *line) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.line = l
}

// Test implements pod.Watcher: it reads the line. Of the wire it says nothing: only pulling it does.
func (w *Watcher) Test(context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.line == nil {
		return fmt.Errorf("%s is not requested: %s", w.Name(), w.Health().Error)
	}
	if _, err := w.line.active(); err != nil {
		return fmt.Errorf("%s: read the line: %w: %s", w.Name(), err, unplugged(err))
	}
	return nil
}
