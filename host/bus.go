package host

import (
	"context"
	"sync"
	"time"
)

// subscriberBacklog is how many events a subscriber may be behind before it loses
// the oldest; the sequence number shows the gap. A publisher never waits.
const subscriberBacklog = 1024

// bus distributes events.
type bus struct {
	mu          sync.Mutex
	sequence    uint64
	subscribers map[chan Event]bool
	closed      bool
}

func (b *bus) publish(kind, vm string, data map[string]string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sequence++
	e := Event{Sequence: b.sequence, Time: time.Now().UTC(), Type: kind, VM: vm, Data: data}
	for ch := range b.subscribers {
		for {
			select {
			case ch <- e:
			default:
				select {
				case <-ch:
				default:
				}
				continue
			}
			break
		}
	}
}

func (b *bus) subscribe(ctx context.Context) <-chan Event {
	ch := make(chan Event, subscriberBacklog)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		close(ch)
		return ch
	}
	if b.subscribers == nil {
		b.subscribers = map[chan Event]bool{}
	}
	b.subscribers[ch] = true
	context.AfterFunc(ctx, func() { b.drop(ch) })
	return ch
}

func (b *bus) drop(ch chan Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.subscribers[ch] {
		delete(b.subscribers, ch)
		close(ch)
	}
}

func (b *bus) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for ch := range b.subscribers {
		delete(b.subscribers, ch)
		close(ch)
	}
}
