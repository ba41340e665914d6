package host

import (
	"context"
	"fmt"
	"sync"
	"testing"
)

// Every subscriber sees every event, in order, from when it subscribed.
func TestBus(t *testing.T) {
	var b bus
	b.publish("nobody listens", "", nil)
	ctx, cancel := context.WithCancel(context.Background())
	first, second := b.subscribe(ctx), b.subscribe(context.Background())
	for i := range 10 {
		b.publish("state", fmt.Sprint("vm", i), map[string]string{"state": "running"})
	}
	for _, events := range []<-chan Event{first, second} {
		for i := range 10 {
			e := <-events
			if e.Sequence != uint64(i+2) || e.VM != fmt.Sprint("vm", i) || e.Type != "state" || e.Data["state"] != "running" || e.Time.IsZero() {
				t.Errorf("event %d is %+v", i, e)
			}
		}
	}
	cancel()
	if _, open := <-first; open {
		t.Error("an event after the end of the subscription")
	}
	b.publish("state", "last", nil)
	b.close()
	if e := <-second; e.VM != "last" {
		t.Errorf("%+v", e)
	}
	if _, open := <-second; open {
		t.Error("an event after the end of the bus")
	}
	if _, open := <-b.subscribe(context.Background()); open {
		t.Error("an event of a bus that has ended")
	}
	b.publish("state", "", nil) // into the void
	b.close()
}

// A subscriber that does not take its events loses the oldest, sees that by the
// numbers, and makes nobody wait.
func TestSlowSubscriber(t *testing.T) {
	var b bus
	slow := b.subscribe(context.Background())
	const lost = 5
	for range subscriberBacklog + lost {
		b.publish("state", "", nil)
	}
	b.close()
	want := uint64(lost + 1)
	for e := range slow {
		if e.Sequence != want {
			t.Fatalf("event %d, want %d", e.Sequence, want)
		}
		want++
	}
	if want != subscriberBacklog+lost+1 {
		t.Errorf("the last event is %d", want-1)
	}
}

// Publishers, subscribers and the end of both at once, for the race detector.
func TestBusAtOnce(t *testing.T) {
	var b bus
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 1000 {
				b.publish("state", "", nil)
			}
		})
		all.Go(func() {
			for range 20 {
				ctx, cancel := context.WithCancel(context.Background())
				events := b.subscribe(ctx)
				last := uint64(0)
				for range 3 {
					select {
					case e, open := <-events:
						if open && e.Sequence <= last {
							t.Errorf("event %d after %d", e.Sequence, last)
						}
						last = e.Sequence
					default:
					}
				}
				cancel()
			}
		})
	}
	all.Wait()
	b.close()
}
