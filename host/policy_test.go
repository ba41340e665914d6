package host

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/outage"
	"github.com/nv-hypervisor/nv-hypervisor/outage/hook"
	"github.com/nv-hypervisor/nv-hypervisor/outage/policy"
	"github.com/nv-hypervisor/nv-hypervisor/pod"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

// meter is a detector whose word is the test's.
type meter struct {
	name    string
	tier    pod.Tier
	reports chan pod.Report

	mu     sync.Mutex
	health pod.Health
}

func newMeter(name string, tier pod.Tier) *meter {
	return &meter{name: name, tier: tier, reports: make(chan pod.Report)}
}

func (m *meter) Name() string   { return m.name }
func (m *meter) Tier() pod.Tier { return m.tier }

func (m *meter) Health() pod.Health {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.health
}

func (m *meter) Test(context.Context) error {
	if h := m.Health(); !h.Connected {
		return errors.New(h.Error)
	}
	return nil
}

func (m *meter) Run(ctx context.Context, report func(pod.Report)) {
	for {
		select {
		case r := <-m.reports:
			report(r)
		case <-ctx.Done():
			return
		}
	}
}

func (m *meter) say(r pod.Report) {
	r.At = time.Now()
	m.mu.Lock()
	m.health = pod.Health{Connected: r.Condition != pod.Unknown, Since: r.At, Last: r}
	if !m.health.Connected {
		m.health.Error = "unplugged"
	}
	m.mu.Unlock()
	m.reports <- r
}

