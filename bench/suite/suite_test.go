package suite

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/bench/report"
	"github.com/nv-hypervisor/nv-hypervisor/outage"
)

const µs = time.Microsecond

// saved is the timeline of two VMs, whose event is at 1,000,000 ns.
func saved() outage.Timeline {
	return outage.Timeline{
		ID: "x", EventNS: 1_000_000, Steps: []outage.Step{{Name: "wake", Start: 0, End: 5}},
		VMs: []outage.VMTimeline{
			{Name: "a", Outcome: "committed", Steps: []outage.Step{{Name: "stop", Start: 20, End: 900}, {Name: "dump", Start: 900, End: 4000}, {Name: "commit", Start: 4100, End: 4110}}},
			{Name: "b", Outcome: "committed", Steps: []outage.Step{{Name: "stop", Start: 30, End: 950}, {Name: "dump", Start: 950, End: 7000}, {Name: "commit", Start: 7100, End: 7120}}},
		},
	}
}

// Durations count from the signal, which here was sent 300 µs before the daemon took it up.
func TestSavedSample(t *testing.T) {
	s, err := savedSample(saved(), 700_000, 2)
	if err != nil {
		t.Fatal(err)
	}
	want := sample{report.FirstStop: 320 * µs, report.FirstCommit: 4410 * µs, report.Commit: 7420 * µs, report.Step("wake"): 305 * µs}
	compare(t, s, want)
}

func TestSavedSampleOfOneHasSteps(t *testing.T) {
	one := saved()
	one.VMs = one.VMs[:1]
	s, err := savedSample(one, 1_000_000, 1)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, s, sample{
		report.FirstStop: 20 * µs, report.FirstCommit: 4110 * µs, report.Commit: 4110 * µs, report.Step("wake"): 5 * µs,
		report.Step("stop"): 880 * µs, report.Step("dump"): 3100 * µs, report.Step("commit"): 10 * µs,
	})
}

func compare(t *testing.T, got, want sample) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%v, want %v", got, want)
	}
	for m, d := range want {
		if got[m] != d {
			t.Errorf("%s is %v, want %v", m, got[m], d)
		}
	}
}

// A save that was not complete is not measured, and neither is one of another event.
func TestIncompleteSaveIsAnError(t *testing.T) {
	for name, spoil := range map[string]func(*outage.Timeline){
		"a VM is missing":     func(t *outage.Timeline) { t.VMs = t.VMs[:1] },
		"a VM failed":         func(t *outage.Timeline) { t.VMs[1].Outcome, t.VMs[1].Reason = "failed", "no space" },
		"a step is missing":   func(t *outage.Timeline) { t.VMs[1].Steps = t.VMs[1].Steps[:2] },
		"before the signal":   func(t *outage.Timeline) { t.EventNS = 1 },
		"a VM did not resume": func(t *outage.Timeline) { t.VMs[0].Outcome = "held" },
	} {
		broken := saved()
		spoil(&broken)
		if s, err := savedSample(broken, 700_000, 2); err == nil {
			t.Errorf("%s, but: %v", name, s)
		}
	}
}

func recovered() outage.Timeline {
	return outage.Timeline{
		ID: "y", EventNS: 5_000_000, Steps: []outage.Step{{Name: "open", Start: 0, End: 30_000}},
		VMs: []outage.VMTimeline{
			{Name: "a", Outcome: "resumed", Steps: []outage.Step{{Name: "spawn", Start: 30_000, End: 130_000}, {Name: "cont", Start: 150_000, End: 160_000}}},
			{Name: "b", Outcome: "resumed", Steps: []outage.Step{{Name: "spawn", Start: 30_000, End: 180_000}, {Name: "cont", Start: 200_000, End: 210_000}}},
		},
	}
}

func TestRestartSample(t *testing.T) {
	const ms = time.Millisecond
	s, err := restartSample(recovered(), 1_000_000, 2) // the daemon's own clock began 4 ms later
	if err != nil {
		t.Fatal(err)
	}
	compare(t, s, sample{report.FirstRunning: 164 * ms, report.Running: 214 * ms, report.Step("open"): 34 * ms})

	cold := recovered()
	cold.VMs[1].Outcome, cold.VMs[1].Reason = "cold-booted", "no image"
	if _, err := restartSample(cold, 0, 2); err == nil || !strings.Contains(err.Error(), "no image") {
		t.Errorf("a guest that was booted anew: %v", err)
	}
}

func TestCases(t *testing.T) {
	g := fullGroups[0]
	for only, want := range map[string][]string{
		"":                  {"single/save/none", "single/save/hogs", "single/restart/none", "single/restart/hogs"},
		"/save/":            {"single/save/none", "single/save/hogs"},
		"^single/.*/none$":  {"single/save/none", "single/restart/none"},
		"fleet":             nil,
		"single/restart/no": {"single/restart/none"},
	} {
		var names []string
		for _, c := range cases(g, regexp.MustCompile(only)) {
			names = append(names, c.name(g))
		}
		if !slices.Equal(names, want) {
			t.Errorf("%q selects %v, want %v", only, names, want)
		}
	}
}

// cpuTicks is the time that a process has computed for itself.
func cpuTicks(pid int) (uint64, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	return strconv.ParseUint(fields[14-3], 10, 64) // utime is field 14, the one after the name field 3
}

// The hogs do burn CPUs, and are gone afterwards.
func TestHogs(t *testing.T) {
	h, err := startHogs()
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range h.pids {
		used, err := cpuTicks(pid)
		for deadline := time.Now().Add(10 * time.Second); err == nil && used == 0 && time.Now().Before(deadline); {
			time.Sleep(10 * time.Millisecond)
			used, err = cpuTicks(pid)
		}
		if err != nil || used == 0 {
			t.Errorf("hog %d has used %d ticks of a CPU: %v", pid, used, err)
		}
	}
	h.stop()
	for _, pid := range h.pids {
		if _, err := cpuTicks(pid); err == nil {
			t.Errorf("hog %d is still there", pid)
		}
	}
	if len(h.pids) != hogCount {
		t.Errorf("%d hogs", len(h.pids))
	}
}
