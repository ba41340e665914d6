package outage

import (
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/nv-hypervisor/nv-hypervisor/vm"
	"github.com/nv-hypervisor/nv-hypervisor/vm/saver"
)

// An outage keeps who announced it, of which tier, and why; those of the saver's own sources are emergencies.
func TestAnnounce(t *testing.T) {
	r := newRig(t)
	r.guest("scratch")
	by := saver.Announcement{Source: "nut ups@localhost", Tier: "battery", Cause: "low battery"}
	got, err := r.Announce(testContext(t), by)
	check(t, err)
	if got.Source != by.Source || got.Tier != by.Tier || got.Cause != by.Cause || got.Kind != "outage" || got.Outcome != "saved" {
		t.Errorf("%+v", got)
	}
	if stored, err := r.store.Find(got.ID); err != nil || stored.Cause != by.Cause || stored.Tier != by.Tier {
		t.Errorf("stored %+v, %v", stored, err)
	}
	if _, err := r.Announce(testContext(t), by); !errors.Is(err, saver.ErrOutage) || !errors.Is(err, vm.ErrState) {
		t.Errorf("announced again: %v", err)
	}
	check(t, r.End(testContext(t), got.ID))
	p := r.pipe()
	p.w.WriteString("x")
	eventually(t, "the outage is noted", func() bool { return r.Active() != nil })
	if a := r.Active(); a.Source != "plug" || a.Tier != "emergency" || a.Cause != "" {
		t.Errorf("%+v", a)
	}
	_, err = r.Clear(testContext(t))
	check(t, err)
	again, err := r.Simulate(testContext(t))
	if check(t, err); again.Source != "simulate" || again.Tier != "emergency" || again.Cause != "" {
		t.Errorf("%+v", again)
	}
}

// End ends the outage it was said of, and no other.
func TestEnd(t *testing.T) {
	r := newRig(t)
	r.guest("scratch")
	if err := r.End(testContext(t), "none"); !errors.Is(err, ErrNoOutage) {
		t.Errorf("without an outage: %v", err)
	}
	first, err := r.Simulate(testContext(t))
	check(t, err)
	check(t, r.End(testContext(t), first.ID))
	_, err = r.Simulate(testContext(t))
	check(t, err)
	if err := r.End(testContext(t), first.ID); !errors.Is(err, ErrNoOutage) || r.Active() == nil {
		t.Errorf("old news: %v, active %v", err, r.Active())
	}
}

// The observer is told of every beginning and end once, and by whom, before the verb returns.
func TestObserve(t *testing.T) {
	r := newRig(t)
	r.guest("scratch")
	var mu sync.Mutex
	var seen []Change
	r.Observe(func(c Change) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, c)
	})
	expect := func(id, by string) {
		t.Helper()
		mu.Lock()
		defer mu.Unlock()
		if len(seen) != 1 || seen[0].Outage.ID != id || seen[0].By != by || len(seen[0].Outage.VMs) != 1 {
			t.Errorf("seen %+v, want %s by %q", seen, id, by)
		}
		seen = nil
	}
	for _, by := range []string{ByOperator, ByPolicy, ByDetector} {
		o, err := r.Simulate(testContext(t))
		check(t, err)
		expect(o.ID, "")
		switch by {
		case ByOperator:
			_, err = r.Clear(testContext(t))
		case ByPolicy:
			err = r.End(testContext(t), o.ID)
		case ByDetector:
			r.powerIsBack(o.ID)
		}
		check(t, err)
		expect(o.ID, by)
	}
	o, err := r.Simulate(testContext(t))
	check(t, err)
	expect(o.ID, "")
	late := *r.Active()
	r.noteOutage(&saver.Result{ID: late.ID, Outage: true, EventNS: late.EventNS}) // one that joins it
	mu.Lock()
	defer mu.Unlock()
	if len(seen) != 0 {
		t.Errorf("told again of the same outage: %+v", seen)
	}
}

// Steps of the host are added to an outage in progress, and to one that is over.
func TestAddSteps(t *testing.T) {
	r := newRig(t)
	r.guest("scratch")
	o, err := r.Simulate(testContext(t))
	check(t, err)
	check(t, r.AddSteps(o.ID, Step{Name: "one", Start: -5, End: 7}))
	if a := r.Active(); a.Steps[len(a.Steps)-1].Name != "one" || len(a.Steps) != len(o.Steps)+1 {
		t.Errorf("%+v", a.Steps)
	}
	check(t, r.End(testContext(t), o.ID))
	check(t, r.AddSteps(o.ID, Step{Name: "two"}, Step{Name: "three"}))
	stored, err := r.store.Find(o.ID)
	check(t, err)
	var names []string
	for _, s := range stored.Steps {
		names = append(names, s.Name)
	}
	if want := []string{"wake", "one", "clear", "two", "three"}; !slices.Equal(names, want) || stored.Outcome != "resumed in place" {
		t.Errorf("steps %q, want %q; %s", names, want, stored.Outcome)
	}
	if err := r.AddSteps("20200101T000000Z-outage", Step{}); !errors.Is(err, vm.ErrNotFound) {
		t.Errorf("an outage that never was: %v", err)
	}
}
