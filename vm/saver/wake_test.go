package saver

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/qmp/qmptest"
)

// occupy keeps the thread busy until release; what happens meanwhile it finds all at once.
func (r *rig) occupy() (release func()) {
	busy, free, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		r.saver.call(testContext(r.t), func() error {
			close(busy)
			<-free
			return nil
		})
	}()
	<-busy
	return func() { close(free); <-done }
}

// mail leaves a call for the thread, and returns when it lies in the mailbox.
func (r *rig) mail(fn func() error) (done chan error) {
	r.t.Helper()
	r.saver.mu.Lock()
	before := len(r.saver.mailbox)
	r.saver.mu.Unlock()
	done = make(chan error, 1)
	go func() { done <- r.saver.call(testContext(r.t), fn) }()
	eventually(r.t, "the call is in the mailbox", func() bool {
		r.saver.mu.Lock()
		defer r.saver.mu.Unlock()
		return len(r.saver.mailbox) > before
	})
	return done
}

// A call that comes in the same instant as an outage is served after it.
func TestCallBesideAnOutage(t *testing.T) {
	r := newRig(t, Config{})
	p := r.pipe("plug")
	g := r.boot(Options{Name: "db"})
	release := r.occupy()
	done := r.mail(func() error { return nil })
	p.say("x")
	release()
	g.expectSaved(r.outage())
	check(t, <-done)
}

// A call that comes in the middle of a save is served after it, and does not keep
// the thread, which may be a real-time one, from sleeping.
func TestCallDuringASave(t *testing.T) {
	r := newRig(t, Config{})
	g := r.boot(Options{Name: "db"})
	g.Hold("migrate")
	check(t, r.saver.Simulate(testContext(t), Now()))
	dump := g.Take(testContext(t))
	var used unix.Rusage
	done := r.mail(func() error { return unix.Getrusage(unix.RUSAGE_THREAD, &used) })
	const long = 300 * time.Millisecond
	time.Sleep(long) // that a spinning thread would use up
	g.Migrate(dump, g.Dumped())
	check(t, <-done)
	g.expectSaved(r.outage())
	if busy := time.Duration(used.Utime.Nano() + used.Stime.Nano()); busy > long/2 {
		t.Errorf("the thread was busy for %v of a save of %v", busy, long)
	}
}

// An outage that comes between cont and QEMU's answer leaves neither the call nor
// the save without its answer.
func TestOutageBeforeContIsAnswered(t *testing.T) {
	r := newRig(t, Config{})
	g := r.attach(Options{Name: "db"})
	g.Hold("cont")
	check(t, r.saver.Arm(g.target, nil))
	done := make(chan error, 1)
	go func() { done <- r.saver.Cont(g.target, g.mark, false) }()
	cont := g.Take(testContext(t))
	g.HandleRequest("stop", func(req *qmptest.Request) {
		g.Emit("RESUME", nil)
		cont.Reply(nil)
		g.Emit("STOP", nil)
		req.Reply(nil)
	})
	before := time.Now()
	check(t, r.saver.Simulate(testContext(t), Now()))
	g.expectSaved(r.outage())
	check(t, <-done)
	if waited := time.Since(before); waited > replyLimit/2 {
		t.Errorf("cont was answered after %v", waited)
	}
}

// What becomes of the save is not the answer to a cont that came before it.
func TestSaveFailsBeforeContIsAnswered(t *testing.T) {
	r := newRig(t, Config{})
	g := r.attach(Options{Name: "db"})
	g.Hold("cont")
	check(t, r.saver.Arm(g.target, nil))
	done := make(chan error, 1)
	go func() { done <- r.saver.Cont(g.target, g.mark, false) }()
	cont := g.Take(testContext(t))
	g.HandleRequest("migrate", func(req *qmptest.Request) {
		cont.Reply(nil)
		g.BeginMigration(req, nil)
		g.Migration("failed")
	})
	check(t, r.saver.Simulate(testContext(t), Now()))
	g.expectUnsaved(r.outage(), "failed to write")
	check(t, <-done)
}

