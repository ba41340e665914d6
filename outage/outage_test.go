package outage

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/qmp/qmptest"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
	"github.com/nv-hypervisor/nv-hypervisor/vm/record"
	"github.com/nv-hypervisor/nv-hypervisor/vm/saver"
)

// An outage becomes a timeline on disk; its end is added to it.
func TestOutage(t *testing.T) {
	r := newRig(t)
	r.guest("scratch")
	before := time.Now()
	got, err := r.Simulate(testContext(t))
	check(t, err)
	if got.Kind != "outage" || got.Source != "simulate" || got.BootID != "boot" || got.Outcome != "saved" || len(got.VMs) != 1 {
		t.Errorf("timeline %+v", got)
	}
	if got.Event.Before(before.Add(-time.Second)) || got.Event.After(time.Now()) || got.Duration <= 0 {
		t.Errorf("event at %v, lasted %v", got.Event, got.Duration)
	}
	if v := got.VMs[0]; v.Name != "scratch" || v.Outcome != "paused" || !v.Volatile || v.Steps[0].Name != "stop" {
		t.Errorf("VM %+v", v)
	}
	if active := r.Active(); active == nil || active.ID != got.ID {
		t.Errorf("active %+v", active)
	}
	stored, err := r.store.Find(got.ID)
	check(t, err)
	if stored.Outcome != "saved" || len(stored.VMs) != 1 || stored.EventNS != got.EventNS {
		t.Errorf("stored %+v", stored)
	}
	if !r.seen("outage-begin "+got.ID) || !r.seen("outage-committed "+got.ID) {
		t.Errorf("events %q", r.events)
	}

	if _, err := r.Simulate(testContext(t)); !errors.Is(err, saver.ErrOutage) || !errors.Is(err, vm.ErrState) || vm.Remedy(err) == "" {
		t.Errorf("second simulate: %v", err)
	}
	cleared, err := r.Clear(testContext(t))
	check(t, err)
	if cleared.ID != got.ID || cleared.Outcome != "resumed in place" || !r.seen("outage-clear "+got.ID) {
		t.Errorf("cleared %+v", cleared)
	}
	if stored, err = r.store.Find("latest"); err != nil || stored.Outcome != "resumed in place" || stored.Steps[len(stored.Steps)-1].Name != "clear" {
		t.Errorf("stored %+v, %v", stored, err)
	}
	if _, err := r.Clear(testContext(t)); !errors.Is(err, ErrNoOutage) || !errors.Is(err, vm.ErrState) || r.Active() != nil {
		t.Errorf("second clear: %v", err)
	}
	if len(r.waiters) != 0 {
		t.Errorf("%d still wait for an outage", len(r.waiters))
	}
}

// The guests of all kinds go on in place, and the timeline says how each fared.
func TestGuestsGoOn(t *testing.T) {
	r := newRig(t)
	r.real(vm.Definition{Name: "db", Priority: 9}, vm.Definition{Name: "web"}, vm.Definition{Name: "scratch", Volatile: true})
	dead := r.VM("web")
	got, err := r.Simulate(testContext(t))
	check(t, err)
	for _, v := range got.VMs {
		if want := map[bool]string{false: "committed", true: "paused"}[v.Volatile]; v.Outcome != want {
			t.Errorf("%+v", v)
		}
	}
	check(t, dead.Process().Kill())
	eventually(t, "its end is noted", func() bool { return dead.Process() == nil })
	cleared, err := r.Clear(testContext(t))
	check(t, err)
	for _, v := range cleared.VMs {
		steps := v.Steps[len(v.Steps)-1]
		if v.Outcome != "resumed in place" || steps.Name != "cont" || steps.End < steps.Start {
			t.Errorf("%+v", v)
		}
		if m := r.VM(v.Name); m.State() != vm.Running {
			t.Errorf("%s is %s: %s", v.Name, m.State(), m.Info().Reason)
		}
	}
	if len(got.VMs[0].Steps) == len(cleared.VMs[0].Steps) {
		t.Error("the timeline that was handed out has changed")
	}
}

