// Package report is what a benchmark run leaves behind: samples, the machine they
// were taken on, and what follows from them, as JSON for programs and as tables for
// people. Both say the same.
package report

import (
	"encoding/json"
	"os"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/bench/stats"
	"github.com/nv-hypervisor/nv-hypervisor/internal/durable"
	"github.com/nv-hypervisor/nv-hypervisor/outage"
)

// Measure names what a series of samples measures. All are durations.
type Measure string

// The measures. Of several VMs, commit, floor and running are the last one's.
const (
	FirstStop     Measure = "first_stop"     // signal to the first stop command sent
	WakeFloor     Measure = "wake_floor"     // one thread waking another, with the product's priority
	FirstCommit   Measure = "first_commit"   // signal to the first VM's commit
	Commit        Measure = "commit"         // signal to the commit
	FirstFloor    Measure = "first_floor"    // bare loop, until the first VM's state is dumped
	Floor         Measure = "floor"          // bare loop, with the product's priorities if it has them
	FloorOrdinary Measure = "floor_ordinary" // bare loop, at ordinary priority
	FloorStop     Measure = "floor_stop"     // of Floor, until the first VM is stopped
	FirstRunning  Measure = "first_running"  // daemon start to the first guest running
	Running       Measure = "running"        // daemon start to the guest running
)

// Step is the measure of one step of the product's timeline, for one VM.
func Step(name string) Measure { return Measure("step_" + name) }

// Load is what else the machine did.
type Load string

const (
	NoLoad Load = "none"
	Hogs   Load = "hogs" // processes that do nothing but use a CPU each
)

// Series is one measure in one scenario, all samples in the order they were taken.
type Series struct {
	Scenario string          `json:"scenario"` // "1G", "8x192M"
	VMs      int             `json:"vms"`
	Memory   uint64          `json:"memory_bytes"` // of each VM
	Load     Load            `json:"load"`
	Measure  Measure         `json:"measure"`
	Samples  []time.Duration `json:"-"`
}

// Report is one run.
type Report struct {
	Began   time.Time
	Took    time.Duration
	Command []string
	Seed    uint64
	Machine Machine
	Series  []Series
}

// Find returns the samples of a series; none if there is no such series.
func (r *Report) Find(scenario string, load Load, m Measure) []time.Duration {
	for _, s := range r.Series {
		if s.Scenario == scenario && s.Load == load && s.Measure == m {
			return s.Samples
		}
	}
	return nil
}

// median of a series, and whether there is one.
func (r *Report) median(scenario string, load Load, m Measure) (time.Duration, bool) {
	samples := r.Find(scenario, load, m)
	return stats.Summarize(samples).Median, len(samples) > 0
}

// seriesJSON is a series with its summary; times are in microseconds.
type seriesJSON struct {
	Series
	N        int             `json:"n"`
	Min      outage.Micros   `json:"min_us"`
	Median   outage.Micros   `json:"median_us"`
	P99      outage.Micros   `json:"p99_us"`
	P99IsMax bool            `json:"p99_is_max"` // too few samples to tell them apart
	Max      outage.Micros   `json:"max_us"`
	Samples  []outage.Micros `json:"samples_us"`
}

// MarshalJSON gives the file its form.
func (r *Report) MarshalJSON() ([]byte, error) {
	file := struct {
		Format  int           `json:"format"` // 1
		Began   time.Time     `json:"began"`
		Took    outage.Micros `json:"took_us"`
		Command []string      `json:"command"`
		Seed    uint64        `json:"seed"`
		Machine Machine       `json:"machine"`
		Goals   []Goal        `json:"goals"`
		Series  []seriesJSON  `json:"series"`
	}{1, r.Began, outage.MicrosOf(r.Took), r.Command, r.Seed, r.Machine, r.Goals(), nil}
	for _, s := range r.Series {
		sum := stats.Summarize(s.Samples)
		j := seriesJSON{
			Series: s, N: sum.N, Min: outage.MicrosOf(sum.Min), Median: outage.MicrosOf(sum.Median),
			P99: outage.MicrosOf(sum.P99), P99IsMax: sum.P99IsMax, Max: outage.MicrosOf(sum.Max),
		}
		for _, d := range s.Samples {
			j.Samples = append(j.Samples, outage.MicrosOf(d))
		}
		file.Series = append(file.Series, j)
	}
	return json.Marshal(file)
}

// WriteFile stores the report as indented JSON; the file is there whole or not at all.
func (r *Report) WriteFile(path string) error {
	content, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(path, append(content, '\n'), os.FileMode(0o644))
}
