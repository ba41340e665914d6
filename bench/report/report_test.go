package report

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const ms = time.Millisecond

// sample is a report with every kind of goal, met and missed.
func sample() *Report {
	series := func(scenario string, vms int, memory uint64, load Load, m Measure, samples ...time.Duration) Series {
		return Series{scenario, vms, memory, load, m, samples}
	}
	return &Report{
		Began: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Took: 90 * time.Second, Command: []string{"bench", "-quick"}, Seed: 7,
		Machine: Machine{CPU: "Abacus", Cores: 2, MemoryBytes: 4 << 30, Kernel: "Linux 6.1", QEMU: "7.2.22", Accel: "tcg", Realtime: true, Version: "v1", Go: "go1.26", LoadBefore: "0.10", LoadAfter: "1.90"},
		Series: []Series{
			series("256M", 1, 256<<20, NoLoad, FirstStop, ms/4, ms/2, ms),
			series("256M", 1, 256<<20, NoLoad, WakeFloor, ms/10),
			series("256M", 1, 256<<20, NoLoad, Commit, 7*ms, 8*ms, 9*ms),
			series("256M", 1, 256<<20, NoLoad, Floor, 8*ms),
			series("256M", 1, 256<<20, NoLoad, Step("commit"), ms/100),
			series("256M", 1, 256<<20, Hogs, Commit, 20*ms),
			series("4G", 1, 4<<30, NoLoad, Commit, 10*ms),
			series("4G", 1, 4<<30, NoLoad, Floor, 5*ms),
			series("4G", 1, 4<<30, NoLoad, FirstCommit, 10*ms),
			series("8x192M", 8, 192<<20, Hogs, FirstStop, 2*ms),
			series("8x192M", 8, 192<<20, Hogs, FirstCommit, 11*ms),
		},
	}
}

func TestGoals(t *testing.T) {
	want := []Goal{
		{"signal to first stop, p99", "256M", NoLoad, 1, 1, "ms", true, "bare wake-up, p99: 0.100 ms"},
		{"signal to first stop, p99", "8x192M", Hogs, 2, 1, "ms", false, ""},
		{"commit over bare loop", "256M", NoLoad, 1, 1.3, "×", true, ""},
		{"commit over bare loop", "4G", NoLoad, 2, 1.3, "×", false, ""},
		{"commit of 4G over 256M", "4G", NoLoad, 1.25, 1.15, "×", false, ""},
	}
	got := sample().Goals()
	if len(got) != len(want) {
		t.Fatalf("%d goals, want %d: %+v", len(got), len(want), got)
	}
	for i, g := range got {
		if g != want[i] {
			t.Errorf("goal %d:\n%+v, want\n%+v", i, g, want[i])
		}
	}
}

func TestTables(t *testing.T) {
	var out strings.Builder
	if err := sample().WriteTables(&out); err != nil {
		t.Fatal(err)
	}
	// Spaces, which align, are no part of the statement.
	text := strings.Join(strings.Fields(out.String()), " ")
	for _, want := range []string{
		"Abacus, 2 cores, 4096 MiB, Linux 6.1; QEMU 7.2.22, tcg, real-time priority granted; product v1, go1.26; load average 0.10 before, 1.90 after",
		"command: bench -quick (seed 7, 2026-01-02T03:04:05Z, took 1m30s)",
		"256M 3 0.250 0.500 1.000* 1.000 signal → first stop sent",
		"256M 3 7.000 8.000 9.000* 9.000 signal → commit",
		"8x192M 1 11.000 11.000 11.000* 11.000 signal → first commit",
		"steps, medians wake stop dump check copy commit 256M 0.000 0.000 0.000 0.000 0.000 0.010",
		"1.000 ms ≤ 1 ms met signal to first stop, p99 (bare wake-up, p99: 0.100 ms)",
		"2.000 × ≤ 1.3 × MISSED commit over bare loop",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the tables lack %q:\n%s", want, out.String())
		}
	}
	if strings.Contains(text, "10.000 signal → first commit") {
		t.Errorf("a single VM has a first and a last commit:\n%s", out.String())
	}
}

func TestEnoughSamplesHaveNoStar(t *testing.T) {
	r := sample()
	r.Series = r.Series[:1]
	for i := range 100 {
		r.Series[0].Samples = append(r.Series[0].Samples, time.Duration(i)*ms)
	}
	var out strings.Builder
	if err := r.WriteTables(&out); err != nil {
		t.Fatal(err)
	}
	if _, table, _ := strings.Cut(out.String(), "Nothing beside"); strings.Contains(table, "*") {
		t.Errorf("103 samples and a star:\n%s", table)
	}
}

// The file says what the tables say, and every sample.
func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bench.json")
	if err := sample().WriteFile(path); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Format  int      `json:"format"`
		Began   string   `json:"began"`
		Took    float64  `json:"took_us"`
		Command []string `json:"command"`
		Seed    uint64   `json:"seed"`
		Machine Machine  `json:"machine"`
		Goals   []Goal   `json:"goals"`
		Series  []struct {
			Scenario string    `json:"scenario"`
			VMs      int       `json:"vms"`
			Memory   uint64    `json:"memory_bytes"`
			Load     Load      `json:"load"`
			Measure  Measure   `json:"measure"`
			N        int       `json:"n"`
			Min      float64   `json:"min_us"`
			Median   float64   `json:"median_us"`
			P99      float64   `json:"p99_us"`
			P99IsMax bool      `json:"p99_is_max"`
			Max      float64   `json:"max_us"`
			Samples  []float64 `json:"samples_us"`
		} `json:"series"`
	}
	if err := json.Unmarshal(content, &file); err != nil {
		t.Fatal(err)
	}
	want := sample()
	if file.Format != 1 || file.Seed != 7 || file.Took != 90e6 || file.Machine != want.Machine || len(file.Goals) != len(want.Goals()) || len(file.Series) != len(want.Series) {
		t.Errorf("the file differs: %s", content)
	}
	s := file.Series[2]
	if s.Measure != Commit || s.VMs != 1 || s.Memory != 256<<20 || s.N != 3 || s.Min != 7000 || s.Median != 8000 || s.P99 != 9000 || !s.P99IsMax || s.Max != 9000 || len(s.Samples) != 3 || s.Samples[2] != 9000 {
		t.Errorf("a series in the file: %+v", s)
	}
}

func TestDescribe(t *testing.T) {
	m, err := Describe()
	if err != nil {
		t.Fatal(err)
	}
	if m.CPU == "unknown" || m.Cores < 1 || m.MemoryBytes < 1<<28 || !strings.HasPrefix(m.Kernel, "Linux ") || m.LoadBefore == "unknown" {
		t.Errorf("%+v", m)
	}
	if got := modelName("processor\t: 0\nmodel name\t: Abacus 9000\nflags: a b"); got != "Abacus 9000" {
		t.Errorf("model name %q", got)
	}
	if got := modelName("nothing"); got != "unknown" {
		t.Errorf("model name %q of nothing", got)
	}
}