func (s *site) await(what string, reached func() bool) {
	s.t.Helper()
	for !reached() {
		if s.ctx.Err() != nil {
			s.t.Fatalf("waited in vain until %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// Two detectors, one machine, one outage: saved when the first of them is due, continued when both have power.
func TestFollow(t *testing.T) {
	s := newSite(t)
	s.config.Policy.Battery.Debounce, s.config.Policy.Battery.PowerBack = 0, 0
	notes := filepath.Join(t.TempDir(), "notes")
	for _, when := range []string{"before-save", "after-save", "power-back"} {
		s.config.Policy.Hooks = append(s.config.Policy.Hooks, HookConfig{when, []string{"/bin/sh", "-c", "echo " + when + " $NVH_TIER $NVH_CAUSE $NVH_OUTCOME >>" + notes}, Duration(time.Minute)})
	}
	s.config.Policy.Hooks = append(s.config.Policy.Hooks, HookConfig{"before-save", []string{"/bin/false"}, Duration(time.Minute)})
	s.boot()
	s.run("patient")
	ups, bus := newMeter("ups", pod.Battery), newMeter("logind", pod.Planned)
	must(t, s.Follow([]pod.Watcher{ups, bus}))
	state := func(want vm.State) func() bool {
		return func() bool { i, err := s.Info(s.ctx, "patient"); return err == nil && i.State == want }
	}
	phase := func(want policy.Phase) func() bool {
		return func() bool { st, err := s.Status(s.ctx); return err == nil && st.Power.Phase == want }
	}
	ups.say(pod.Report{Condition: pod.OnBattery, Detail: "OB", Runtime: time.Hour, Charge: 80})
	s.await("it is ridden through", phase(policy.Riding))
	if !state(vm.Running)() {
		t.Fatal("the guest does not run on battery")
	}
	ups.say(pod.Report{Condition: pod.LowBattery, Detail: "OB LB", Runtime: time.Hour, Charge: 80})
	s.await("it is saved", state(vm.Saved))
	told := make(chan struct{}, 2)
	bus.say(pod.Report{Condition: pod.Going, Done: func() { told <- struct{}{} }})
	<-told
	latest, err := s.Outage(s.ctx, "latest")
	if must(t, err); latest.Source != "ups" || latest.Tier != "battery" || latest.Cause != "low battery" || latest.Outcome != "saved" {
		t.Errorf("%+v", latest)
	}
	ups.say(pod.Report{Condition: pod.Mains, Detail: "OL", Runtime: -1, Charge: 80})
	s.await("the shutdown keeps it saved", phase(policy.Saved))
	bus.say(pod.Report{Condition: pod.Mains})
	s.await("it runs again", state(vm.Running))
	s.await("the policy knows", phase(policy.Calm))
	s.await("the last hook is noted", func() bool {
		again, err := s.Outage(s.ctx, latest.ID)
		return err == nil && again.Outcome == "resumed in place" && slices.ContainsFunc(again.Steps, func(o outage.Step) bool { return o.Name == "power-back /bin/sh" })
	})
	if !slices.ContainsFunc(latest.Steps, func(o outage.Step) bool {
		return o.Name == "before-save /bin/false (failed: exit status 1)" && o.End < 0
	}) {
		t.Errorf("steps %+v", latest.Steps)
	}
	if said, err := os.ReadFile(notes); err != nil || string(said) != "before-save battery low battery\nafter-save battery low battery saved\npower-back battery low battery\n" {
		t.Errorf("hooks said %q, %v", said, err)
	}
	if len(told) != 0 {
		t.Error("the one who waited was told twice")
	}

	// An outage of the emergency tier is not the policy's to end, and its end by hand is respected.
	_, err = s.Simulate(s.ctx)
	must(t, err)
	s.await("it is elsewhere", phase(policy.Elsewhere))
	ups.say(pod.Report{Condition: pod.LowBattery})
	_, err = s.Clear(s.ctx)
	must(t, err)
	s.await("it runs again", state(vm.Running))
}

func TestDetectorsAreShownAndTested(t *testing.T) {
	s := newSite(t)
	s.boot()
	if checks := checkDetectors([]Detector{{Name: "signal SIGPWR", Connected: true}}); len(checks) != 1 || checks[0].Status != statusWarn {
		t.Errorf("nothing but the signal: %+v", checks)
	}
	if _, err := s.TestDetectors(s.ctx, ""); !errors.Is(err, vm.ErrNotFound) {
		t.Errorf("without a detector: %v", err)
	}
	ups, bus := newMeter("ups", pod.Battery), newMeter("logind", pod.Planned)
	must(t, s.Follow([]pod.Watcher{ups, bus}))
	ups.say(pod.Report{Condition: pod.OnBattery, Detail: "OB", Runtime: 90 * time.Second, Charge: 0})
	bus.say(pod.Report{Condition: pod.Unknown})
	list, err := s.Detectors(s.ctx)
	if must(t, err); len(list) != 2 {
		t.Fatalf("%+v", list)
	}
	if d := list[0]; d.Name != "ups" || d.Tier != pod.Battery || !d.Connected || *d.Condition != pod.OnBattery || d.Detail != "OB" || *d.Runtime != 90 || *d.Charge != 0 || d.Since == nil {
		t.Errorf("%+v", d)
	}
	if d := list[1]; d.Connected || *d.Condition != pod.Unknown || d.Runtime != nil || d.Charge != nil || d.Error != "unplugged" {
		t.Errorf("%+v", d)
	}
	tests, err := s.TestDetectors(s.ctx, "")
	if must(t, err); len(tests) != 2 || tests[0].Error != "" || tests[0].Latency <= 0 || tests[1].Error != "unplugged" || tests[1].Latency != 0 {
		t.Errorf("%+v", tests)
	}
	if tests, err = s.TestDetectors(s.ctx, "ups"); err != nil || len(tests) != 1 || tests[0].Name != "ups" {
		t.Errorf("%+v, %v", tests, err)
	}
	if _, err = s.TestDetectors(s.ctx, "another"); !errors.Is(err, vm.ErrNotFound) || !strings.Contains(vm.Remedy(err), "pod ls") {
		t.Errorf("%v", err)
	}
	expect(t, s.doctor("detector ups"), statusOK, "battery tier, on battery")
	ups.health.Warning = "replace its battery"
	expect(t, s.doctor("detector ups"), statusWarn, "replace its battery")
	expect(t, s.doctor("detector logind"), statusFail, "unplugged", "nvh pod test")
}

// Two of a name, or rules for one that is not there, are mistakes in the configuration.
func TestFollowRefuses(t *testing.T) {
	s := newSite(t)
	s.boot()
	if err := s.Follow([]pod.Watcher{newMeter("ups", pod.Battery), newMeter("ups", pod.Battery)}); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("two of a name: %v", err)
	}
	s.Host.config.Policy.Detectors = []DetectorPolicy{{Name: "another"}}
	if err := s.Follow([]pod.Watcher{newMeter("ups", pod.Battery)}); err == nil || !strings.Contains(err.Error(), `"another"`) {
		t.Errorf("rules for nobody: %v", err)
	}
}

func TestPolicyConfig(t *testing.T) {
	c, err := readConfig(t, `
[policy]
redundant = true
[policy.battery]
debounce = "5s"
safety = 4.5
[policy.planned]
power_back = "1s"
[[policy.detector]]
name = "b"
ride = false
save_after = "1m"
[[policy.detector]]
name = "c"
debounce = "7s"
`)
	must(t, err)
	with := func(change func(*policy.Rules)) policy.Rules {
		r := policy.Defaults(pod.Battery)
		r.Debounce, r.Safety = 5*time.Second, 4.5
		change(&r)
		return r
	}
	for name, want := range map[string]policy.Rules{
		"a": with(func(*policy.Rules) {}),
		"b": with(func(r *policy.Rules) { r.Ride, r.SaveAfter = false, time.Minute }),
		"c": with(func(r *policy.Rules) { r.Debounce = 7 * time.Second }),
	} {
		if got := c.Policy.rulesFor(newMeter(name, pod.Battery)); got != want {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
	if got := c.Policy.rulesFor(newMeter("b", pod.Planned)); got != (policy.Rules{PowerBack: time.Second}) || !c.Policy.Redundant {
		t.Errorf("planned: %+v", got)
	}
	if got := c.Policy.rulesFor(newMeter("b", pod.Emergency)); got != policy.Defaults(pod.Emergency) {
		t.Errorf("emergency: %+v", got)
	}
	plain, err := readConfig(t, "")
	must(t, err)
	if got := plain.Policy.rulesFor(newMeter("a", pod.Battery)); got != policy.Defaults(pod.Battery) {
		t.Errorf("defaults: %+v", got)
	}
	for content, part := range map[string]string{
		"[policy.battery]\ndebounce = \"-1s\"":                             "debounce",
		"[policy.battery]\nsafety = 0.5":                                   "safety",
		"[policy.battery]\nsafety = nan":                                   "safety",
		"[policy.battery]\nleast_charge = 101":                             "least_charge",
		"[policy.battery]\npower = 1":                                      "power",
		"[policy.planned]\npower_back = \"-1s\"":                           "power_back",
		"[[policy.hook]]\nwhen = \"before-save\"\nlimit = \"1s\"":          "policy.hook 1: command",
		"[[policy.detector]]\nblind = \"1s\"":                              "policy.detector",
		"[[policy.detector]]\nname=\"a\"\nlow = 1":                         "low",
		"[[policy.detector]]\nname=\"a\"\n[[policy.detector]]\nname=\"a\"": `"a"`,
		"[[policy.detector]]\nname=\"a\"\nreserve=\"-2s\"":                 "policy.detector a: reserve",
	} {
		if _, err := readConfig(t, content); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: %v; want %q", content, err, part)
		}
	}
}

// What a save needs is the longest of the latest, those before this daemon included.
func TestNeed(t *testing.T) {
	store, err := outage.OpenStore(t.TempDir())
	must(t, err)
	if got := newNeed(store).longest(); got != unmeasured {
		t.Errorf("before the first save: %v", got)
	}
	for id, o := range map[string]outage.Timeline{
		"20261101T000000Z-outage": {Kind: "outage", Duration: 30000}, "20261102T000000Z-suspend": {Kind: "suspend", Duration: 20000}, "20261103T000000Z-recovery": {Kind: "recovery", Duration: 9e6},
	} {
		o.ID = id
		must(t, store.Put(o))
	}
	n := newNeed(store)
	a := announcer{need: n, hooks: []hook.Hook{{When: hook.BeforeSave, Limit: time.Second}, {When: hook.AfterSave, Limit: time.Hour}}}
	if got := a.longestWithHooks(); got != 1030*time.Millisecond {
		t.Errorf("with hooks: %v", got)
	}
	if got := n.longest(); got != 30*time.Millisecond {
		t.Errorf("longest %v", got)
	}
	for range remembered {
		n.add(time.Millisecond)
	}
	if got := n.longest(); got != time.Millisecond {
		t.Errorf("long ago is not forgotten: %v", got)
	}
}
