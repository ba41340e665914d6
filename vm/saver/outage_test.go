package saver

import (
	"errors"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/qmp/qmptest"
	"github.com/nv-hypervisor/nv-hypervisor/vm/record"
)

// A detector's word saves all VMs; what is no announcement does not.
func TestDetector(t *testing.T) {
	r := newRig(t, Config{})
	p := r.pipe("plug")
	g := r.boot(Options{Name: "db"})
	p.say("quiet")
	check(t, r.saver.call(testContext(t), func() error { return nil })) // the thread has passed by
	if slices.Contains(g.Commands(), "stop") {
		t.Fatal("saved for no reason")
	}
	before := Now()
	p.say("x")
	result := r.outage()
	g.expectSaved(result)
	if !result.Outage || result.Source != "plug" || !strings.HasSuffix(result.ID, "-outage") {
		t.Errorf("result %+v", result)
	}
	if result.EventNS < before || result.WokenNS < result.EventNS {
		t.Errorf("event at %d, woken at %d, announced at %d", result.EventNS, result.WokenNS, before)
	}
}

// starter is a detector that stands for a state.
type starter struct {
	*pipe
	event Event
}

func (s starter) Start() (Event, int64) { return s.event, 0 }

// A detector whose state is an outage when it is added announces it; other states do not.
func TestDetectorThatStartsWithAnOutage(t *testing.T) {
	r := newRig(t, Config{})
	p := r.pipe("line")
	g := r.boot(Options{Name: "db"})
	check(t, r.saver.AddSource(starter{r.pipeUnwatched("calm"), None}))
	check(t, r.saver.AddSource(starter{r.pipeUnwatched("back"), PowerBack}))
	if n := len(r.saver.Outages()); n != 0 {
		t.Fatalf("%d outages from detectors at rest", n)
	}
	check(t, r.saver.AddSource(starter{r.pipeUnwatched("dark"), Outage}))
	result := r.outage()
	g.expectSaved(result)
	if !result.Outage || result.Source != "dark" {
		t.Errorf("result %+v", result)
	}
	check(t, r.saver.AddSource(starter{r.pipeUnwatched("dark too"), Outage})) // the same outage
	p.say("x")
	if n := len(r.saver.Outages()); n != 0 {
		t.Errorf("%d more outages were noted", n)
	}
}

// What two sources tell during one outage is one outage; after its end it is another.
func TestTwoSourcesOneOutage(t *testing.T) {
	r := newRig(t, Config{})
	p, q := r.pipe("first"), r.pipe("second")
	g := r.boot(Options{Name: "db"})
	g.Hold("migrate")
	p.say("x")
	dump := g.Take(testContext(t))
	q.say("x") // in the middle of the save
	g.Migrate(dump, g.Dumped())
	first := r.outage()
	g.expectSaved(first)
	p.say("x") // after it
	if err := r.saver.Simulate(testContext(t), Now()); !errors.Is(err, ErrOutage) {
		t.Errorf("simulate in an outage: %v", err)
	}
	if n := len(r.saver.Outages()); n != 0 {
		t.Errorf("%d more outages were noted", n)
	}
	check(t, r.saver.Clear())
	check(t, g.run())
	q.say("x")
	g.Migrate(g.Take(testContext(t)), g.Dumped())
	second := r.outage()
	if g.expectSaved(second); second.Source != "second" || second.ID == first.ID {
		t.Errorf("second outage %+v", second)
	}
}

// During an outage nothing lets a guest run, and nobody even asks the record.
func TestNoGuestRunsInAnOutage(t *testing.T) {
	r := newRig(t, Config{})
	g := r.boot(Options{Name: "db"})
	waiting := r.attach(Options{Name: "waiting"})
	check(t, r.saver.Simulate(testContext(t), Now()))
	g.expectSaved(r.outage())
	for _, x := range []*guest{g, waiting} {
		marks := x.marks.Load()
		if err := r.saver.Arm(x.target, nil); !errors.Is(err, ErrOutage) {
			t.Errorf("arm: %v", err)
		}
		if err := r.saver.Cont(x.target, x.mark, false); !errors.Is(err, ErrOutage) {
			t.Errorf("cont: %v", err)
		}
		if x.marks.Load() != marks {
			t.Error("the record was marked")
		}
	}
	if _, err := r.saver.Save(testContext(t), g.target); !errors.Is(err, ErrOutage) {
		t.Errorf("save: %v", err)
	}
	g.expectSaved(&Result{ID: idOf(t, g), VMs: []VMResult{{Name: "db", Committed: true, StateSize: len(g.Dumped())}}})
	check(t, r.saver.Clear())
	check(t, waiting.run())
}

