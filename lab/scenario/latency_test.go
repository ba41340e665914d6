//go:build lab

package scenario

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/lab"
	"github.com/nv-hypervisor/nv-hypervisor/lab/guest"
	"github.com/nv-hypervisor/nv-hypervisor/lab/labtest"
	"github.com/nv-hypervisor/nv-hypervisor/lab/plan"
	"github.com/nv-hypervisor/nv-hypervisor/lab/rig"
	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/outage"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

var (
	latencyOutages = flag.Int("outages", 20, "how many outages TestLatency takes the median of")
	latencyJSON    = flag.String("latency-json", "", "file that TestLatency writes its samples to")
)

// latency is one outage, as durations between neighbouring instants. Announced is that the interrupt was asked for, or the signal sent.
type latency struct {
	Detector time.Duration `json:"announced_to_detector_ns"` // the module's handler took the time; 0 for a signal
	Daemon   time.Duration `json:"to_daemon_ns"`             // the saver's thread acts on it
	Stop     time.Duration `json:"to_first_stop_ns"`         // the first stop was sent to a QEMU
	Commit   time.Duration `json:"to_last_commit_ns"`        // of two VMs
}

func latencyOf(o outage.Timeline, announced, event time.Duration) latency {
	l := latency{Detector: event - announced}
	first, last := time.Duration(0), time.Duration(0)
	for _, v := range o.VMs {
		for _, s := range v.Steps {
			switch s.Name {
			case "stop":
				if first == 0 || s.Start.Duration() < first {
					first = s.Start.Duration()
				}
			case "commit":
				last = max(last, s.End.Duration())
			}
		}
	}
	for _, s := range o.Steps {
		if s.Name == "wake" {
			l.Daemon = s.End.Duration()
		}
	}
	l.Stop, l.Commit = first-l.Daemon, last-first
	return l
}

