package webhook

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nv-hypervisor/nv-hypervisor/internal/strictjson"
	"github.com/nv-hypervisor/nv-hypervisor/pod"
)

// start runs a watcher until the end of the test, or of the bubble by stop.
func start(t *testing.T, w *Watcher) (reports chan pod.Report, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	reports = make(chan pod.Report, 100)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.Run(ctx, func(r pod.Report) { reports <- r })
	}()
	stop = func() { cancel(); <-ended }
	t.Cleanup(stop)
	for { // until it takes events
		w.mu.Lock()
		running := w.running
		w.mu.Unlock()
		if running {
			return reports, stop
		}
		time.Sleep(time.Millisecond)
	}
}

func number(v float64) *float64 { return &v }

func must(t *testing.T, c Config) *Watcher {
	t.Helper()
	w, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// say has an event accepted, and waits until it was reported.
func say(t *testing.T, w *Watcher, e Event) Answer {
	t.Helper()
	a, err := w.Accept(e)
	if err != nil {
		t.Fatalf("%+v: %v", e, err)
	}
	synctest.Wait()
	return a
}

func expect(t *testing.T, reports chan pod.Report, want ...pod.Report) {
	t.Helper()
	synctest.Wait()
	var got []pod.Report
	for len(reports) > 0 {
		got = append(got, <-reports)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("reports, want (-) and got (+):\n%s", diff)
	}
}

func TestEventsBecomeReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := must(t, Config{})
		reports, stop := start(t, w)
		defer stop()
		expect(t, reports) // nothing before the first event
		began := time.Now()
		earlier := began.Add(-5 * time.Second)
		a := say(t, w, Event{Condition: "on-battery", Runtime: number(300), Charge: number(80), Detail: "feed A", Source: "bmc-7", At: &earlier})
		if a != (Answer{Condition: "on battery"}) {
			t.Errorf("answer %+v", a)
		}
		time.Sleep(time.Second)
		say(t, w, Event{Condition: "on-battery", Runtime: number(300), Charge: number(80), Detail: "feed A", Source: "bmc-7"}) // nothing new
		say(t, w, Event{Condition: "low-battery", Source: "bmc-7"})
		say(t, w, Event{Condition: "test", Source: "bmc-7"})
		say(t, w, Event{Condition: "going", Source: "bmc-7"})
		say(t, w, Event{Condition: "mains", Source: "bmc-7"})
		expect(t, reports,
			pod.Report{Condition: pod.OnBattery, At: earlier, Detail: "bmc-7: feed A", Runtime: 5 * time.Minute, Charge: 80},
			pod.Report{Condition: pod.LowBattery, At: began.Add(time.Second), Detail: "bmc-7", Runtime: -1, Charge: -1},
			pod.Report{Condition: pod.Going, At: began.Add(time.Second), Detail: "bmc-7", Runtime: -1, Charge: -1},
			pod.Report{Condition: pod.Mains, At: began.Add(time.Second), Detail: "bmc-7", Runtime: -1, Charge: -1},
		)
		if h := w.Health(); !h.Connected || h.Last.Condition != pod.Mains {
			t.Errorf("health %+v", h)
		}
	})
}

// The worst that any source says counts, with the least runtime.
func TestSeveralSources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := must(t, Config{})
		reports, stop := start(t, w)
		defer stop()
		now := time.Now()
		say(t, w, Event{Condition: "mains", Source: "a", Runtime: number(1)})
		say(t, w, Event{Condition: "on-battery", Source: "b", Runtime: number(600)})
		say(t, w, Event{Condition: "low-battery", Source: "a", Runtime: number(900)})
		say(t, w, Event{Condition: "mains", Source: "b"})
		if a := say(t, w, Event{Condition: "mains", Source: "a"}); a.Condition != "mains" {
			t.Errorf("answer %+v", a)
		}
		expect(t, reports,
			pod.Report{Condition: pod.Mains, At: now, Detail: "a", Runtime: -1, Charge: -1},
			pod.Report{Condition: pod.OnBattery, At: now, Detail: "b", Runtime: 10 * time.Minute, Charge: -1},
			pod.Report{Condition: pod.LowBattery, At: now, Detail: "a", Runtime: 10 * time.Minute, Charge: -1},
			pod.Report{Condition: pod.LowBattery, At: now, Detail: "a", Runtime: 15 * time.Minute, Charge: -1},
			pod.Report{Condition: pod.Mains, At: now, Detail: "a", Runtime: -1, Charge: -1},
		)
	})
}

