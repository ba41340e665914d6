// Package outage turns what the saver did in an outage into what operators see:
// states, events, a timeline on disk; and, when power comes back before the host
// dies, continues the guests in place.
//
//	         event (signal, simulate)            power back (detector, Clear)
//	idle ───────────────────────────▶ active ───────────────────────▶ clearing ──▶ idle
//	                                    │ the host dies: nothing more happens here;
//	                                    ▼ the next daemon recovers from the records
//
// The saves themselves are over when this package hears of them: nothing here
// stands between an event and a commit. A timeline is on disk, fsynced, as soon as
// possible after the last commit. Should the power fail before that, the next
// daemon rebuilds it from the save records, which carry their own steps.
package outage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/vm"
	"github.com/nv-hypervisor/nv-hypervisor/vm/saver"
)

// ErrNoOutage is Clear without an outage.
var ErrNoOutage = errors.New("no outage is in progress")

// Fleet is what the controller needs of the host.
type Fleet interface {
	// VM finds a VM by name; nil when it is gone.
	VM(name string) *vm.VM
	// Ordered lists all VMs, highest priority first.
	Ordered() []*vm.VM
	// Notify publishes an event; it does not block.
	Notify(event, vm string, data map[string]string)
}

// Controller follows outages.
type Controller struct {
	saver   *saver.Saver
	store   *Store
	fleet   Fleet
	clock   *Clock
	log     *slog.Logger
	done    chan struct{}
	resume  int // guests continued at once
	writing sync.WaitGroup

	clearing sync.Mutex // one Clear at a time

	mu      sync.Mutex // guards what follows
	observe func(Change)
	active  *Timeline
	noted   chan struct{} // closed when an outage was noted, and then replaced
	kept    chan struct{} // closed when the last timeline was stored, or could not be
	waiters map[chan Timeline]bool
}

// New starts following the saver's outages; the controller ends when the saver is
// closed, and Wait waits for that.
func New(s *saver.Saver, store *Store, fleet Fleet, clock *Clock, log *slog.Logger, parallel int) *Controller {
	c := &Controller{
		saver: s, store: store, fleet: fleet, clock: clock, log: log, resume: max(1, parallel),
		done: make(chan struct{}), noted: make(chan struct{}), waiters: map[chan Timeline]bool{},
	}
	go func() {
		defer close(c.done)
		c.follow()
	}()
	return c
}

func (c *Controller) follow() {
	for {
		select {
		case r, open := <-c.saver.Outages():
			if !open {
				return
			}
			c.noteOutage(r)
		case id := <-c.saver.PowerBack():
			c.powerIsBack(id)
		}
	}
}

// powerIsBack ends the outage that a detector said is over, and no other: its
// operator may have ended it already, and another may have begun.
func (c *Controller) powerIsBack(id string) {
	for len(c.saver.Outages()) > 0 { // it was told of before, but perhaps not read yet
		if r, open := <-c.saver.Outages(); open {
			c.noteOutage(r)
		}
	}
	if err := c.end(context.Background(), id, ByDetector); err != nil && !errors.Is(err, ErrNoOutage) {
		c.log.Error("continue after power came back", "error", err)
	}
}

// End is Clear for the outage of this id and no other, said by the policy: it fails
// with ErrNoOutage when another one is in progress, or none.
func (c *Controller) End(ctx context.Context, id string) error { return c.end(ctx, id, ByPolicy) }

func (c *Controller) end(ctx context.Context, id, by string) error {
	c.clearing.Lock()
	defer c.clearing.Unlock()
	active := c.Active()
	if active == nil || active.ID != id {
		return fmt.Errorf("outage %s: %w", id, ErrNoOutage)
	}
	_, err := c.clear(ctx, active, by)
	return err
}

// Change is the beginning or the end of an outage.
type Change struct {
	Outage Timeline
	By     string // who ended it: ByOperator and so on; empty: it began, and its saves are over
}

// Who ends outages.
const (
	ByOperator = "operator"
	ByDetector = "detector"
	ByPolicy   = "policy"
)

// Observe calls f, which must not block, for every change from now on. Whoever waits
// for an outage in Simulate or Announce is told later.
func (c *Controller) Observe(f func(Change)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.observe = f
}

// changed tells the observer; c.mu is held.
func (c *Controller) changed(t Timeline, by string) {
	if c.observe != nil {
		c.observe(Change{t, by})
	}
}

// Wait returns when the saver is closed, its last outage has been noted and what
// there was to store is stored.
func (c *Controller) Wait() {
	<-c.done
	c.writing.Wait()
}

// Active is the timeline of the outage in progress, or nil.
func (c *Controller) Active() *Timeline {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.active
}