// How long it takes from the detector's interrupt to the last commit: on an emulated host, with two guests under KVM, and on this
// machine, where a signal announces the outage and the guests run under what there is. Beside the paper's figures.
func TestLatency(t *testing.T) {
	emulated, uncertain := latencyEmulated(t)
	here, accel := latencyHere(t)
	result := struct {
		Emulated  []latency     `json:"emulated_host"`
		Uncertain time.Duration `json:"emulated_host_announced_uncertain_ns"` // of announced_to_detector_ns
		Here      []latency     `json:"this_machine"`
		Accel     string        `json:"this_machine_accelerator"`
	}{emulated, uncertain, here, accel}
	t.Log("\n" + latencyTable(emulated, uncertain, here, accel))
	if *latencyJSON == "" {
		return
	}
	content, err := json.MarshalIndent(result, "", "  ")
	if err == nil {
		err = os.WriteFile(*latencyJSON, append(content, '\n'), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func latencyEmulated(t *testing.T) (samples []latency, uncertain time.Duration) {
	h := labtest.Start(t, lab.Options{NVDIMMs: nvdimm(plan.FSDAX)})
	h.Launch("db", "--priority", "10")
	h.Launch("web")
	h.AwaitRunning("db", "web")
	for range *latencyOutages {
		before := len(h.Outages())
		at, inside, off := hostClock(t, h)
		asked := h.NMI()
		o := h.AwaitOutage(before)
		samples = append(samples, latencyOf(o, inside+asked.Sub(at), time.Duration(o.EventNS)))
		uncertain = max(uncertain, off)
		h.Run("nvh", "outage", "clear")
		h.AwaitRunning("db", "web")
	}
	h.Cut() // this machine is measured next, with nothing beside
	return samples, uncertain
}

// hostClock reads the host's clock from outside: at this instant it had this value, give or take off.
func hostClock(t *testing.T, h *labtest.Host) (at time.Time, inside, off time.Duration) {
	t.Helper()
	off = time.Hour
	for range 10 {
		var r plan.Report
		start := time.Now()
		if err := h.Report(h.Context(), &r); err != nil {
			t.Fatal(err)
		}
		if half := time.Since(start) / 2; half < off {
			at, inside, off = start.Add(half), time.Duration(r.ClockNS), half
		}
	}
	return at, inside, off
}

func latencyHere(t *testing.T) (samples []latency, accel string) {
	r := machine(t)
	ctx := t.Context()
	for range *latencyOutages {
		before := noted(t, r)
		announced := monotonic(t)
		if err := r.Signal(); err != nil {
			t.Fatal(err)
		}
		var list []outage.Timeline
		for list = noted(t, r); len(list) == len(before); list = noted(t, r) {
			time.Sleep(10 * time.Millisecond)
		}
		// A signal has no time of its own: the event begins where the thread wakes, and what lies before is the way there.
		l := latencyOf(list[0], announced, time.Duration(list[0].EventNS))
		samples = append(samples, latency{Daemon: l.Detector + l.Daemon, Stop: l.Stop, Commit: l.Commit})
		ticks := len(r.Ticks("web"))
		if _, err := r.Nvh(ctx, "outage", "clear"); err != nil {
			t.Fatal(err)
		}
		if _, err := r.AwaitTick(ctx, "web", ticks, func(guest.Tick) bool { return true }); err != nil {
			t.Fatal(err)
		}
	}
	info, err := r.AwaitState(ctx, "db", vm.Running)
	if err != nil {
		t.Fatal(err)
	}
	return samples, info.Accel
}

// machine is this machine with two guests that run.
func machine(t *testing.T) *rig.Rig {
	r, err := rig.New(t.Context(), rig.Options{Bin: labtest.Programs(t), Config: "realtime = true\n"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := r.Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"db", "web"} {
		if err := r.Launch(t.Context(), r.Guest(name, 192*nvram.MiB, "nvh.mem=24")); err != nil {
			t.Fatal(err)
		}
		if _, err := r.AwaitTick(t.Context(), name, 0, func(tick guest.Tick) bool { return tick.Count >= 3 }); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// noted are the outages that the daemon has noted, the latest first.
func noted(t *testing.T, r *rig.Rig) []outage.Timeline {
	t.Helper()
	list, err := r.Client().Outages(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(list, func(o outage.Timeline) bool { return o.Kind != "outage" })
}

func monotonic(t *testing.T) time.Duration {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

// latencyTable has medians, with the smallest and the largest. The paper's figures are those of NV-Hypervisor, DSN 2014, slide "Timings".
func latencyTable(emulated []latency, uncertain time.Duration, here []latency, accel string) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 4, 2, ' ', 0)
	fmt.Fprintf(w, "median (smallest–largest) in ms\temulated host, %d outages\tthis machine, %d outages\tpaper, 2014\n", len(emulated), len(here))
	fmt.Fprintf(w, "announced by\tNMI\tSIGPWR\tNMI\n")
	fmt.Fprintf(w, "guests run under\tKVM, which is emulated\t%s\tbinary translation\n", accel)
	for _, row := range []struct {
		name, paper string
		of          func(latency) time.Duration
	}{
		{"announced → detector's handler", "", func(l latency) time.Duration { return l.Detector }},
		{"→ daemon woken", "", func(l latency) time.Duration { return l.Daemon }},
		{"→ first stop sent", "", func(l latency) time.Duration { return l.Stop }},
		{"announced → first stop sent", "11", func(l latency) time.Duration { return l.Detector + l.Daemon + l.Stop }},
		{"first stop sent → last commit", "8", func(l latency) time.Duration { return l.Commit }},
		{"announced → last commit", "30–50 expected", func(l latency) time.Duration { return l.Detector + l.Daemon + l.Stop + l.Commit }},
	} {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", row.name, spread(emulated, row.of), spread(here, row.of), row.paper)
	}
	w.Flush()
	fmt.Fprintf(&b, "The emulated host is 10 to 20 times slower than silicon. When it was announced there is known to ±%.2f ms.\n", uncertain.Seconds()*1e3)
	return b.String()
}

func spread(samples []latency, of func(latency) time.Duration) string {
	var list []time.Duration
	for _, s := range samples {
		list = append(list, of(s))
	}
	slices.Sort(list)
	ms := func(d time.Duration) string { return fmt.Sprintf("%.2f", d.Seconds()*1e3) }
	median := (list[(len(list)-1)/2] + list[len(list)/2]) / 2
	if list[len(list)-1] == 0 {
		return "–"
	}
	return fmt.Sprintf("%s (%s–%s)", ms(median), ms(list[0]), ms(list[len(list)-1]))
}