// A source that does not repeat its word is forgotten; with the last one nothing is known.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := must(t, Config{StaleAfter: time.Minute})
		reports, stop := start(t, w)
		defer stop()
		synctest.Wait()
		if h := w.Health(); h.Connected || !strings.Contains(h.Error, "stale_after") {
			t.Errorf("health before the first word: %+v", h)
		}
		began := time.Now()
		if a := say(t, w, Event{Condition: "on-battery", Source: "a"}); a.Expires != 60 {
			t.Errorf("answer %+v", a)
		}
		time.Sleep(30 * time.Second)
		say(t, w, Event{Condition: "mains", Source: "b"})
		time.Sleep(29 * time.Second)
		expect(t, reports, pod.Report{Condition: pod.OnBattery, At: began, Detail: "a", Runtime: -1, Charge: -1})
		time.Sleep(time.Second) // a is stale
		expect(t, reports, pod.Report{Condition: pod.Mains, At: began.Add(30 * time.Second), Detail: "b", Runtime: -1, Charge: -1})
		if h := w.Health(); !h.Connected {
			t.Errorf("health %+v", h)
		}
		time.Sleep(29 * time.Second)
		say(t, w, Event{Condition: "mains", Source: "b"}) // repeated in time
		time.Sleep(59 * time.Second)
		expect(t, reports)
		time.Sleep(time.Second)
		expect(t, reports, pod.Report{Condition: pod.Unknown, At: time.Now(), Detail: "no source speaks", Runtime: -1, Charge: -1})
		if h := w.Health(); h.Connected || h.Last.Condition != pod.Unknown {
			t.Errorf("health %+v", h)
		}
		say(t, w, Event{Condition: "mains", Source: "b"})
		if expect(t, reports, pod.Report{Condition: pod.Mains, At: time.Now(), Detail: "b", Runtime: -1, Charge: -1}); !w.Health().Connected {
			t.Errorf("health %+v", w.Health())
		}
	})
}

func TestReplayAndOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := must(t, Config{MaxAge: time.Minute, StaleAfter: 10 * time.Second})
		_, stop := start(t, w)
		defer stop()
		began := time.Now()
		at := func(offset time.Duration) *time.Time { t := began.Add(offset); return &t }
		for _, step := range []struct {
			what    string
			event   Event
			refused bool
		}{
			{"first", Event{Sequence: 5}, false},
			{"the same again", Event{Sequence: 5}, true},
			{"an earlier one", Event{Sequence: 4}, true},
			{"a later one", Event{Sequence: 6}, false},
			{"another source", Event{Sequence: 1, Source: "other"}, false},
			{"with a time for the first time", Event{At: at(-time.Second), Sequence: 7}, false},
			{"the same again", Event{At: at(-time.Second), Sequence: 7}, true},
			{"the same time, the next number", Event{At: at(-time.Second), Sequence: 8}, false},
			{"an earlier time, whatever the number", Event{At: at(-2 * time.Second), Sequence: 99}, true},
			{"a later time, counting anew", Event{At: at(0), Sequence: 1}, false},
			{"the same time without a number", Event{At: at(0)}, true},
			{"too old", Event{At: at(-61 * time.Second), Source: "fresh"}, true},
			{"too far ahead", Event{At: at(61 * time.Second), Source: "fresh"}, true},
			{"just not too far ahead", Event{At: at(59 * time.Second), Source: "fresh"}, false},
			{"neither", Event{}, false},
		} {
			step.event.Condition = "mains"
			if _, err := w.Accept(step.event); errors.Is(err, ErrOutOfOrder) != step.refused || err != nil && !step.refused {
				t.Errorf("%s: %v", step.what, err)
			}
		}
		// A stale source keeps its place: what comes late is still late.
		time.Sleep(20 * time.Second)
		if _, err := w.Accept(Event{Condition: "mains", Source: "other", Sequence: 1}); !errors.Is(err, ErrOutOfOrder) {
			t.Errorf("after it was stale: %v", err)
		}
	})
}

