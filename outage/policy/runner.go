package policy

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/pod"
)

// Outages is what the runner needs of the host.
type Outages interface {
	// Begin announces an outage and returns its id when all is saved that can be. It
	// fails with ErrUnderWay when there is one already.
	Begin(ctx context.Context, s Save) (id string, err error)
	// End says that power is back in the outage of this id, and no other.
	End(ctx context.Context, id string) error
	// Observe calls began for every outage whose saves are over, whoever announced it,
	// before its Begin returns; and ended for its end, whether an operator said so or
	// not. Neither blocks. It is called once, before all else.
	Observe(began func(id string), ended func(id string, operator bool))
}

// Watched is a watcher with the rules for it.
type Watched struct {
	pod.Watcher
	Rules
}

// Options are what a runner works with. All but Redundant are required.
type Options struct {
	Outages   Outages
	Need      func() time.Duration // how long a save takes; called often, from one goroutine
	Redundant bool                 // see New
	Notify    func(event string, data map[string]string)
	Log       *slog.Logger
}

// Runner runs watchers and carries out what a Machine decides. Its own goroutine
// never waits for a save, a watcher or whoever waits for a Done.
type Runner struct {
	options Options
	watched []Watched
	machine *Machine
	cancel  context.CancelFunc
	running sync.WaitGroup // watchers, the loop
	working sync.WaitGroup // saves, clears, calls of Done
	news    chan struct{}  // holds one when inputs may not be empty

	mu     sync.Mutex // guards what follows
	inputs []input
	status Status
}

// input is what the machine is told, at the time of the call.
type input func(now time.Time) Output

// Start runs the watchers until Close.
func Start(watched []Watched, o Options) *Runner {
	var sources []Source
	for _, w := range watched {
		sources = append(sources, Source{w.Name(), w.Tier(), w.Rules})
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &Runner{
		options: o, watched: watched, cancel: cancel, news: make(chan struct{}, 1),
		machine: New(sources, o.Redundant, o.Need),
	}
	o.Outages.Observe(r.began, r.ended)
	r.running.Go(func() { r.loop(ctx) })
	for i, w := range watched {
		r.running.Go(func() { r.watch(ctx, i, w) })
	}
	return r
}

// Close ends the watchers and waits for them, and for guests that are being continued.
// A save that has begun goes on by itself, and whoever still waits for a Done is told
// at once.
func (r *Runner) Close() {
	r.cancel()
	r.running.Wait()
	r.working.Wait()
	for _, in := range r.take() {
		call(in(time.Now()).Done)
	}
	call(r.machine.settle())
}

func call(done []func()) {
	for _, f := range done {
		f()
	}
}

// Watched lists the watchers.
func (r *Runner) Watched() []Watched { return r.watched }

// Status is where the decision stands. It may be called at any time.
func (r *Runner) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status
}

func (r *Runner) began(id string) {
	r.tell(func(now time.Time) Output { return r.machine.Began(now, id) })
}

func (r *Runner) ended(id string, operator bool) {
	r.tell(func(now time.Time) Output { return r.machine.Ended(now, id, operator) })
}

func (r *Runner) tell(in input) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.inputs = append(r.inputs, in)
	select {
	case r.news <- struct{}{}:
	default:
	}
}

func (r *Runner) take() []input {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := r.inputs
	r.inputs = nil
	return taken
}

// watch runs one watcher.
func (r *Runner) watch(ctx context.Context, index int, w Watched) {
	var last pod.Condition
	w.Run(ctx, func(report pod.Report) {
		if report.Condition != last {
			last = report.Condition
			r.announce(w, report)
		}
		r.tell(func(now time.Time) Output { return r.machine.Report(now, index, report) })
	})
}

// announce tells operators what a watcher has learned.
func (r *Runner) announce(w Watched, report pod.Report) {
	data := map[string]string{
		"detector": w.Name(), "tier": w.Tier().String(), "condition": report.Condition.String(), "detail": report.Detail,
	}
	if report.Condition == pod.Unknown {
		data["error"] = w.Health().Error
		r.options.Log.Warn("a detector is lost", "detector", w.Name(), "error", data["error"])
	} else {
		r.options.Log.Debug("detector", "detector", w.Name(), "condition", report.Condition, "detail", report.Detail)
	}
	r.options.Notify("detector", data)
}

// loop feeds the machine.
func (r *Runner) loop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var inputs []input
		select {
		case <-ctx.Done():
			return
		case <-r.news:
			inputs = r.take()
		case <-timer.C:
			inputs = []input{r.machine.Tick}
		}
		for _, in := range inputs {
			out := in(time.Now())
			r.carryOut(ctx, out)
			timer.Stop()
			if !out.Wake.IsZero() {
				timer.Reset(time.Until(out.Wake))
			}
		}
	}
}

// carryOut does what the machine has decided.
func (r *Runner) carryOut(ctx context.Context, out Output) {
	r.note()
	for _, done := range out.Done {
		r.working.Go(done)
	}
	if out.Save != nil {
		r.working.Go(func() {
			id, err := r.options.Outages.Begin(ctx, *out.Save)
			if err != nil {
				r.options.Log.Error("save", "source", out.Save.Source, "cause", out.Save.Cause, "error", err)
			}
			r.tell(func(now time.Time) Output { return r.machine.Saved(now, id, err) })
		})
	}
	if out.Clear != "" {
		r.working.Go(func() {
			// Guests that have begun to go on are not left half way.
			if err := r.options.Outages.End(context.WithoutCancel(ctx), out.Clear); err != nil {
				r.options.Log.Error("continue after power came back", "outage", out.Clear, "error", err)
				r.tell(func(now time.Time) Output { return r.machine.Cleared(now, out.Clear) })
			}
		})
	}
}

// note publishes a new phase.
func (r *Runner) note() {
	now := r.machine.Status()
	r.mu.Lock()
	before := r.status.Phase
	r.status = now
	r.mu.Unlock()
	if now.Phase == before {
		return
	}
	r.options.Log.Warn("power", "phase", now.Phase, "source", now.Source, "cause", now.Cause)
	r.options.Notify("policy", map[string]string{"phase": now.Phase.String(), "source": now.Source, "cause": now.Cause})
}
