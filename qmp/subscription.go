package qmp

import (
	"context"
	"fmt"
	"sync"
)

// Limits of one subscription's queue. A VM in trouble raises a few events per
// second; a queue this long means a subscriber that has stopped taking.
const (
	// MaxQueuedEvents is the number of events a subscription holds for its subscriber.
	MaxQueuedEvents = 16384
	// MaxQueuedBytes is the number of bytes, as received, that those events may have.
	MaxQueuedBytes = 16 << 20
)

// Subscription is a queue of events: all that QEMU sends from Subscribe on, in
// order. It never makes the client wait. It holds at most MaxQueuedEvents events
// of together MaxQueuedBytes received bytes; the event that does not fit ends the
// subscription with ErrOverflow, after those before it.
type Subscription struct {
	leave func() // tells the client that the subscription has ended

	ready chan struct{} // holds a token while the queue may have events
	ended chan struct{} // closed when no further event will be queued

	mu     sync.Mutex
	queue  []queuedEvent // guarded by mu
	bytes  int           // guarded by mu; sum over queue
	reason error         // guarded by mu; set before ended is closed
}

type queuedEvent struct {
	event Event
	bytes int
}

func newSubscription(leave func()) *Subscription {
	return &Subscription{leave: leave, ready: make(chan struct{}, 1), ended: make(chan struct{})}
}

// Next returns the oldest event not yet taken and waits for one if there is none.
// When all events are taken and no more can come, it returns the reason: ErrOverflow,
// ErrClosed, or the error that ended the client.
func (s *Subscription) Next(ctx context.Context) (Event, error) {
	for {
		if event, ok := s.take(); ok {
			return event, nil
		}
		select {
		case <-s.ready:
		case <-s.ended:
			if event, ok := s.take(); ok {
				return event, nil
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			return nil, fmt.Errorf("qmp: next event: %w", s.reason)
		case <-ctx.Done():
			return nil, fmt.Errorf("qmp: next event: %w", ctx.Err())
		}
	}
}

// Close ends the subscription and drops what it holds. It may be called more than once.
func (s *Subscription) Close() {
	s.leave()
	s.end(ErrClosed)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue, s.bytes = nil, 0
}

func (s *Subscription) take() (Event, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		return nil, false
	}
	first := s.queue[0]
	s.queue[0] = queuedEvent{} // let go of the event
	s.queue = s.queue[1:]
	s.bytes -= first.bytes
	if len(s.queue) > 0 {
		s.wake() // for another goroutine in Next
	}
	return first.event, true
}

// put queues an event. It reports false when the subscription has ended.
func (s *Subscription) put(event Event, bytes int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reason != nil {
		return false
	}
	if len(s.queue) == MaxQueuedEvents || s.bytes+bytes > MaxQueuedBytes {
		s.endLocked(ErrOverflow)
		return false
	}
	s.queue = append(s.queue, queuedEvent{event, bytes})
	s.bytes += bytes
	s.wake()
	return true
}

func (s *Subscription) end(reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endLocked(reason)
}

func (s *Subscription) endLocked(reason error) {
	if s.reason == nil {
		s.reason = reason
		close(s.ended)
	}
}

func (s *Subscription) wake() {
	select {
	case s.ready <- struct{}{}:
	default:
	}
}