func TestManySources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := must(t, Config{StaleAfter: time.Minute})
		_, stop := start(t, w)
		defer stop()
		for i := range maxSources {
			say(t, w, Event{Condition: "mains", Source: string(rune('a' + i))})
			time.Sleep(time.Second)
		}
		if _, err := w.Accept(Event{Condition: "mains", Source: "one more"}); !errors.Is(err, ErrTooMany) {
			t.Errorf("%v", err)
		}
		time.Sleep(45 * time.Second) // a is stale
		say(t, w, Event{Condition: "going", Source: "one more"})
		if _, err := w.Accept(Event{Condition: "mains", Source: "a"}); err != nil {
			t.Errorf("the next one is stale: %v", err)
		}
		if n := len(w.words); n != maxSources {
			t.Errorf("%d sources are kept", n)
		}
	})
}

func TestEventsThatAreInvalid(t *testing.T) {
	w := must(t, Config{})
	_, _ = start(t, w)
	for what, e := range map[string]Event{
		"no condition":      {},
		"unknown condition": {Condition: "on fire"},
		"negative runtime":  {Condition: "mains", Runtime: number(-1)},
		"endless runtime":   {Condition: "mains", Runtime: number(1e300)},
		"charge":            {Condition: "mains", Charge: number(101)},
		"long source":       {Condition: "mains", Source: strings.Repeat("x", 65)},
		"long detail":       {Condition: "mains", Detail: strings.Repeat("x", 257)},
		"escape":            {Condition: "mains", Detail: "\x1b[2J"},
		"line break":        {Condition: "mains", Source: "a\nb"},
		"right to left":     {Condition: "mains", Detail: "\u202e"},
		"not UTF-8":         {Condition: "mains", Detail: "\xff"},
		"invalid test":      {Condition: "test", Charge: number(-1)},
	} {
		if _, err := w.Accept(e); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestNotRunning(t *testing.T) {
	w := must(t, Config{})
	if err := w.Test(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("before: %v", err)
	}
	_, stop := start(t, w)
	if err := w.Test(t.Context()); err != nil {
		t.Errorf("running: %v", err)
	}
	stop()
	if _, err := w.Accept(Event{Condition: "going"}); !errors.Is(err, ErrNotRunning) {
		t.Errorf("after: %v", err)
	}
}

// Whatever bytes come, an event is either refused or within its bounds.
func FuzzEvent(f *testing.F) {
	f.Add([]byte(`{"condition":"on-battery","runtime_s":300,"charge":80,"detail":"feed A","source":"bmc-7","at":"2026-11-24T20:00:00Z","sequence":1}`))
	f.Add([]byte(`{"condition":"going","runtime_s":1e308}`))
	f.Add([]byte(`{"condition":"mains","at":"0000-01-01T00:00:00Z"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var e Event
		if strictjson.Decode(body, &e) != nil || e.check() != nil {
			return
		}
		now := time.Now()
		if e.checkOrder(nil, now, time.Minute) != nil {
			return
		}
		o := e.word(nil, now, Config{StaleAfter: time.Minute})
		if o.runtime > maxRuntime || o.charge > 100 || o.since.After(now) || now.Sub(o.since) > time.Minute || !o.valid(now) {
			t.Errorf("%s became %+v", body, o)
		}
	})
}
