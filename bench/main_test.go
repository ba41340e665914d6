package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/bench/report"
	"github.com/nv-hypervisor/nv-hypervisor/bench/soak"
)

// bin is where TestMain builds the programs that are measured.
var bin string

func TestMain(m *testing.M) {
	var err error
	if bin, err = os.MkdirTemp("", "nvh-bin-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	build := exec.Command("go", "build", "-o", bin+"/", "../cmd/nvh", "../cmd/nvhd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build nvh and nvhd: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(bin)
	os.Exit(code)
}

// file is what the tests read of the JSON file.
type file struct {
	Machine report.Machine `json:"machine"`
	Goals   []report.Goal  `json:"goals"`
	Series  []series       `json:"series"`
}

type series struct {
	Scenario string         `json:"scenario"`
	VMs      int            `json:"vms"`
	Load     report.Load    `json:"load"`
	Measure  report.Measure `json:"measure"`
	N        int            `json:"n"`
	Min      float64        `json:"min_us"`
	Max      float64        `json:"max_us"`
	Samples  []float64      `json:"samples_us"`
}

// find fails the test unless the series is there with n samples.
func (f file) find(t *testing.T, scenario string, load report.Load, m report.Measure, n int) series {
	t.Helper()
	for _, s := range f.Series {
		if s.Scenario == scenario && s.Load == load && s.Measure == m {
			if s.N != n || len(s.Samples) != n || s.Min <= 0 || s.Max < s.Min {
				t.Errorf("%s %s %s: want %d samples: %+v", scenario, load, m, n, s)
			}
			return s
		}
	}
	t.Errorf("%s %s %s is missing", scenario, load, m)
	return series{Samples: make([]float64, n)}
}

// The whole benchmark, as small as possible: every case is measured, on the real
// product, and what it says is possible.
func TestQuick(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	path := filepath.Join(t.TempDir(), "bench.json")
	const samples = 2
	if err := run(ctx, []string{"-quick", "-samples", fmt.Sprint(samples), "-bin", bin, "-json", path}); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var f file
	if err := json.Unmarshal(content, &f); err != nil {
		t.Fatal(err)
	}
	if f.Machine.CPU == "" || f.Machine.QEMU == "" || f.Machine.Accel == "" || f.Machine.Version == "" {
		t.Errorf("the machine is not described: %+v", f.Machine)
	}
	for _, scenario := range []string{"192M", "256M", "2x192M"} {
		for _, load := range []report.Load{report.NoLoad, report.Hogs} {
			f.checkSave(t, scenario, load, samples)
			first := f.find(t, scenario, load, report.FirstRunning, 1)
			last := f.find(t, scenario, load, report.Running, 1)
			if first.Samples[0] > last.Samples[0] {
				t.Errorf("%s %s: the first guest runs after the last: %v, %v", scenario, load, first, last)
			}
		}
	}
	if len(f.Goals) != 6+6+2 { // first stop and floor of every case, size of the larger
		t.Errorf("%d goals: %+v", len(f.Goals), f.Goals)
	}
}

func (f file) checkSave(t *testing.T, scenario string, load report.Load, n int) {
	t.Helper()
	stop := f.find(t, scenario, load, report.FirstStop, n)
	first := f.find(t, scenario, load, report.FirstCommit, n)
	last := f.find(t, scenario, load, report.Commit, n)
	for i := range n {
		if stop.Samples[i] >= first.Samples[i] || first.Samples[i] > last.Samples[i] {
			t.Errorf("%s %s: stop after %v, first commit after %v, last after %v µs", scenario, load, stop.Samples[i], first.Samples[i], last.Samples[i])
		}
	}
	f.find(t, scenario, load, report.WakeFloor, n)
	f.find(t, scenario, load, report.FloorOrdinary, n)
	if floor := f.find(t, scenario, load, report.Floor, n); floor.Min > last.Max {
		t.Errorf("%s %s: the bare loop is slower than the product: %v, %v", scenario, load, floor, last)
	}
}

// A few power cuts end as they may.
func TestSoak(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	const cycles = 4
	r, err := soak.Run(ctx, soak.Options{Bin: bin, Duration: time.Hour, Cycles: cycles, Seed: 11, Progress: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Err(); err != nil {
		t.Errorf("%v: %q", err, r.Violations)
	}
	content, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var f struct {
		Cycles int `json:"power_cuts"`
		Counts []struct{ Resumed, Other int }
	}
	if err := json.Unmarshal(content, &f); err != nil {
		t.Fatal(err)
	}
	if f.Cycles != cycles || len(f.Counts) == 0 {
		t.Errorf("%s", content)
	}
}

func TestBadArguments(t *testing.T) {
	for says, args := range map[string][]string{
		"unexpected argument \"now\"": {"-bin", bin, "now"},
		"more than zero":              {"-bin", bin, "-samples", "-1"},
		"run make build":              {"-bin", "/nowhere"},
		"-only: error parsing regexp": {"-bin", bin, "-only", "("},
		"no case matches":             {"-bin", bin, "-only", "triple"},
		"-speed":                      {"-speed"},
	} {
		if err := run(context.Background(), args); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v: %v, want %q", args, err, says)
		}
	}
}
