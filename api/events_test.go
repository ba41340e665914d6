package api_test

import (
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/api"
	"github.com/nv-hypervisor/nv-hypervisor/host"
)

// ready waits until the server listens to its backend.
func (d *daemon) ready(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); d.Subscribers() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the server has not subscribed")
		}
	}
}

func (d *daemon) events(t *testing.T, after uint64) *api.EventStream {
	t.Helper()
	s, err := d.Client.Events(t.Context(), &after)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func next(t *testing.T, s *api.EventStream) host.Event {
	t.Helper()
	e, err := s.Next()
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestEventsInOrder(t *testing.T) {
	d := serve(t)
	d.ready(t)
	s := d.events(t, 0)
	for i := range 100 {
		d.Publish("state", "web", map[string]string{"n": strconv.Itoa(i), "text": "line\nbreak"})
	}
	for i := range 100 {
		e := next(t, s)
		if e.Sequence != uint64(i+1) || e.Type != "state" || e.VM != "web" || e.Data["n"] != strconv.Itoa(i) || e.Data["text"] != "line\nbreak" {
			t.Fatalf("event %d: %+v", i, e)
		}
	}
}

// A reader that comes back continues where it was.
func TestEventsContinue(t *testing.T) {
	d := serve(t)
	d.ready(t)
	for range 5 {
		d.Publish("state", "web", nil)
	}
	first := d.events(t, 0)
	for range 3 {
		next(t, first)
	}
	first.Close()
	if e := next(t, d.events(t, 3)); e.Sequence != 4 {
		t.Errorf("continues at %d", e.Sequence)
	}
}

// Without a position a reader gets only what happens from then on.
func TestEventsFromNowOn(t *testing.T) {
	d := serve(t)
	d.ready(t)
	d.Publish("old", "", nil)
	next(t, d.events(t, 0)) // the server has it
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events, err := d.Client.Subscribe(ctx)
	if err != nil {
		t.Fatal(err)
	}
	d.Publish("new", "", nil)
	if e := <-events; e.Type != "new" {
		t.Errorf("got %+v", e)
	}
	cancel()
	for range events { // it is closed
	}
}

// A reader that is too late learns that it missed something.
func TestEventsGap(t *testing.T) {
	d := serve(t)
	d.ready(t)
	const n = 2 * api.MaxHistory
	for range n {
		d.Publish("state", "", nil)
	}
	// The server has them all when the last one is there.
	tail := d.events(t, n-1)
	for next(t, tail).Sequence != n {
	}
	s := d.events(t, 10)
	gap := next(t, s)
	if gap.Type != api.EventGap || gap.Data["last_seen"] != "10" {
		t.Fatalf("%+v", gap)
	}
	if e := next(t, s); strconv.FormatUint(e.Sequence, 10) != gap.Data["next"] || e.Sequence <= 11 {
		t.Errorf("the gap says %s, then comes %d", gap.Data["next"], e.Sequence)
	}
}

// A position of an earlier daemon, whose numbers were higher, is a gap too.
func TestEventsOfAnEarlierDaemon(t *testing.T) {
	d := serve(t)
	d.ready(t)
	d.Publish("state", "", nil)
	s := d.events(t, 1_000_000)
	if gap := next(t, s); gap.Type != api.EventGap {
		t.Errorf("%+v", gap)
	}
	if e := next(t, s); e.Sequence != 1 {
		t.Errorf("%+v", e)
	}
}

// A silent stream shows that it is alive.
func TestHeartbeat(t *testing.T) {
	d := serve(t)
	c := d.dial(t)
	io.WriteString(c, "GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
	var got []byte
	buffer := make([]byte, 4096)
	for beats := 0; beats < 2; {
		n, err := c.Read(buffer)
		if err != nil {
			t.Fatalf("%v after %q", err, got)
		}
		got = append(got, buffer[:n]...)
		beats = strings.Count(string(got), ": still here\n\n")
	}
}

// The end of the daemon ends the streams, at once and in order.
func TestShutdownEndsStreams(t *testing.T) {
	d := serve(t)
	d.ready(t)
	s := d.events(t, 0)
	began := time.Now()
	if err := d.stop(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("shutdown took %v", took)
	}
	if _, err := s.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream ended with %v", err)
	}
}

// A backend whose subscription breaks is asked again.
func TestResubscribe(t *testing.T) {
	d := serve(t)
	d.ready(t)
	d.DropSubscribers()
	d.ready(t)
	d.Publish("after", "", nil)
	if e := next(t, d.events(t, 0)); e.Type != "after" {
		t.Errorf("%+v", e)
	}
}
