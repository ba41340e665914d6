//go:build lab

package scenario

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/lab"
	"github.com/nv-hypervisor/nv-hypervisor/lab/labtest"
)

var (
	cuts = flag.Int("cuts", 200, "how many power cuts TestCuts makes")
	seed = flag.Uint64("seed", 1, "of the random half of their instants")
)

// The plug at the worst moment. One host goes through an outage after another; in each, at one instant after the interrupt, its
// NVDIMM and its disk are copied as a cut at this instant would have left them (lab.Host.CutCopy). Then the outage ends as a
// glitch, and time stands still for the host while the copy is booted and both guests are examined. So a
// cut costs one boot and one outage, not the boot of the host and of its guests before it.
//
// Half of the instants sweep from 0 to half as long again as the whole sequence takes; the others are random in the same range.
func TestCuts(t *testing.T) {
	h := labtest.Start(t, lab.Options{Persistence: lab.MemoryController})
	h.Launch("db", "--priority", "10")
	h.Launch("web")
	h.AwaitRunning("db", "web")
	whole := sequenceLength(h)
	t.Logf("the whole sequence takes %v (emulated); seed %d", whole, *seed)
	var results []cut
	for i, at := range instants(*cuts, whole*3/2) {
		results = append(results, pullPlug(t, h, i, at))
	}
	report(t, results)
}

// sequenceLength is the longest of a few outages, from the interrupt to the last commit.
func sequenceLength(h *labtest.Host) (longest time.Duration) {
	for range 3 {
		before := len(h.Outages())
		h.NMI()
		longest = max(longest, h.AwaitOutage(before).Duration.Duration())
		goOn(h)
	}
	return longest
}

// goOn ends the outage as a glitch.
func goOn(h *labtest.Host) {
	h.Run("nvh", "outage", "clear")
	h.AwaitRunning("db", "web")
}

func instants(n int, span time.Duration) []time.Duration {
	random := rand.New(rand.NewPCG(*seed, 0))
	var list []time.Duration
	for i := range n {
		at := span * time.Duration(i) / time.Duration(max(1, n-1))
		if i%2 == 1 {
			at = time.Duration(random.Int64N(int64(span) + 1))
		}
		list = append(list, at)
	}
	return list
}

// cut is one power cut and what became of the guests.
type cut struct {
	at    time.Duration // after the interrupt
	fates []labtest.Fate
}

// pullPlug makes one cut. What is neither intact nor booted cold with a reason fails the subtest, and fates stays short.
func pullPlug(t *testing.T, h *labtest.Host, n int, at time.Duration) cut {
	result := cut{at: at}
	before := len(h.Outages())
	start := time.Now()
	h.NMI()
	time.Sleep(time.Until(start.Add(at)))
	copied := h.CutCopy()
	known := h.Seen() // the guests go on, and the copy must not be asked for what came after
	h.AwaitOutage(before)
	goOn(h)
	if err := h.Pause(h.Context()); err != nil {
		t.Fatal(err)
	}
	t.Run(fmt.Sprintf("cut-%03d", n), func(t *testing.T) {
		dark := labtest.Adopt(t, copied, known)
		dark.PowerOn()
		for _, name := range []string{"db", "web"} {
			result.fates = append(result.fates, dark.Fate(name))
		}
	})
	if err := h.Unpause(h.Context()); err != nil {
		t.Fatal(err)
	}
	return result
}

// report prints what became of the guests by the instant of the cut.
func report(t *testing.T, results []cut) {
	const rows = 15
	results = slices.Clone(results)
	slices.SortFunc(results, func(a, b cut) int { return int(a.at - b.at) })
	width := results[len(results)-1].at/rows + 1
	var table strings.Builder
	fmt.Fprintf(&table, "%-24s %5s %8s %12s %6s\n", "cut after the interrupt", "cuts", "resumed", "cold-booted", "other")
	var total [rows]tally
	reasons := map[string]int{}
	for _, c := range results {
		total[c.at/width].add(c, reasons)
	}
	var all tally
	for row, sum := range total {
		span := fmt.Sprintf("%d–%d ms", (width * time.Duration(row)).Milliseconds(), (width * time.Duration(row+1)).Milliseconds())
		fmt.Fprintf(&table, "%-24s %5d %8d %12d %6d\n", span, sum.cuts, sum.resumed, sum.cold, sum.other)
		all.cuts, all.resumed, all.cold, all.other = all.cuts+sum.cuts, all.resumed+sum.resumed, all.cold+sum.cold, all.other+sum.other
	}
	fmt.Fprintf(&table, "%-24s %5d %8d %12d %6d\n", "all, two guests each", all.cuts, all.resumed, all.cold, all.other)
	for reason, n := range reasons {
		fmt.Fprintf(&table, "%d × %s\n", n, reason)
	}
	t.Log("\n" + table.String())
	if all.other != 0 {
		t.Errorf("%d guests were neither resumed intact nor booted cold with a reason", all.other)
	}
	if all.resumed == 0 || all.cold == 0 {
		t.Errorf("%d resumed, %d cold-booted: the cuts do not reach both ends of the sequence", all.resumed, all.cold)
	}
}

// tally counts guests, and the cuts they went through.
type tally struct{ cuts, resumed, cold, other int }

func (sum *tally) add(c cut, reasons map[string]int) {
	sum.cuts++
	sum.other += 2 - len(c.fates)
	for _, f := range c.fates {
		if f.Resumed {
			sum.resumed++
			continue
		}
		sum.cold++
		reasons[f.Reason]++
	}
}
