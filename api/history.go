package api

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/host"
)

const (
	// maxHistory is the number of events kept for readers that come back.
	maxHistory = 4096
	// resubscribe is the pause before the backend is asked again for events.
	resubscribe = time.Second
)

// history keeps the latest events. Readers hold a position, not a queue: one
// that falls behind by more than the history costs nobody else anything and
// learns how many events it missed.
type history struct {
	mu     sync.Mutex
	events []host.Event  // the latest, oldest first; at most max
	more   chan struct{} // closed when an event arrives
	max    int
}

func newHistory(max int) *history {
	return &history{more: make(chan struct{}), max: max}
}

// collect fills h until ctx is done.
func (h *history) collect(ctx context.Context, b Backend, log *slog.Logger) {
	for ctx.Err() == nil {
		events, err := b.Subscribe(ctx)
		if err != nil {
			log.Warn("no events", "error", err)
		} else {
			for e := range events {
				h.add(e)
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(resubscribe):
		}
	}
}

func (h *history) add(e host.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.events) == h.max {
		h.events = append(h.events[:0:0], h.events[h.max/4:]...)
	}
	h.events = append(h.events, e)
	close(h.more)
	h.more = make(chan struct{})
}

// last returns the sequence number of the latest event, 0 when there is none.
func (h *history) last() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.events) == 0 {
		return 0
	}
	return h.events[len(h.events)-1].Sequence
}

// after returns the events behind sequence number seq and a channel that is
// closed when there are more. lost is set when events between seq and the first
// returned one are no longer known, or when seq is of an earlier daemon.
func (h *history) after(seq uint64) (events []host.Event, lost bool, more <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.events) == 0 {
		return nil, false, h.more
	}
	if seq > h.events[len(h.events)-1].Sequence {
		return clone(h.events), true, h.more
	}
	for i, e := range h.events {
		if e.Sequence > seq {
			return clone(h.events[i:]), i == 0 && seq != 0 && e.Sequence > seq+1, h.more
		}
	}
	return nil, false, h.more
}

func clone(events []host.Event) []host.Event { return append([]host.Event(nil), events...) }
