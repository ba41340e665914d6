package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/host"
)

const (
	// heartbeat is the pause between two comments in a silent event stream, by
	// which both sides notice that the other is gone.
	heartbeat = 15 * time.Second
	// EventGap is the type of the event that says that events are missing: the
	// reader was too slow, or came back too late or to another daemon.
	EventGap = "gap"
)

// streamEvents serves the events as they come. Without a Last-Event-ID it
// begins with the next event, with one behind that event.
func (s *Server) streamEvents(w http.ResponseWriter, r *http.Request) error {
	seen := s.events.last()
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		n, err := strconv.ParseUint(id, 10, 64)
		if err != nil {
			return invalid("Last-Event-ID %q is not a number", id)
		}
		seen = n
	}
	out := &eventWriter{w: w, control: http.NewResponseController(w)}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	out.send(": nvh\n\n")

	tick := time.NewTicker(s.heartbeat)
	defer tick.Stop()
	for out.err == nil {
		events, lost, more := s.events.after(seen)
		if lost {
			out.gap(seen, events[0])
		}
		for _, e := range events {
			out.event(e)
			seen = e.Sequence
		}
		if len(events) > 0 {
			continue
		}
		select {
		case <-more:
		case <-tick.C:
			out.send(": still here\n\n")
		case <-r.Context().Done():
			return nil
		case <-s.streaming.Done():
			return nil
		}
	}
	return nil
}

// eventWriter writes server-sent events; after an error it does nothing more.
type eventWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
	err     error
}

func (o *eventWriter) event(e host.Event) {
	data, err := json.Marshal(e)
	if err != nil {
		o.err = err
		return
	}
	o.send(fmt.Sprintf("id: %d\nevent: %s\ndata: %s\n\n", e.Sequence, e.Type, data))
}

// gap tells the reader what it missed. It has no id: a reader that comes back
// asks from the last real event.
func (o *eventWriter) gap(seen uint64, next host.Event) {
	data, err := json.Marshal(host.Event{Time: next.Time, Type: EventGap, Data: map[string]string{
		"last_seen": strconv.FormatUint(seen, 10),
		"next":      strconv.FormatUint(next.Sequence, 10),
	}})
	if err != nil {
		o.err = err
		return
	}
	o.send(fmt.Sprintf("event: %s\ndata: %s\n\n", EventGap, data))
}

func (o *eventWriter) send(text string) {
	if o.err != nil {
		return
	}
	if o.err = o.control.SetWriteDeadline(time.Now().Add(writeTimeout)); o.err != nil {
		return
	}
	if _, o.err = o.w.Write([]byte(text)); o.err == nil {
		o.err = o.control.Flush()
	}
}
