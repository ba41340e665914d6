package soak

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/bench/report"
	"github.com/nv-hypervisor/nv-hypervisor/internal/durable"
)

// place is an instant of the power cut: a range of times within a phase.
type place struct {
	phase    string
	from, to time.Duration // to 0: no end
}

func (p place) String() string {
	if p.to == 0 {
		return fmt.Sprintf("%s ms and later %s", milliseconds(p.from), p.phase)
	}
	return fmt.Sprintf("%s to %s ms %s", milliseconds(p.from), milliseconds(p.to), p.phase)
}

// The ends of the ranges that instants are counted in.
var (
	savePlaces     = inMilliseconds(1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 50)
	recoveryPlaces = inMilliseconds(100, 200, 300, 400, 600)
)

func inMilliseconds(ends ...int) []time.Duration {
	var list []time.Duration
	for _, end := range ends {
		list = append(list, time.Duration(end)*time.Millisecond)
	}
	return list
}

func bucketOf(phase string, at time.Duration, ends []time.Duration) place {
	from := time.Duration(0)
	for _, to := range ends {
		if at < to {
			return place{phase, from, to}
		}
		from = to
	}
	return place{phase, from, 0}
}

// Result is what a campaign has counted.
type Result struct {
	Began      time.Time
	Took       time.Duration
	Command    []string
	Seed       uint64
	Machine    report.Machine
	VMs        int // guests
	Cycles     int
	Violations []string // what must not have happened, in words

	counts map[place]*tally
}

// tally counts by Outcome.
type tally [outcomes]int

func (t tally) String() string {
	return fmt.Sprintf("%d resumed, %d cold-booted with a reason, %d anything else", t[Resumed], t[ColdBooted], t[Other])
}

func (r *Result) count(where place, o Outcome) {
	if r.counts == nil {
		r.counts = map[place]*tally{}
	}
	if r.counts[where] == nil {
		r.counts[where] = &tally{}
	}
	r.counts[where][o]++
}

func (r *Result) violation(format string, args ...any) {
	r.Violations = append(r.Violations, fmt.Sprintf(format, args...))
}

func (r *Result) total() (sum tally) {
	for _, t := range r.counts {
		for o, n := range t {
			sum[o] += n
		}
	}
	return sum
}

// Err is nil if every guest was continued or booted with a reason.
func (r *Result) Err() error {
	if len(r.Violations) == 0 {
		return nil
	}
	return fmt.Errorf("soak: %d outcomes that must not be (seed %d)", len(r.Violations), r.Seed)
}

func (r *Result) places() []place {
	var list []place
	for p := range r.counts {
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b place) int {
		if a.phase != b.phase {
			if a.phase < b.phase {
				return -1
			}
			return 1
		}
		return int(a.from - b.from)
	})
	return list
}

// WriteTable prints the count by instant.
func (r *Result) WriteTable(w io.Writer) error {
	fmt.Fprintf(w, "machine: %s\n", r.Machine)
	fmt.Fprintf(w, "%d power cuts of %d guests in %v (seed %d)\n", r.Cycles, r.VMs, r.Took.Round(time.Second), r.Seed)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "resumed intact\tcold-booted, with reason\tanything else\t  power cut\n")
	for _, p := range r.places() {
		n := r.counts[p]
		fmt.Fprintf(t, "%d\t%d\t%d\t  %s\n", n[Resumed], n[ColdBooted], n[Other], p)
	}
	sum := r.total()
	fmt.Fprintf(t, "%d\t%d\t%d\t  total\n", sum[Resumed], sum[ColdBooted], sum[Other])
	if err := t.Flush(); err != nil {
		return err
	}
	for _, v := range r.Violations {
		fmt.Fprintln(w, "MUST NOT BE:", v)
	}
	return nil
}

// countJSON is a line of the table.
type countJSON struct {
	Phase      string  `json:"phase"`
	FromMS     float64 `json:"from_ms"`
	ToMS       float64 `json:"to_ms,omitempty"` // 0: no end
	Resumed    int     `json:"resumed"`
	ColdBooted int     `json:"cold_booted"`
	Other      int     `json:"other"`
}

// MarshalJSON gives the file its form.
func (r *Result) MarshalJSON() ([]byte, error) {
	inMS := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	counts := []countJSON{}
	for _, p := range r.places() {
		n := r.counts[p]
		counts = append(counts, countJSON{p.phase, inMS(p.from), inMS(p.to), n[Resumed], n[ColdBooted], n[Other]})
	}
	return json.Marshal(struct {
		Format     int            `json:"format"` // 1
		Began      time.Time      `json:"began"`
		Seconds    float64        `json:"took_s"`
		Command    []string       `json:"command"`
		Seed       uint64         `json:"seed"`
		Machine    report.Machine `json:"machine"`
		VMs        int            `json:"vms"`
		Cycles     int            `json:"power_cuts"`
		Counts     []countJSON    `json:"counts"`
		Violations []string       `json:"violations"`
	}{1, r.Began, r.Took.Seconds(), r.Command, r.Seed, r.Machine, r.VMs, r.Cycles, counts, append([]string{}, r.Violations...)})
}

// WriteFile stores the result as indented JSON; the file is there whole or not at all.
func (r *Result) WriteFile(path string) error {
	content, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(path, append(content, '\n'), os.FileMode(0o644))
}
