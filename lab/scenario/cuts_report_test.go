//go:build lab

package scenario

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/lab"
	"github.com/nv-hypervisor/nv-hypervisor/lab/labtest"
	"github.com/nv-hypervisor/nv-hypervisor/outage"
)

// cut is one power cut and what became of the guests: a line in the file of -append.
type cut struct {
	Domain lab.Persistence `json:"domain"`
	Seed   uint64          `json:"seed"`
	Outage int             `json:"outage"` // of the campaign with this seed
	At     time.Duration   `json:"at_ns"`  // from the interrupt, without the time in which the host stood still
	Whole  bool            `json:"whole"`  // examined by a whole boot as well
	Guests []guestFate     `json:"guests"`

	LockUps int `json:"lock_ups,omitempty"` // examinations that were begun anew because the emulated host locked up
}

// guestFate is what became of one guest.
type guestFate struct {
	Name   string `json:"name"`
	Phase  string `json:"phase"`            // the step its save was in when the power was cut
	Fate   string `json:"fate"`             // one of the three below
	Reason string `json:"reason,omitempty"` // why it was booted cold, or what else is the matter
}

const (
	resumed    = "resumed"
	coldBooted = "cold-booted"
	other      = "other"
)

// tolerance is how much later than QEMU was asked for it the interrupt may have come.
const tolerance = 25 * time.Millisecond

// drift is how much the clock of an emulated host, which it has calibrated itself, may differ from that of this machine in a time.
func drift(d time.Duration) time.Duration { return d / 100 }

// judge compares what became of a guest with how far its save had come, by the timeline of the host that went on. A guest that was
// committed must be resumed, and one whose commit had not begun must not. A guest that was not seen could not be examined.
func judge(name string, fate labtest.Fate, seen bool, timeline outage.Timeline, cut time.Duration) guestFate {
	g := guestFate{Name: name, Phase: phaseAt(timeline, name, cut), Fate: other}
	begin, end, committed := commitOf(timeline, name)
	switch {
	case !seen:
		g.Reason = "it could not be examined"
	case !committed:
		g.Reason = "the host that went on has not committed it"
	case fate.Resumed && cut+drift(cut) < begin:
		g.Reason = fmt.Sprintf("resumed from a save that was committed %v later", begin-cut)
	case !fate.Resumed && cut-drift(cut) > end+tolerance:
		g.Reason = fmt.Sprintf("lost %v after it was committed: %s", cut-end, fate.Reason)
	case fate.Resumed:
		g.Fate = resumed
	case fate.Reason == "":
		g.Reason = "booted cold without a reason"
	default:
		g.Fate, g.Reason = coldBooted, fate.Reason
	}
	return g
}

// judgeOrder: a guest that one cut found committed is committed in every later one of the same outage.
func judgeOrder(cuts []cut) {
	was := map[string]bool{}
	for _, c := range cuts {
		for i := range c.Guests {
			g := &c.Guests[i]
			if was[g.Name] && g.Fate == coldBooted {
				g.Fate, g.Reason = other, "an earlier cut of the same outage found it saved"
			}
			was[g.Name] = was[g.Name] || g.Fate == resumed
		}
	}
}

// commitOf is when a VM's commit began and when it was over, from the event on.
func commitOf(timeline outage.Timeline, name string) (begin, end time.Duration, committed bool) {
	for _, s := range stepsOf(timeline, name) {
		if s.Name == "commit" {
			return s.Start.Duration(), s.End.Duration(), true
		}
	}
	return 0, 0, false
}

func stepsOf(timeline outage.Timeline, name string) []outage.Step {
	for _, v := range timeline.VMs {
		if v.Name == name {
			return v.Steps
		}
	}
	return nil
}

// Phases before and after the steps of a save.
const (
	phaseBefore = "before stop"
	phaseBehind = "committed"
)

// phaseAt is the step in which a VM was, or for which it waited.
func phaseAt(timeline outage.Timeline, name string, at time.Duration) string {
	for i, s := range stepsOf(timeline, name) {
		if i == 0 && at < s.Start.Duration() {
			return phaseBefore
		}
		if at < s.End.Duration() {
			return s.Name
		}
	}
	return phaseBehind
}

