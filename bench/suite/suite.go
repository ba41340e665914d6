// Package suite measures the real product against the bare loop of package floor, on
// one machine and in one run.
//
// Everything that is compared is alive at the same time and measured in turns, in an
// order that is drawn anew for each round, while the guests of all others stand
// still: what the machine does beside is then the same for all. Between two samples
// a guest runs for a random fraction of its own period, so that the samples meet it
// at all its moments.
//
// The clock is CLOCK_MONOTONIC. It starts before the signal is sent, or before the daemon is
// executed, and is read at the other end by the product itself, in the timeline it keeps.
package suite

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"regexp"
	"slices"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/bench/report"
	"github.com/nv-hypervisor/nv-hypervisor/nvram"
)

// Options describe a run. Bin, Samples and Progress are required.
type Options struct {
	Bin      string         // folder with nvh and nvhd
	QEMU     string         // binary; empty: the installed one
	Samples  int            // of each save; see restarts
	Only     *regexp.Regexp // of the names of cases, "single/save/none"; nil: all
	Quick    bool           // smaller and fewer VMs: a test of the benchmark, not a measurement
	Seed     uint64         // of all that is random
	Progress io.Writer      // told what is being done
}

// scenario is a number of equal VMs.
type scenario struct {
	name   string
	vms    int
	memory nvram.Bytes
}

// group is what is measured in turns.
type group struct {
	name      string
	scenarios []scenario
}

// leastMemory is the least the guest boots with.
const leastMemory = 192 * nvram.MiB

var (
	fullGroups = []group{
		{"single", []scenario{{"256M", 1, 256 * nvram.MiB}, {"1G", 1, nvram.GiB}, {"4G", 1, 4 * nvram.GiB}}},
		{"fleet", []scenario{{"8x192M", 8, leastMemory}}},
	}
	quickGroups = []group{
		{"single", []scenario{{"192M", 1, leastMemory}, {"256M", 1, 256 * nvram.MiB}}},
		{"fleet", []scenario{{"2x192M", 2, leastMemory}}},
	}
)

// kind is what is done to a group.
type kind string

const (
	save    kind = "save"    // signal, commit, power back, guests continue in place
	restart kind = "restart" // signal, commit, everything killed, daemon started again
)

// restarts is the number of samples of a restart, which takes about a second and hardly varies.
func restarts(samples int) int { return max(1, samples/5) }

// testCase is one part of a run.
type testCase struct {
	kind kind
	load report.Load
}

// name is what Options.Only selects by.
func (c testCase) name(g group) string { return fmt.Sprintf("%s/%s/%s", g.name, c.kind, c.load) }

// cases of a group that are wanted. Restarts come last, because they leave new QEMUs.
func cases(g group, only *regexp.Regexp) []testCase {
	var list []testCase
	for _, k := range []kind{save, restart} {
		for _, load := range []report.Load{report.NoLoad, report.Hogs} {
			c := testCase{k, load}
			if only == nil || only.MatchString(c.name(g)) {
				list = append(list, c)
			}
		}
	}
	return list
}

// run is a run in progress.
type run struct {
	opt    Options
	random *rand.Rand
	report *report.Report
}

// Run measures. What it has started is gone when it returns.
func Run(ctx context.Context, opt Options) (*report.Report, error) {
	r := &run{opt: opt, random: rand.New(rand.NewPCG(opt.Seed, 0)), report: &report.Report{Began: time.Now(), Seed: opt.Seed}}
	var err error
	if r.report.Machine, err = report.Describe(); err != nil {
		return nil, err
	}
	groups := fullGroups
	if opt.Quick {
		groups = quickGroups
	}
	for _, g := range groups {
		if list := cases(g, opt.Only); len(list) > 0 {
			if err := r.group(ctx, g, list); err != nil {
				return nil, fmt.Errorf("%s: %w", g.name, err)
			}
		}
	}
	if len(r.report.Series) == 0 {
		return nil, fmt.Errorf("no case matches %q: their names are GROUP/KIND/LOAD, for example single/save/none", opt.Only)
	}
	slices.SortStableFunc(r.report.Series, func(a, b report.Series) int {
		return cmp.Or(cmp.Compare(a.VMs, b.VMs), cmp.Compare(a.Memory, b.Memory))
	})
	r.report.Took = time.Since(r.report.Began)
	r.report.Machine.LoadAfter = report.LoadAverage()
	return r.report, nil
}

// group sets the group's hosts up and measures the cases.
func (r *run) group(ctx context.Context, g group, list []testCase) (err error) {
	r.say("%s: starting %d hosts and as many bare loops", g.name, len(g.scenarios))
	var hosts []*pair
	defer func() {
		for _, h := range hosts {
			err = errors.Join(err, h.close())
		}
	}()
	for _, s := range g.scenarios {
		h, err := r.open(ctx, s)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		hosts = append(hosts, h)
	}
	for _, c := range list {
		if err := r.measure(ctx, c.name(g), c, hosts); err != nil {
			return fmt.Errorf("%s: %w", c.name(g), err)
		}
	}
	return nil
}

// measure takes the samples of a case.
func (r *run) measure(ctx context.Context, name string, c testCase, hosts []*pair) (err error) {
	if c.load == report.Hogs {
		h, err := startHogs()
		if err != nil {
			return err
		}
		defer h.stop()
	}
	n := r.opt.Samples
	if c.kind == restart {
		n = restarts(n)
	}
	began := time.Now()
	for round := range n {
		if round%10 == 0 {
			r.say("%s: %d of %d rounds", name, round, n)
		}
		var turns []turn
		for _, h := range hosts {
			turns = append(turns, h.turns(c.kind)...)
		}
		r.random.Shuffle(len(turns), func(i, j int) { turns[i], turns[j] = turns[j], turns[i] })
		for _, t := range turns {
			if err := r.take(ctx, c.load, t); err != nil {
				return fmt.Errorf("%s: %w", t.scenario.name, err)
			}
		}
	}
	r.say("%s: done in %v", name, time.Since(began).Round(time.Second))
	return nil
}

// turn is one sample to be taken: let the guests run for a while, then measure, and
// leave them standing still.
type turn struct {
	scenario scenario
	run      func(context.Context) error
	measure  func(context.Context) (sample, error)
}

// sample is the durations that one turn gave.
type sample map[report.Measure]time.Duration

// How long guests run between two samples: about their own period, which is 200 ms.
const (
	shortestRun = 50 * time.Millisecond
	longestRun  = 250 * time.Millisecond
)

func (r *run) take(ctx context.Context, load report.Load, t turn) error {
	if err := t.run(ctx); err != nil {
		return err
	}
	if err := pause(ctx, shortestRun+time.Duration(r.random.Int64N(int64(longestRun-shortestRun)))); err != nil {
		return err
	}
	s, err := t.measure(ctx)
	if err != nil {
		return err
	}
	for measure, d := range s {
		r.add(t.scenario, load, measure, d)
	}
	return nil
}

func (r *run) add(s scenario, load report.Load, m report.Measure, d time.Duration) {
	for i := range r.report.Series {
		have := &r.report.Series[i]
		if have.Scenario == s.name && have.Load == load && have.Measure == m {
			have.Samples = append(have.Samples, d)
			return
		}
	}
	r.report.Series = append(r.report.Series, report.Series{
		Scenario: s.name, VMs: s.vms, Memory: uint64(s.memory), Load: load, Measure: m, Samples: []time.Duration{d},
	})
}

func (r *run) say(format string, args ...any) {
	fmt.Fprintf(r.opt.Progress, "bench: "+format+"\n", args...)
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