// A failure of one VM is in the timeline, whose outcome says so.
func TestIncomplete(t *testing.T) {
	r := newRig(t)
	m, _ := r.guest("bad")
	r.guest("good")
	m.HandleRequest("stop", func(*qmptest.Request) { m.Hangup() })
	got, err := r.Simulate(testContext(t))
	check(t, err)
	if got.Outcome != "incomplete" {
		t.Errorf("outcome %q", got.Outcome)
	}
	for _, v := range got.VMs {
		bad := v.Name == "bad"
		if (v.Outcome == "failed") != bad || (v.Reason != "") != bad {
			t.Errorf("%+v", v)
		}
	}
}

// Power that is back before the saves are over, or before anybody has taken note of
// them, is not lost.
func TestClearBeforeItIsNoted(t *testing.T) {
	r := newRig(t)
	m, _ := r.guest("scratch")
	m.Hold("stop")
	p := r.pipe()
	p.w.WriteString("x")
	stop := m.Take(testContext(t))
	cleared := make(chan error, 1)
	go func() {
		got, err := r.Clear(testContext(t))
		if err == nil && len(got.VMs) != 1 {
			err = errors.New("it is another outage's timeline")
		}
		cleared <- err
	}()
	select {
	case err := <-cleared:
		t.Fatalf("cleared in the middle of the saves: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	stop.Reply(nil)
	check(t, <-cleared)
	if lasts, err := r.saver.InOutage(); err != nil || lasts {
		t.Errorf("the outage lasts: %v, %v", lasts, err)
	}
}

// A disk that hangs keeps no guest waiting, and the last word is what it stores.
func TestHungDisk(t *testing.T) {
	r := newRig(t)
	r.guest("scratch")
	r.store.mu.Lock() // as a disk that does not answer
	got, err := r.Simulate(testContext(t))
	check(t, err)
	cleared, err := r.Clear(testContext(t))
	if err == nil || !strings.Contains(err.Error(), "does not answer") || cleared.ID != got.ID || cleared.Outcome != "resumed in place" {
		t.Errorf("cleared %+v, %v", cleared, err)
	}
	if lasts, err := r.saver.InOutage(); err != nil || lasts {
		t.Errorf("the outage lasts: %v, %v", lasts, err)
	}
	r.store.mu.Unlock()
	r.writing.Wait()
	if stored, err := r.store.Find(got.ID); err != nil || stored.Outcome != "resumed in place" {
		t.Errorf("stored %+v, %v", stored, err)
	}
}

// A detector's word that power is back ends the outage it was said of.
func TestPowerIsBack(t *testing.T) {
	r := newRig(t)
	r.guest("scratch")
	p := r.pipe()
	for range 3 {
		p.w.WriteString("x")
		eventually(t, "the outage is noted", func() bool { return r.Active() != nil })
		id := r.Active().ID
		p.w.WriteString("b")
		eventually(t, "its end is noted", func() bool { return r.seen("outage-clear " + id) })
		if r.Active() != nil {
			t.Error("it lasts")
		}
	}
}

// Old news does not end the next outage.
func TestOldNews(t *testing.T) {
	r := newRig(t)
	r.guest("scratch")
	first, err := r.Simulate(testContext(t))
	check(t, err)
	_, err = r.Clear(testContext(t))
	check(t, err)
	second, err := r.Simulate(testContext(t))
	check(t, err)
	r.powerIsBack(first.ID)
	if active := r.Active(); active == nil || active.ID != second.ID {
		t.Errorf("active %+v", active)
	}
	if lasts, err := r.saver.InOutage(); err != nil || !lasts {
		t.Errorf("the outage lasts: %v, %v", lasts, err)
	}
}

// An outage that begins in the instant after a clear is for the next one to end.
func TestOutageRightAfterClear(t *testing.T) {
	r := newRig(t)
	r.guest("scratch")
	_, err := r.Simulate(testContext(t))
	check(t, err)
	first := r.Active()
	check(t, r.saver.Clear()) // the first thing that clear does
	second, err := r.Simulate(testContext(t))
	check(t, err)
	if first.ID == second.ID {
		t.Fatalf("two outages are called %s", first.ID)
	}
	r.retire(first, ByOperator) // the second
	if active := r.Active(); active == nil || active.ID != second.ID {
		t.Errorf("active %+v", active)
	}
	cleared, err := r.Clear(testContext(t))
	if check(t, err); cleared.ID != second.ID {
		t.Errorf("cleared %+v", cleared)
	}
}

// A VM that joins an outage late is in its timeline.
func TestLateVM(t *testing.T) {
	r := newRig(t)
	r.guest("early")
	first, err := r.Simulate(testContext(t))
	check(t, err)
	m := qmptest.StartMachine(t, qmptest.WithoutOOB())
	target, err := saver.Connect(testContext(t), saver.Options{Name: "late", Volatile: true, Socket: m.Path(), Adopted: true})
	check(t, err)
	check(t, r.saver.Attach(target))
	check(t, r.saver.Cont(target, func() (*record.Commit, error) { return nil, nil }, false))
	eventually(t, "it is noted", func() bool { return len(r.Active().VMs) == 2 })
	if a := r.Active(); a.ID != first.ID || a.VMs[0].Name != "early" || a.VMs[1].Name != "late" || a.Duration < first.Duration {
		t.Errorf("active %+v", a)
	}
	if stored, err := r.store.Find(first.ID); err != nil || len(stored.VMs) != 2 {
		t.Errorf("stored %+v, %v", stored, err)
	}
}

// What is given up leaves nobody waiting.
func TestGivenUp(t *testing.T) {
	r := newRig(t)
	m, _ := r.guest("scratch")
	m.Hold("stop")
	ctx, cancel := context.WithCancel(testContext(t))
	done := make(chan error, 2)
	go func() { _, err := r.Simulate(ctx); done <- err }()
	stop := m.Take(testContext(t))
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("simulate: %v", err)
	}
	stop.Reply(nil)
	eventually(t, "the outage is noted", func() bool { return r.Active() != nil })
	r.saver.Close()
	r.Controller.Wait()
	for range 2 {
		go func() { _, err := r.Simulate(testContext(t)); done <- err }()
		if err := <-done; !errors.Is(err, saver.ErrClosed) {
			t.Errorf("simulate after the end: %v", err)
		}
	}
	if _, err := r.Clear(testContext(t)); !errors.Is(err, saver.ErrClosed) {
		t.Errorf("clear after the end: %v", err)
	}
}

// Several clear at once: one does, the others are told that there is nothing.
func TestClearAtOnce(t *testing.T) {
	r := newRig(t)
	r.guest("scratch")
	for range 5 {
		_, err := r.Simulate(testContext(t))
		check(t, err)
		var all sync.WaitGroup
		errs := make(chan error, 8)
		for range cap(errs) {
			all.Go(func() { _, err := r.Clear(testContext(t)); errs <- err })
		}
		all.Wait()
		close(errs)
		done := 0
		for err := range errs {
			if err == nil {
				done++
			} else if !errors.Is(err, ErrNoOutage) {
				t.Error(err)
			}
		}
		if done != 1 {
			t.Errorf("%d have ended the outage", done)
		}
	}
}

func TestParallel(t *testing.T) {
	vms := make([]*vm.VM, 20)
	var mu sync.Mutex
	now, most, all := 0, 0, 0
	Parallel(3, vms, func(*vm.VM) {
		mu.Lock()
		now, all = now+1, all+1
		most = max(most, now)
		mu.Unlock()
		time.Sleep(time.Millisecond)
		mu.Lock()
		now--
		mu.Unlock()
	})
	if most != 3 || all != len(vms) {
		t.Errorf("%d of %d, %d at once", all, len(vms), most)
	}
	var order []int
	list := []*vm.VM{nil, nil, nil}
	Parallel(0, list, func(*vm.VM) { order = append(order, len(order)) }) // 0 is 1: the race detector agrees
	if !slices.Equal(order, []int{0, 1, 2}) {
		t.Errorf("order %v", order)
	}
}
