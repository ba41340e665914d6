package saver

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/nv-hypervisor/nv-hypervisor/qmp/qmptest"
	"github.com/nv-hypervisor/nv-hypervisor/vm/record"
)

// An outage that comes in the middle of an operator's save is not lost: it stops
// everybody at once, even if the QEMU of the save under way is hung.
func TestOutageDuringAnOperatorsSave(t *testing.T) {
	for _, all := range []bool{false, true} {
		r := newRig(t, Config{})
		p := r.pipe("plug")
		slow := r.boot(Options{Name: "slow"})
		other := r.boot(Options{Name: "other", Priority: 9})
		scratch := r.boot(Options{Name: "scratch", Volatile: true})
		slow.Hold("migrate")
		only := slow.target
		if all {
			only = nil
		}
		done := make(chan error, 1)
		go func() {
			_, err := r.saver.Save(testContext(t), only)
			done <- err
		}()
		dump := slow.Take(testContext(t))
		p.say("x")
		eventually(t, "the other VM is saved", func() bool { return other.Status() == "postmigrate" })
		slow.Migrate(dump, slow.Dumped())
		result := r.outage()
		if !result.Outage || result.Source != "plug" || len(result.VMs) != 3 {
			t.Errorf("result %+v", result)
		}
		slow.expectSaved(result)
		if rec, err := other.area.Latest(); all && err == nil && strings.HasSuffix(rec.Outage, "-save") {
			// It was committed before the outage came, under the name of the save.
			state, err := other.area.State()
			if rec.Status != record.StatusSaved || !other.of(result).Committed || err != nil || !bytes.Equal(state, other.Dumped()) {
				t.Errorf("other: record %+v, %d bytes of state, %v, result %+v", rec, len(state), err, other.of(result))
			}
		} else {
			other.expectSaved(result)
		}
		if !scratch.of(result).Paused {
			t.Error("the volatile VM was not paused")
		}
		if err := <-done; !errors.Is(err, ErrOutage) {
			t.Errorf("the operator is told %v", err)
		}
		check(t, r.saver.call(testContext(t), func() error { return nil })) // whatever is to follow has begun
		if n := len(r.saver.Outages()); n != 0 {
			t.Errorf("%d more outages were noted", n)
		}
		if err := slow.run(); !errors.Is(err, ErrOutage) {
			t.Errorf("cont in the outage: %v", err)
		}
	}
}

// The outage has its own deadline, from when it comes.
func TestOutageAfterAHungSave(t *testing.T) {
	r := newRig(t, Config{Deadline: 300e6, Hung: 20e6, InFlight: 1})
	p := r.pipe("plug")
	hung, late := r.boot(Options{Name: "hung"}), r.boot(Options{Name: "late"})
	hung.Hold("stop")
	hung.HandleRequest("migrate", func(*qmptest.Request) {})
	late.Hold("migrate")
	done := make(chan error, 1)
	go func() {
		_, err := r.saver.Save(testContext(t), hung.target)
		done <- err
	}()
	hung.Take(testContext(t))
	p.say("x")
	late.Migrate(late.Take(testContext(t)), late.Dumped())
	result := r.outage()
	late.expectSaved(result)
	hung.expectUnsaved(result, "in time")
	if err := <-done; !errors.Is(err, ErrOutage) {
		t.Errorf("the operator is told %v", err)
	}
}

// What a detector says during an operator's save that is no outage changes nothing.
func TestQuietDetectorDuringASave(t *testing.T) {
	r := newRig(t, Config{})
	p := r.pipe("plug")
	g, other := r.boot(Options{Name: "db"}), r.boot(Options{Name: "other"})
	g.Hold("migrate")
	results := make(chan *Result, 1)
	go func() {
		result, err := r.saver.Save(testContext(t), g.target)
		if err != nil {
			t.Error(err)
		}
		results <- result
	}()
	dump := g.Take(testContext(t))
	p.say("quiet")
	g.Migrate(dump, g.Dumped())
	result := <-results
	g.expectSaved(result)
	if result.Outage || len(result.VMs) != 1 || other.Status() != "running" {
		t.Errorf("result %+v, the other VM is %s", result, other.Status())
	}
}

// A VM that is adopted while an outage lasts runs, unsaved: it joins the outage.
func TestAdoptedInAnOutage(t *testing.T) {
	for _, volatile := range []bool{false, true} {
		r := newRig(t, Config{})
		other := r.boot(Options{Name: "other"})
		late := r.attach(Options{Name: "late", Adopted: true, Volatile: volatile})
		late.SetStatus("running")
		check(t, r.saver.Simulate(testContext(t), Now()))
		first := r.outage()
		other.expectSaved(first)
		check(t, late.run())
		second := r.outage()
		if second.ID != first.ID || second.EventNS != first.EventNS || !second.Outage || len(second.VMs) != 1 {
			t.Errorf("joined %+v, not %+v", second, first)
		}
		if volatile {
			if !late.of(second).Paused {
				t.Errorf("%+v", late.of(second))
			}
		} else {
			late.expectSaved(second)
		}
		other.expectSaved(first)
		if slices.Contains(late.Commands(), "cont") {
			t.Error("its guest was let run")
		}
		if err := late.run(); !errors.Is(err, ErrOutage) { // once
			t.Errorf("cont in the outage: %v", err)
		}
		check(t, r.saver.Clear())
		check(t, late.run())
	}
}