func readJournal(t *testing.T, path string) (cuts []cut) {
	t.Helper()
	if path == "" {
		return nil
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for in := bufio.NewScanner(f); in.Scan(); {
		var c cut
		if err := json.Unmarshal(in.Bytes(), &c); err != nil {
			t.Fatalf("%s: line %d: %v", path, len(cuts)+1, err)
		}
		cuts = append(cuts, c)
	}
	return cuts
}

func appendJournal(t *testing.T, path string, cuts []cut) {
	t.Helper()
	if path == "" {
		return
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	out := json.NewEncoder(f)
	for _, c := range cuts {
		err = errors.Join(err, out.Encode(c))
	}
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// report prints what became of the guests by the instant of the cut and by how far their saves had come.
func report(t *testing.T, cuts []cut) {
	t.Helper()
	if len(cuts) == 0 {
		t.Fatal("no power cut to judge")
	}
	all, reasons := tally{}, map[string]int{}
	for _, domain := range domains {
		some := slices.DeleteFunc(slices.Clone(cuts), func(c cut) bool { return c.Domain != domain })
		if len(some) > 0 {
			t.Logf("persistence domain %s\n%s\n%s", domain, byInstant(some), byPhase(some))
		}
	}
	whole, split, lockUps := 0, 0, 0
	for _, c := range cuts {
		lockUps += c.LockUps
		if c.Whole {
			whole++
		}
		if c.Guests[0].Fate != c.Guests[1].Fate {
			split++
		}
		for _, g := range c.Guests {
			all[g.Fate]++
			if g.Reason != "" {
				reasons[g.Fate+": "+anyNumber.ReplaceAllString(g.Reason, "N")]++
			}
		}
	}
	t.Logf("%d power cuts, %d of them examined by a whole boot as well; %d fell between the commits of the two guests", len(cuts), whole, split)
	t.Logf("%d examinations were begun anew because the emulated host locked up", lockUps)
	t.Logf("guests: %d resumed intact, %d cold-booted with a reason, %d anything else", all[resumed], all[coldBooted], all[other])
	for _, reason := range slices.Sorted(maps.Keys(reasons)) {
		t.Logf("%d × %s", reasons[reason], reason)
	}
	if all[other] != 0 {
		t.Errorf("%d guests were neither resumed intact nor booted cold with a reason", all[other])
	}
	if all[resumed] == 0 || all[coldBooted] == 0 {
		t.Errorf("%d resumed, %d cold-booted: the cuts do not reach both ends of the sequence", all[resumed], all[coldBooted])
	}
}

// anyNumber is what differs between reasons that are the same.
var anyNumber = regexp.MustCompile(`[0-9]+`)

// tally counts guests by their fates.
type tally map[string]int

func (sum tally) String() string {
	return fmt.Sprintf("%8d %12d %6d", sum[resumed], sum[coldBooted], sum[other])
}

const fateHead = " resumed  cold-booted  other"

func byInstant(cuts []cut) string {
	const rows = 15
	last := slices.MaxFunc(cuts, func(a, b cut) int { return cmp.Compare(a.At, b.At) })
	width := last.At/rows + 1
	var numbers [rows]int
	var sums [rows]map[string]tally // by guest
	for _, c := range cuts {
		row := c.At / width
		numbers[row]++
		for _, g := range c.Guests {
			count(&sums[row], g.Name, g.Fate)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%-24s %5s", "cut after the interrupt", "cuts")
	for _, name := range cutGuests {
		fmt.Fprintf(&b, " | %-4s%s", name, fateHead)
	}
	for row := range rows {
		span := fmt.Sprintf("%d–%d ms", (width * time.Duration(row)).Milliseconds(), (width * time.Duration(row+1)).Milliseconds())
		fmt.Fprintf(&b, "\n%-24s %5d", span, numbers[row])
		for _, name := range cutGuests {
			fmt.Fprintf(&b, " |     %s", sums[row][name])
		}
	}
	return b.String()
}

// count adds one to a tally that may be the first.
func count(sums *map[string]tally, key, fate string) {
	if *sums == nil {
		*sums = map[string]tally{}
	}
	if (*sums)[key] == nil {
		(*sums)[key] = tally{}
	}
	(*sums)[key][fate]++
}

func byPhase(cuts []cut) string {
	var sums map[string]tally
	for _, c := range cuts {
		for _, g := range c.Guests {
			count(&sums, g.Phase, g.Fate)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%-24s %s", "a guest was cut in", fateHead)
	for _, phase := range []string{phaseBefore, "stop", "dump", "check", "copy", "flush", "commit", phaseBehind} {
		fmt.Fprintf(&b, "\n%-24s %s", phase, sums[phase])
	}
	return b.String()
}