func idOf(t *testing.T, g *guest) string {
	t.Helper()
	rec, err := g.area.Latest()
	check(t, err)
	return rec.Outage
}

// A second outage before the guests run again saves nothing and harms nothing:
// their images are intact. A volatile VM is paused again.
func TestTwiceWithoutAnInstruction(t *testing.T) {
	r := newRig(t, Config{})
	g := r.boot(Options{Name: "db"})
	scratch := r.boot(Options{Name: "scratch", Volatile: true})
	check(t, r.saver.Simulate(testContext(t), Now()))
	first := r.outage()
	check(t, r.saver.Clear())
	check(t, r.saver.Arm(g.target, nil)) // as far as it comes
	check(t, r.saver.Simulate(testContext(t), Now()))
	second := r.outage()
	if len(second.VMs) != 1 || !scratch.of(second).Paused {
		t.Errorf("the second outage did something: %+v", second.VMs)
	}
	g.expectSaved(first)
	check(t, r.saver.Clear())
	check(t, g.run())
	check(t, r.saver.Simulate(testContext(t), Now()))
	g.expectSaved(r.outage())
}

// The mark comes before cont, once; where it fails, or there is none where one is
// needed, the guest does not run.
func TestMarkBeforeCont(t *testing.T) {
	r := newRig(t, Config{})
	g := r.attach(Options{Name: "db"})
	if err := r.saver.Cont(g.target, nil, false); !errors.Is(err, ErrUnarmed) {
		t.Errorf("cont without a mark: %v", err)
	}
	check(t, r.saver.Arm(g.target, nil))
	err := r.saver.Cont(g.target, func() (*record.Commit, error) { return nil, errMedium }, false)
	if !errors.Is(err, errMedium) {
		t.Errorf("cont with a failing mark: %v", err)
	}
	if result := r.save(); len(result.VMs) != 0 {
		t.Errorf("a guest that never ran was saved: %+v", result.VMs)
	}
	if slices.Contains(g.Commands(), "cont") || slices.Contains(g.Commands(), "stop") {
		t.Fatalf("the guest was let run: %q", g.Commands())
	}
	check(t, r.saver.Cont(g.target, func() (*record.Commit, error) {
		if slices.Contains(g.Commands(), "cont") {
			t.Error("cont was sent before the mark")
		}
		return g.mark()
	}, false))
	if g.Status() != "running" || g.marks.Load() != 1 {
		t.Errorf("QEMU is %s after %d marks", g.Status(), g.marks.Load())
	}
}

// A paused VM is ready to be saved, and stays paused.
func TestPausedVM(t *testing.T) {
	modes(t, func(t *testing.T, fileURI bool) {
		r := newRig(t, Config{})
		g := r.attach(Options{Name: "db", FileURI: fileURI})
		check(t, r.saver.Arm(g.target, nil))
		check(t, r.saver.Cont(g.target, g.mark, true))
		if g.Status() != "prelaunch" {
			t.Errorf("QEMU is %s", g.Status())
		}
		g.SetStatus("paused")
		result := r.save()
		g.expectSaved(result)
		if at := g.times(result); at.stopped == 0 || at.stopped > at.dumped {
			t.Errorf("a paused VM has no STOP event, but an answer: %+v", at)
		}
	})
}

// A plain pause and its end need neither a mark nor a descriptor, and the VM stays armed.
func TestUnpause(t *testing.T) {
	r := newRig(t, Config{})
	g := r.boot(Options{Name: "db"})
	g.SetStatus("paused") // over the other monitor
	check(t, r.saver.Cont(g.target, nil, false))
	if g.Status() != "running" {
		t.Errorf("QEMU is %s", g.Status())
	}
	g.expectSaved(r.save())
	if err := r.saver.Cont(g.target, nil, false); !errors.Is(err, ErrUnarmed) {
		t.Errorf("cont of a saved VM without a mark: %v", err)
	}
}

