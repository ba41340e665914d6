package report

import (
	"fmt"
	"slices"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/bench/stats"
)

// Goal is a promise of ours and whether this run kept it.
type Goal struct {
	What     string  `json:"what"`
	Scenario string  `json:"scenario"`
	Load     Load    `json:"load"`
	Value    float64 `json:"value"`
	Limit    float64 `json:"limit"`
	Unit     string  `json:"unit"` // "ms" or "×"
	Met      bool    `json:"met"`
	Beside   string  `json:"beside,omitempty"` // what the machine itself does at best
}

// The goals.
const (
	stopLimit  = time.Millisecond // p99 of signal to first stop
	floorLimit = 1.3              // commit over bare loop, medians
	sizeLimit  = 1.15             // commit of a large VM over that of a small one, medians
)

// Goals judges the run. A ratio is one of medians of samples that were taken in
// turns; series that are not there are not judged.
func (r *Report) Goals() []Goal {
	return slices.Concat(r.judge(FirstStop, r.stopGoal), r.judge(Commit, r.floorGoal), r.judge(Commit, r.sizeGoal))
}

// judge applies a goal to every series of a measure, load by load.
func (r *Report) judge(m Measure, goal func(Series) (Goal, bool)) []Goal {
	var goals []Goal
	for _, load := range []Load{NoLoad, Hogs} {
		for _, s := range r.Series {
			if s.Measure != m || s.Load != load {
				continue
			}
			if g, ok := goal(s); ok {
				goals = append(goals, g)
			}
		}
	}
	return goals
}

func (r *Report) stopGoal(s Series) (Goal, bool) {
	p99 := stats.Summarize(s.Samples).P99
	g := Goal{
		What: "signal to first stop, p99", Scenario: s.Scenario, Load: s.Load, Unit: "ms",
		Value: milliseconds(p99), Limit: milliseconds(stopLimit), Met: p99 <= stopLimit,
	}
	if bare := r.Find(s.Scenario, s.Load, WakeFloor); len(bare) > 0 {
		g.Beside = fmt.Sprintf("bare wake-up, p99: %.3f ms", milliseconds(stats.Summarize(bare).P99))
	}
	return g, true
}

func (r *Report) floorGoal(s Series) (Goal, bool) {
	floor, ok := r.median(s.Scenario, s.Load, Floor)
	return ratio("commit over bare loop", s, floor, floorLimit), ok
}

// sizeGoal compares a single VM with the one that has the least memory.
func (r *Report) sizeGoal(s Series) (Goal, bool) {
	small := s
	for _, other := range r.Series {
		if other.Measure == Commit && other.VMs == 1 && other.Load == s.Load && other.Memory < small.Memory {
			small = other
		}
	}
	what := fmt.Sprintf("commit of %s over %s", s.Scenario, small.Scenario)
	return ratio(what, s, stats.Summarize(small.Samples).Median, sizeLimit), s.VMs == 1 && small.Memory < s.Memory
}

func ratio(what string, s Series, of time.Duration, limit float64) Goal {
	g := Goal{What: what, Scenario: s.Scenario, Load: s.Load, Unit: "×", Limit: limit}
	g.Value = float64(stats.Summarize(s.Samples).Median) / float64(of)
	g.Met = g.Value <= limit
	return g
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
