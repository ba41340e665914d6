package policy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/nv-hypervisor/nv-hypervisor/pod"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// wire is a watcher whose reports the test makes.
type wire struct {
	name    string
	tier    pod.Tier
	reports chan pod.Report
}

func (w *wire) Name() string               { return w.name }
func (w *wire) Tier() pod.Tier             { return w.tier }
func (w *wire) Health() pod.Health         { return pod.Health{Error: "cut"} }
func (w *wire) Test(context.Context) error { return nil }

func (w *wire) Run(ctx context.Context, report func(pod.Report)) {
	for {
		select {
		case r := <-w.reports:
			report(r)
		case <-ctx.Done():
			report(pod.Report{Condition: pod.Unknown, At: time.Now()})
			return
		}
	}
}

func (w *wire) say(c pod.Condition, done func()) {
	w.reports <- pod.Report{Condition: c, At: time.Now(), Runtime: 30 * time.Minute, Charge: 90, Done: done}
	synctest.Wait()
}

// stage is a host that a runner saves and continues.
type stage struct {
	*Runner
	t     *testing.T
	wires []*wire

	began func(id string)
	ended func(id string, operator bool)

	mu     sync.Mutex
	saves  []Save
	ends   []string
	events []string
	err    error         // of Begin and End
	hold   chan struct{} // Begin and End wait for it
}

func play(t *testing.T, wires ...*wire) *stage {
	s := &stage{t: t, wires: wires, hold: make(chan struct{})}
	close(s.hold)
	var watched []Watched
	for _, w := range wires {
		w.reports = make(chan pod.Report)
		watched = append(watched, Watched{w, Defaults(w.tier)})
	}
	s.Runner = Start(watched, Options{
		Outages: s, Need: func() time.Duration { return need }, Log: slog.New(slog.DiscardHandler),
		Notify: func(event string, data map[string]string) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.events = append(s.events, event+" "+data["phase"]+data["condition"]+data["error"])
		},
	})
	synctest.Wait()
	return s
}

// Observe implements Outages.
func (s *stage) Observe(began func(string), ended func(string, bool)) {
	s.began, s.ended = began, ended
}

// Begin implements Outages.
func (s *stage) Begin(ctx context.Context, save Save) (string, error) {
	s.mu.Lock()
	s.saves = append(s.saves, save)
	id, err, hold := fmt.Sprint("outage ", len(s.saves)), s.err, s.hold
	s.mu.Unlock()
	select {
	case <-hold:
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if err == nil {
		s.began(id)
	}
	return id, err
}

// End implements Outages.
func (s *stage) End(_ context.Context, id string) error {
	s.mu.Lock()
	s.ends = append(s.ends, id)
	err := s.err
	s.mu.Unlock()
	if err == nil {
		s.ended(id, false)
	}
	return err
}

func (s *stage) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func (s *stage) expect(phase Phase, saves, ends int) {
	s.t.Helper()
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if got := s.Status().Phase; got != phase || len(s.saves) != saves || len(s.ends) != ends {
		s.t.Fatalf("%v with %d saves and %d ends, want %v with %d and %d", got, len(s.saves), len(s.ends), phase, saves, ends)
	}
}

// The whole way, by the clock alone: ridden through, saved, continued.
func TestRunner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ups := &wire{name: "ups", tier: pod.Battery}
		s := play(t, ups)
		defer s.Close()
		ups.say(pod.Mains, nil)
		ups.say(pod.OnBattery, nil)
		s.expect(Calm, 0, 0)
		time.Sleep(2 * time.Second)
		s.expect(Riding, 0, 0)
		if st := s.Status(); st.Source != "ups" || st.Since.After(time.Now()) {
			t.Errorf("status %+v", st)
		}
		ups.say(pod.LowBattery, nil)
		s.expect(Saved, 1, 0)
		if want := (Save{"ups", pod.Battery, "low battery"}); s.saves[0] != want {
			t.Errorf("%+v, want %+v", s.saves[0], want)
		}
		ups.say(pod.Mains, nil)
		s.expect(Returning, 1, 0)
		time.Sleep(10 * time.Second)
		s.expect(Calm, 1, 1)
		if s.ends[0] != "outage 1" || len(s.Watched()) != 1 {
			t.Errorf("ended %q", s.ends)
		}
		ups.say(pod.Unknown, nil)
		for _, want := range []string{"detector mains", "detector on battery", "policy riding", "policy saving", "policy saved", "policy returning", "policy calm", "detector unknowncut"} {
			if !slices.Contains(s.events, want) {
				t.Errorf("events %q lack %q", s.events, want)
			}
		}
	})
}

// Without a battery's word nothing is done, whatever time passes; the estimate runs out by the clock.
func TestRunnerWakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ups := &wire{name: "ups", tier: pod.Battery}
		s := play(t, ups)
		defer s.Close()
		time.Sleep(time.Hour)
		s.expect(Calm, 0, 0)
		ups.say(pod.OnBattery, nil) // half an hour, less 60 s + 3 × 1 s
		time.Sleep(30*time.Minute - 63*time.Second - time.Millisecond)
		s.expect(Riding, 0, 0)
		time.Sleep(time.Millisecond)
		s.expect(Saved, 1, 0)
	})
}

// What fails is tried again while there is a reason, and who waits is told.
func TestRunnerFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := &wire{name: "logind", tier: pod.Planned}
		s := play(t, host)
		defer s.Close()
		s.fail(errors.New("no"))
		told := 0
		host.say(pod.Going, func() { told++ })
		s.expect(Riding, 1, 0)
		if told != 1 {
			t.Errorf("told %d times", told)
		}
		time.Sleep(time.Second)
		s.expect(Riding, 2, 0)
		s.fail(nil)
		time.Sleep(time.Second)
		s.expect(Saved, 3, 0)
		s.fail(errors.New("no"))
		host.say(pod.Mains, nil)
		s.expect(Returning, 3, 1)
		s.fail(nil)
		time.Sleep(time.Second)
		s.expect(Calm, 3, 2)
	})
}

// An outage of others is theirs; its end by hand is respected.
func TestRunnerOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ups := &wire{name: "ups", tier: pod.Battery}
		s := play(t, ups)
		defer s.Close()
		s.began("by signal")
		s.expect(Elsewhere, 0, 0)
		ups.say(pod.LowBattery, nil)
		s.expect(Elsewhere, 0, 0)
		s.ended("by signal", true)
		s.expect(Calm, 0, 0)
		time.Sleep(10 * time.Second)
		s.expect(Saved, 1, 0)
	})
}

// Close waits for everything, and leaves nobody waiting.
func TestRunnerClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ups, host := &wire{name: "ups", tier: pod.Battery}, &wire{name: "logind", tier: pod.Planned}
		s := play(t, ups, host)
		s.hold = make(chan struct{})
		told := 0
		host.say(pod.Going, func() { told++ })
		s.expect(Saving, 1, 0)
		if told != 0 {
			t.Error("told before the save was over")
		}
		s.Close()
		if told != 1 {
			t.Errorf("told %d times", told)
		}
	})
}