// A running VM that is being armed anew is not armed: it fails alone, and says so.
func TestUnarmed(t *testing.T) {
	r := newRig(t, Config{})
	bad, good := r.boot(Options{Name: "bad", Priority: 9}), r.boot(Options{Name: "good"})
	check(t, r.saver.Arm(bad.target, nil))
	result := r.save()
	bad.expectUnsaved(result, "not armed")
	good.expectSaved(result)
	check(t, bad.run())
	bad.expectSaved(r.save())
}

// QEMU's refusal of a preparation step is the caller's to know, in QEMU's words.
func TestRefusedPreparation(t *testing.T) {
	r := newRig(t, Config{})
	g := r.attach(Options{Name: "db"})
	refuse := func(command string) {
		g.HandleRequest(command, func(req *qmptest.Request) { req.Refuse("GenericError", "no "+command) })
	}
	refuse("getfd")
	if err := r.saver.Arm(g.target, nil); err == nil || !strings.Contains(err.Error(), "no getfd") {
		t.Errorf("arm: %v", err)
	}
	g.HandleRequest("getfd", func(req *qmptest.Request) { req.Reply(nil) })
	check(t, r.saver.Arm(g.target, nil))
	refuse("cont")
	if err := r.saver.Cont(g.target, g.mark, false); err == nil || !strings.Contains(err.Error(), "no cont") {
		t.Errorf("cont: %v", err)
	}
}

// Two preparations of one VM exclude each other.
func TestOnePreparationAtATime(t *testing.T) {
	r := newRig(t, Config{})
	g := r.attach(Options{Name: "db"})
	g.Hold("getfd")
	done := make(chan error)
	go func() { done <- r.saver.Arm(g.target, nil) }()
	first := g.Take(testContext(t))
	if err := r.saver.Arm(g.target, nil); err == nil || !strings.Contains(err.Error(), "under way") {
		t.Errorf("second arm: %v", err)
	}
	first.Reply(nil)
	check(t, <-done)
}

// A call that QEMU's death leaves without an answer ends with it.
func TestDeathDuringPreparation(t *testing.T) {
	r := newRig(t, Config{})
	g := r.attach(Options{Name: "db"})
	g.HandleRequest("getfd", func(*qmptest.Request) { g.Hangup() })
	if err := r.saver.Arm(g.target, nil); err == nil || !strings.Contains(err.Error(), "gone") {
		t.Errorf("arm: %v", err)
	}
	if _, err := r.saver.Save(testContext(t), g.target); err == nil || !strings.Contains(err.Error(), "gone") {
		t.Errorf("save: %v", err)
	}
	r.saver.Detach(g.target)
	r.saver.Detach(g.target) // twice is harmless
	g.target.Close()
}

// The saver's thread and QEMU's are real-time threads while a save lasts, where the host permits.
func TestRealtime(t *testing.T) {
	r := newRig(t, Config{Realtime: true})
	permitted := make(chan bool)
	go func() {
		err := setFIFO(0, 1)
		if err == nil {
			err = setOther(0)
		}
		permitted <- err == nil
	}()
	want := <-permitted
	if r.saver.Realtime() != want {
		t.Fatalf("real-time is %v, permitted %v", r.saver.Realtime(), want)
	}
	policy := map[bool]uint32{true: unix.SCHED_FIFO, false: unix.SCHED_NORMAL}[want]
	thread, end := sleeper(t)
	defer end()
	g := r.boot(Options{Name: "db"})
	check(t, r.saver.Arm(g.target, []Thread{{ID: thread, Priority: 5}}))
	check(t, r.saver.Cont(g.target, g.mark, false))
	g.HandleRequest("migrate", func(req *qmptest.Request) {
		if a, err := unix.SchedGetAttr(thread, 0); err != nil || a.Policy != policy {
			t.Errorf("during the save QEMU's thread has policy %+v, %v", a, err)
		}
		g.Migrate(req, g.Dumped())
	})
	check(t, r.saver.Simulate(testContext(t), Now()))
	g.expectSaved(r.outage())
	check(t, r.saver.Clear())
	if a, err := unix.SchedGetAttr(thread, 0); err != nil || a.Policy != unix.SCHED_NORMAL {
		t.Errorf("after the outage QEMU's thread has policy %+v, %v", a, err)
	}
}

// sleeper is a thread to play with.
func sleeper(t *testing.T) (id int, end func()) {
	t.Helper()
	ids, stop, gone := make(chan int), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		runtime.LockOSThread() // and end with it
		ids <- unix.Gettid()
		<-stop
	}()
	return <-ids, func() { close(stop); <-gone }
}
