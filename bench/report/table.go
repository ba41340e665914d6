package report

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/bench/stats"
)

// titles are the measures in words, in the order of the tables. Of a single VM the
// first is the last, so rows about the first are left out.
var titles = []struct {
	measure   Measure
	one, many string
}{
	{FirstStop, "signal → first stop sent", "signal → first stop sent"},
	{WakeFloor, "bare wake-up of a thread", "bare wake-up of a thread"},
	{FirstCommit, "", "signal → first commit"},
	{Commit, "signal → commit", "signal → last commit"},
	{FirstFloor, "", "bare loop, first"},
	{Floor, "bare loop", "bare loop, last"},
	{FloorOrdinary, "bare loop, ordinary priority", "bare loop, ordinary priority, last"},
	{FirstRunning, "", "daemon start → first guest running"},
	{Running, "daemon start → guest running", "daemon start → last guest running"},
}

// WriteTables prints the report for people.
func (r *Report) WriteTables(w io.Writer) error {
	fmt.Fprintf(w, "machine: %s\n", r.Machine)
	fmt.Fprintf(w, "command: %s (seed %d, %s, took %v)\n", strings.Join(r.Command, " "), r.Seed,
		r.Began.Format(time.RFC3339), r.Took.Round(time.Second))
	fmt.Fprint(w, "Milliseconds. With fewer than 100 samples p99 is the largest of them, marked *.\n")
	for _, load := range []Load{NoLoad, Hogs} {
		for _, write := range []func(io.Writer, Load) error{r.writeSeries, r.writeSteps} {
			if err := write(w, load); err != nil {
				return err
			}
		}
	}
	return r.writeGoals(w)
}

var loadTitles = map[Load]string{NoLoad: "Nothing beside", Hogs: "CPU hogs beside"}

func (r *Report) writeSeries(w io.Writer, load Load) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	rows := 0
	for _, scenario := range r.scenarios() {
		for _, title := range titles {
			samples := r.Find(scenario.Scenario, load, title.measure)
			text := title.one
			if scenario.VMs > 1 {
				text = title.many
			}
			if len(samples) == 0 || text == "" {
				continue
			}
			if rows++; rows == 1 {
				fmt.Fprintf(w, "\n%s\n", loadTitles[load])
				fmt.Fprint(t, "VMs\tn\tmin\tmedian\tp99\tmax\t  what\n")
			}
			s := stats.Summarize(samples)
			star := " "
			if s.P99IsMax {
				star = "*"
			}
			fmt.Fprintf(t, "%s\t%d\t%.3f\t%.3f\t%.3f%s\t%.3f\t  %s\n", scenario.Scenario, s.N,
				milliseconds(s.Min), milliseconds(s.Median), milliseconds(s.P99), star, milliseconds(s.Max), text)
		}
	}
	return t.Flush()
}

// stepNames are the steps of a save and of a recovery, in their order.
var stepNames = [][]string{{"wake", "stop", "dump", "check", "copy", "commit"}, {"open", "validate", "spawn", "load", "mark", "cont"}}

// writeSteps tells where the time went: the medians of the steps, which need not
// add up to the median of the whole.
func (r *Report) writeSteps(w io.Writer, load Load) error {
	for _, names := range stepNames {
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		rows := 0
		for _, scenario := range r.scenarios() {
			if len(r.Find(scenario.Scenario, load, Step(names[len(names)-1]))) == 0 {
				continue
			}
			if rows++; rows == 1 {
				fmt.Fprintf(t, "steps, medians\t%s\t\n", strings.Join(names, "\t"))
			}
			fmt.Fprintf(t, "%s\t", scenario.Scenario)
			for _, name := range names {
				median, _ := r.median(scenario.Scenario, load, Step(name))
				fmt.Fprintf(t, "%.3f\t", milliseconds(median))
			}
			fmt.Fprintln(t)
		}
		if rows > 0 {
			fmt.Fprintln(w)
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	return nil
}

// scenarios lists one series of each scenario, in the order of the run.
func (r *Report) scenarios() []Series {
	var list []Series
	seen := map[string]bool{}
	for _, s := range r.Series {
		if !seen[s.Scenario] {
			seen[s.Scenario] = true
			list = append(list, s)
		}
	}
	return list
}

func (r *Report) writeGoals(w io.Writer) error {
	goals := r.Goals()
	if len(goals) == 0 {
		return nil
	}
	fmt.Fprint(w, "\nGoals (ratios are of medians taken in turns)\n")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, g := range goals {
		verdict := "met"
		if !g.Met {
			verdict = "MISSED"
		}
		what := g.What
		if g.Beside != "" {
			what += " (" + g.Beside + ")"
		}
		fmt.Fprintf(t, "%s\t%s\t%.3f %s\t≤ %g %s\t%s\t  %s\n", g.Scenario, loadTitles[g.Load], g.Value, g.Unit, g.Limit, g.Unit, verdict, what)
	}
	return t.Flush()
}