// noteOutage takes note of a finished sequence, or of a VM that joined one late.
func (c *Controller) noteOutage(r *saver.Result) {
	t := c.clock.Timeline(r)
	if active := c.Active(); active != nil && active.ID == t.ID {
		t = active.with(t)
	} else {
		c.fleet.Notify("outage-begin", "", map[string]string{"id": t.ID, "source": t.Source, "tier": t.Tier, "cause": t.Cause})
	}
	// The timeline first: darkness may be near, and whoever sees a VM saved may ask for it.
	if err := c.keep(t); err != nil {
		c.log.Error("keep the timeline", "outage", t.ID, "error", err)
	}
	for _, v := range r.VMs {
		if m := c.fleet.VM(v.Name); m != nil {
			m.NoteSaved(v, r.ID)
		}
	}
	c.fleet.Notify("outage-committed", "", map[string]string{"id": t.ID, "outcome": t.Outcome})
	c.log.Warn("outage", "id", t.ID, "source", t.Source, "cause", t.Cause, "outcome", t.Outcome, "duration", t.Duration.Duration())
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.active == nil || c.active.ID != t.ID {
		c.changed(t, "")
	}
	c.active = &t
	for w := range c.waiters {
		select {
		case w <- t:
		default:
		}
	}
	close(c.noted)
	c.noted = make(chan struct{})
}

// with is the timeline of an outage that more VMs have joined.
func (t Timeline) with(late Timeline) Timeline {
	t.VMs = slices.Concat(t.VMs, late.VMs)
	if late.Outcome != "saved" {
		t.Outcome = late.Outcome
	}
	t.Close()
	return t
}

// keepLimit is how long a disk may take to store a timeline before guests no
// longer wait for it.
const keepLimit = 2 * time.Second

// keep stores a timeline. It may go on to do so after it has returned; then the
// next one waits, so that the last word stays.
func (c *Controller) keep(t Timeline) error {
	result, done := make(chan error, 1), make(chan struct{})
	c.mu.Lock()
	before := c.kept
	c.kept = done
	c.mu.Unlock()
	c.writing.Go(func() {
		defer close(done)
		if before != nil {
			<-before
		}
		result <- c.store.Put(t)
	})
	select {
	case err := <-result:
		return err
	case <-time.After(keepLimit):
		return fmt.Errorf("the state directory's disk does not answer within %s", keepLimit)
	}
}

// Simulate announces an outage as a detector would and returns its timeline once
// every VM is saved. The guests stay stopped until Clear.
func (c *Controller) Simulate(ctx context.Context) (Timeline, error) {
	return c.Announce(ctx, saver.Announcement{Source: "simulate", Tier: "emergency"})
}

// Announce is Simulate for any source. During an outage it fails with saver.ErrOutage.
func (c *Controller) Announce(ctx context.Context, a saver.Announcement) (Timeline, error) {
	event := saver.Now()
	noted := make(chan Timeline, waiterBacklog)
	c.mu.Lock()
	c.waiters[noted] = true
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiters, noted)
		c.mu.Unlock()
	}()
	id, err := c.saver.Announce(ctx, a, event)
	if errors.Is(err, saver.ErrOutage) {
		err = vm.WithRemedy(fmt.Errorf("%w: %w", err, vm.ErrState), "End it with nvh outage clear.")
	}
	if err != nil {
		return Timeline{}, err
	}
	for {
		select {
		case t := <-noted:
			if t.ID == id {
				return t, nil
			}
		case <-ctx.Done():
			return Timeline{}, ctx.Err()
		case <-c.done:
			return Timeline{}, saver.ErrClosed
		}
	}
}

// waiterBacklog is how many VMs may join an earlier outage late while the next one
// is announced.
const waiterBacklog = 64

// Clear says that power is back. Every guest the outage stopped continues in
// place, highest priority first, and its image is void; whatever could not be
// started during the outage is started now. When the saves are not over yet, Clear
// waits for them.
func (c *Controller) Clear(ctx context.Context) (Timeline, error) {
	c.clearing.Lock()
	defer c.clearing.Unlock()
	active, err := c.current(ctx)
	if err != nil {
		return Timeline{}, err
	}
	return c.clear(ctx, active, ByOperator)
}