// A call that is given up before the thread takes it is never made; one that has
// begun is waited for.
func TestCallGivenUp(t *testing.T) {
	r := newRig(t, Config{})
	g := r.boot(Options{Name: "db"})
	release := r.occupy()
	ctx, cancel := context.WithCancel(testContext(t))
	cancel()
	if _, err := r.saver.Save(ctx, g.target); !errors.Is(err, context.Canceled) {
		t.Errorf("save: %v", err)
	}
	if err := r.saver.Simulate(ctx, Now()); !errors.Is(err, context.Canceled) {
		t.Errorf("simulate: %v", err)
	}
	release()
	check(t, r.saver.Clear())
	if g.Status() != "running" {
		t.Fatalf("it was saved all the same: QEMU is %s", g.Status())
	}

	ctx, cancel = context.WithCancel(testContext(t))
	g.Hold("migrate")
	results, done := make(chan *Result, 1), make(chan error, 1)
	go func() {
		result, err := r.saver.Save(ctx, g.target)
		results <- result
		done <- err
	}()
	dump := g.Take(testContext(t))
	cancel()
	g.Migrate(dump, g.Dumped())
	result := <-results
	check(t, <-done)
	g.expectSaved(result)
}

// A detector that has come to its end is not asked for ever.
func TestDeadDetector(t *testing.T) {
	r := newRig(t, Config{})
	p, q := r.pipe("dead"), r.pipe("alive")
	g := r.boot(Options{Name: "db"})
	unix.Close(p.w)
	p.w = -1
	var before, after unix.Rusage
	usage := func(u *unix.Rusage) func() error {
		return func() error { return unix.Getrusage(unix.RUSAGE_THREAD, u) }
	}
	check(t, r.saver.call(testContext(t), usage(&before)))
	const long = 200 * time.Millisecond
	time.Sleep(long) // that a spinning thread would use up
	check(t, r.saver.call(testContext(t), usage(&after)))
	if busy := time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()); busy > long/2 {
		t.Errorf("the thread was busy for %v of %v", busy, long)
	}
	watched, dead := r.saver.Detectors()
	if !slices.Equal(watched, []string{"alive"}) || !slices.Equal(dead, []string{"dead"}) {
		t.Errorf("watched %q, dead %q", watched, dead)
	}
	q.say("x")
	g.expectSaved(r.outage())
}

// A QEMU that dies in a save leaves no call waiting for its answer.
func TestDeathBeforeContIsAnswered(t *testing.T) {
	r := newRig(t, Config{})
	g, volatile := r.attach(Options{Name: "db"}), r.boot(Options{Name: "scratch", Volatile: true})
	g.Hold("cont")
	check(t, r.saver.Arm(g.target, nil))
	done := make(chan error, 1)
	go func() { done <- r.saver.Cont(g.target, g.mark, false) }()
	g.Take(testContext(t))
	g.HandleRequest("migrate", func(*qmptest.Request) {
		volatile.Hangup() // paused, and then gone
		g.Hangup()
	})
	before := time.Now()
	check(t, r.saver.Simulate(testContext(t), Now()))
	result := r.outage()
	g.expectUnsaved(result, "died")
	if err := <-done; err == nil || !strings.Contains(err.Error(), "gone") {
		t.Errorf("cont: %v", err)
	}
	if waited := time.Since(before); waited > replyLimit/2 {
		t.Errorf("cont was answered after %v", waited)
	}
	check(t, r.saver.Clear())
	if err := r.saver.Arm(volatile.target, nil); err == nil || !strings.Contains(err.Error(), "gone") {
		t.Errorf("arm: %v", err)
	}
}

// The thread sleeps no longer than until the first dump counts as hung, however
// late in that time it was woken by something else.
func TestPatience(t *testing.T) {
	const ms = 1e6
	s := &Saver{config: Config{Hung: 250 * time.Millisecond}}
	dumping := func(sent int64) *Target { return &Target{phase: phaseDumping, times: times{dumpSent: sent}} }
	for _, c := range []struct {
		name     string
		targets  []*Target
		deadline int64
		want     int
	}{
		{"just begun", []*Target{dumping(1000 * ms)}, 11000 * ms, 250},
		{"almost hung", []*Target{dumping(1000 * ms), dumping(760 * ms)}, 11000 * ms, 10},
		{"hung already", []*Target{dumping(700 * ms)}, 1100 * ms, 100},
		{"others do not count", []*Target{{phase: phaseStopping}, {phase: phaseFailed, times: times{dumpSent: 760 * ms}}}, 1200 * ms, 200},
		{"never too early", []*Target{dumping(760*ms + 1)}, 11000 * ms, 11},
		{"over", nil, 900 * ms, 1},
	} {
		s.targets = c.targets
		if got := s.patience(1000*ms, c.deadline); got != c.want {
			t.Errorf("%s: %d ms, want %d", c.name, got, c.want)
		}
	}
}
