package pod_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/nv-hypervisor/nv-hypervisor/pod"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestHealthSinceWhen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l pod.Logbook
		if h := l.Health(); h.Connected || !h.Since.IsZero() || h.Error != "" {
			t.Errorf("before: %+v", h)
		}
		begin := time.Now()
		for _, step := range []struct {
			do    func()
			since time.Duration
			err   string
		}{
			{func() { l.Lost(errors.New("no route")) }, 0, "no route"},
			{func() { l.Lost(errors.New("no host")) }, 0, "no host"}, // still the same loss
			{l.Connected, 2 * time.Second, ""},
			{l.Connected, 2 * time.Second, ""},
			{func() { l.Lost(errors.New("gone")) }, 4 * time.Second, "gone"},
		} {
			step.do()
			h := l.Health()
			if h.Connected != (step.err == "") || h.Error != step.err || h.Since.Sub(begin) != step.since {
				t.Errorf("%+v after %v, want %+v", h, time.Since(begin), step)
			}
			time.Sleep(time.Second)
		}
	})
}

func TestReporterTellsWhatIsNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l pod.Logbook
		var got []pod.Report
		begin := time.Now()
		p := l.Reporter(func(r pod.Report) { got = append(got, r) })
		said := begin.Add(-time.Minute)
		waits := func() {}
		for _, step := range []struct {
			report pod.Report
			at     time.Time // of what is passed on; zero: nothing is
		}{
			{pod.Report{Condition: pod.Unknown}, begin},
			{pod.Report{Condition: pod.Unknown}, time.Time{}},
			{pod.Report{Condition: pod.OnBattery, Charge: 50}, begin.Add(2 * time.Second)},
			{pod.Report{Condition: pod.OnBattery, Charge: 49}, begin.Add(2 * time.Second)}, // since then
			{pod.Report{Condition: pod.OnBattery, Charge: 49, At: said}, time.Time{}},
			{pod.Report{Condition: pod.LowBattery, At: said}, said},
			{pod.Report{Condition: pod.LowBattery, At: said, Done: waits}, said}, // somebody new waits
			{pod.Report{Condition: pod.LowBattery, Done: waits}, said},
			{pod.Report{Condition: pod.LowBattery, Done: waits, Runtime: 1}, said},
		} {
			before := len(got)
			p.Tell(step.report)
			if told := len(got) > before; told == step.at.IsZero() {
				t.Errorf("%+v was told: %v", step.report, told)
			} else if told && !got[before].At.Equal(step.at) {
				t.Errorf("%+v at %v, want %v", step.report, got[before].At, step.at)
			}
			if last := l.Health().Last; last.Condition != step.report.Condition || last.Charge != step.report.Charge {
				t.Errorf("health has %+v after %+v", last, step.report)
			}
			time.Sleep(time.Second)
		}
	})
}