// current is the outage in progress; it waits for one that is not noted yet.
func (c *Controller) current(ctx context.Context) (*Timeline, error) {
	for {
		c.mu.Lock()
		active, noted := c.active, c.noted
		c.mu.Unlock()
		if active != nil {
			return active, nil
		}
		lasts, err := c.saver.InOutage()
		if err != nil {
			return nil, err
		}
		if !lasts {
			return nil, vm.WithRemedy(fmt.Errorf("%w: %w", ErrNoOutage, vm.ErrState), "Nothing to clear.")
		}
		select {
		case <-noted:
		case <-c.done:
			return nil, saver.ErrClosed
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// clear ends an outage; c.clearing is held.
func (c *Controller) clear(ctx context.Context, active *Timeline, by string) (Timeline, error) {
	back := saver.Now()
	if err := c.saver.Clear(); err != nil {
		return Timeline{}, err
	}
	t := *c.retire(active, by)
	t.Outcome = "resumed in place"
	t.VMs = slices.Clone(t.VMs)
	err := c.continueAll(ctx, &t)
	t.Steps = append(slices.Clone(t.Steps), Step{Name: "clear", Start: since(t.EventNS, back), End: since(t.EventNS, saver.Now())})
	c.fleet.Notify("outage-clear", "", map[string]string{"id": t.ID})
	if kept := c.keep(t); kept != nil {
		kept = vm.WithRemedy(fmt.Errorf("power is back and the guests go on, but the timeline is not kept: %w", kept), "Make room in the state directory, or make it writable.")
		err = errors.Join(err, kept)
	}
	return t, err
}

// retire makes an outage no longer the active one, unless that is the next one
// already. It returns its timeline with all that have joined it.
func (c *Controller) retire(ended *Timeline, by string) *Timeline {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changed(*ended, by)
	if c.active != nil && c.active.ID == ended.ID {
		ended, c.active = c.active, nil
	}
	return ended
}

// AddSteps adds steps of the host to the timeline of an outage.
func (c *Controller) AddSteps(id string, steps ...Step) error {
	c.mu.Lock()
	active := c.active
	if active != nil && active.ID == id {
		t := *active
		t.Steps = slices.Concat(t.Steps, steps)
		c.active = &t
		c.mu.Unlock()
		return c.keep(t)
	}
	c.mu.Unlock()
	t, err := c.store.Find(id)
	if err != nil {
		return err
	}
	t.Steps = append(t.Steps, steps...)
	return c.keep(t)
}

// continueAll continues what the outage stopped or kept from starting.
func (c *Controller) continueAll(ctx context.Context, t *Timeline) error {
	var mu sync.Mutex
	var errs []error
	Parallel(c.resume, c.fleet.Ordered(), func(m *vm.VM) {
		if !m.Interrupted() {
			return
		}
		start := saver.Now()
		err := m.ResumeInPlace(ctx)
		step := Step{Name: "cont", Start: since(t.EventNS, start), End: since(t.EventNS, saver.Now())}
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			errs = append(errs, err)
		}
		note(t, m, step, err)
	})
	return errors.Join(errs...)
}

func note(t *Timeline, m *vm.VM, step Step, err error) {
	for i := range t.VMs {
		if t.VMs[i].Name != m.Name() {
			continue
		}
		v := &t.VMs[i]
		v.Steps = append(append([]Step(nil), v.Steps...), step)
		v.Outcome = "resumed in place"
		if err != nil {
			v.Outcome, v.Reason = "failed", err.Error()
		}
		return
	}
}

// Parallel calls fn for each VM in order, at most n at once, and waits for all.
func Parallel(n int, vms []*vm.VM, fn func(*vm.VM)) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, max(1, n))
	for _, m := range vms {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			fn(m)
		})
	}
	wg.Wait()
}

// Clock relates CLOCK_MONOTONIC to wall-clock time and to one boot of the host.
type Clock struct{ BootID string }

// Timeline gives the result of a save its lasting form.
func (c *Clock) Timeline(r *saver.Result) Timeline {
	t := Timeline{
		ID: r.ID, Kind: "save", Source: r.Source, Tier: r.Tier, Cause: r.Cause, EventNS: r.EventNS, BootID: c.BootID,
		Event: c.Wall(r.EventNS), Outcome: "saved",
	}
	if r.Outage {
		t.Kind = "outage"
	}
	t.Steps = []Step{{Name: "wake", Start: 0, End: since(r.EventNS, r.WokenNS)}}
	if r.Parked.End != 0 {
		t.Steps = append(t.Steps, Step{Name: r.Parked.Name, Start: since(r.EventNS, r.Parked.Start), End: since(r.EventNS, r.Parked.End)})
	}
	for _, v := range r.VMs {
		vt := VMTimeline{Name: v.Name, Priority: v.Priority, Volatile: v.Volatile, StateSize: int64(v.StateSize)}
		vt.Steps = Steps(r.EventNS, v.Steps)
		switch {
		case v.Committed:
			vt.Outcome = "committed"
		case v.Paused:
			vt.Outcome = "paused"
		default:
			vt.Outcome, t.Outcome = "failed", "incomplete"
		}
		if v.Err != nil {
			vt.Reason = v.Err.Error()
		}
		t.VMs = append(t.VMs, vt)
	}
	t.Close()
	return t
}

// Wall is the wall-clock time of an instant of this boot's CLOCK_MONOTONIC.
func (c *Clock) Wall(ns int64) time.Time {
	return time.Now().Add(time.Duration(ns - saver.Now())).UTC()
}

// Steps converts a VM's steps.
func Steps(eventNS int64, steps []saver.Step) []Step {
	out := make([]Step, 0, len(steps))
	for _, s := range steps {
		out = append(out, Step{Name: s.Name, Start: since(eventNS, s.Start), End: since(eventNS, s.End)})
	}
	return out
}

func since(eventNS, ns int64) Micros { return MicrosOf(time.Duration(ns - eventNS)) }

// Close computes the duration: event to the end of the last step.
func (t *Timeline) Close() {
	for _, v := range t.VMs {
		for _, s := range v.Steps {
			t.Duration = max(t.Duration, s.End)
		}
	}
	for _, s := range t.Steps {
		t.Duration = max(t.Duration, s.End)
	}
}
