//go:build lab

package scenario

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/lab"
	"github.com/nv-hypervisor/nv-hypervisor/lab/labtest"
	"github.com/nv-hypervisor/nv-hypervisor/lab/plan"
	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/outage"
)

var (
	cuts    = flag.Int("cuts", 200, "how many power cuts TestCuts makes; 0: none, it judges those in -append alone")
	seed    = flag.Uint64("seed", 1, "of their instants")
	journal = flag.String("append", "", "file of power cuts, a JSON object a line: TestCuts adds its own, and judges all")
	domain  = flag.String("domain", "", "memory_controller or cpu_cache: make all cuts in this persistence domain, instead of half of them in each")
)

// domains in turn. Where CPU caches are volatile both guests are committed at once, after one flush; else each by itself.
var domains = []lab.Persistence{lab.MemoryController, lab.CPUCache}

// cutGuests are in order of priority.
var cutGuests = []string{"db", "web"}

const (
	cutsAnOutage = 8               // so many copies are made of one outage
	fullBoots    = 10              // one in so many is also examined by a whole boot
	outageTime   = 2 * time.Minute // more than one outage with all of its cuts takes
	maxLockUps   = 3               // so often a copy is examined anew because the emulated host locks up
)

// The plug at the worst moment. One host goes through an outage after another; in each, at several instants after the interrupt, its
// NVDIMM and its disk are copied as a cut at this instant would have left them (lab.Host.CutCopy). Then time stands still for
// this host, and each copy gets its power back and both guests are examined; after that the outage ends as a glitch.
//
// A copy is spared the boot of the kernel: it wakes up in the memory of a host that had booted and was put to sleep
// before it looked at NVDIMMs or disk (lab.Standby). All the rest, from the mount on, is as at any boot, and every tenth is booted as a
// whole as well, with the same outcome.
//
// Half of the instants sweep from 0 to half as long again as the whole sequence takes; the others are random in the same range.
func TestCuts(t *testing.T) {
	results := readJournal(t, *journal)
	left := *cuts
	for i, d := range domains {
		n := left / (len(domains) - i)
		if *domain != "" {
			n = 0
			if d == lab.Persistence(*domain) {
				n = *cuts
			}
		}
		left -= n
		if n > 0 {
			t.Run(string(d), func(t *testing.T) { results = append(results, pullPlugs(t, d, n)...) })
		}
	}
	report(t, results)
}

func pullPlugs(t *testing.T, d lab.Persistence, n int) (results []cut) {
	c := newCampaign(t, d)
	for _, at := range instants(n, c.whole*3/2) {
		if end, limited := t.Deadline(); limited && time.Until(end) < outageTime {
			t.Errorf("%d of %d cuts: the time of -timeout is over", len(results), n)
			break
		}
		results = append(results, c.pullPlug(at)...)
	}
	return results
}

// campaign is a host that goes through outages.
type campaign struct {
	t       *testing.T
	domain  lab.Persistence
	host    *labtest.Host
	standby *lab.Standby
	whole   time.Duration // from the interrupt to the last commit
	benches chan string   // folders in which copies are examined, as many as tests may run at once
	outages int
	copies  int
}

func newCampaign(t *testing.T, d lab.Persistence) *campaign {
	// All of its DRAM is written at every waking.
	h := labtest.Start(t, lab.Options{Persistence: d, NVDIMMs: nvdimm(plan.FSDAX), Memory: 768 * nvram.MiB})
	parallel := flag.Lookup("test.parallel").Value.(flag.Getter).Get().(int)
	c := &campaign{t: t, domain: d, host: h, standby: h.Standby(), benches: make(chan string, parallel)}
	for i := range cap(c.benches) {
		c.benches <- h.Beside(fmt.Sprintf("bench-%d", i))
	}
	h.Launch("db", "--priority", "10")
	h.Launch("web")
	h.AwaitRunning(cutGuests...)
	for range 2 {
		before := len(h.Outages())
		h.NMI()
		c.whole = max(c.whole, h.AwaitOutage(before).Duration.Duration())
		c.goOn()
	}
	t.Logf("the whole sequence takes %v (emulated); seed %d", c.whole, *seed)
	return c
}

// goOn ends the outage as a glitch.
func (c *campaign) goOn() {
	c.host.Run("nvh", "outage", "clear")
	c.host.AwaitRunning(cutGuests...)
}

// instants of n cuts, by outage. Each outage has some from its whole length.
func instants(n int, span time.Duration) [][]time.Duration {
	random := rand.New(rand.NewPCG(*seed, 0))
	shift := random.Float64() // or campaigns with other seeds would sweep over the same
	var all []time.Duration
	for i := range n {
		at := time.Duration((float64(i) + shift) / float64(n) * float64(span))
		if i%2 == 1 {
			at = time.Duration(random.Int64N(int64(span) + 1))
		}
		all = append(all, at)
	}
	slices.Sort(all)
	outages := make([][]time.Duration, (n+cutsAnOutage-1)/cutsAnOutage)
	for i, at := range all {
		outages[i%len(outages)] = append(outages[i%len(outages)], at)
	}
	random.Shuffle(len(outages), func(i, j int) { outages[i], outages[j] = outages[j], outages[i] })
	return outages
}

// darkHost is what a cut has left.
type darkHost struct {
	cut
	host   *lab.Host
	offset time.Duration // from the interrupt by the host's own clock, which goes on while the host is frozen
}

// pullPlug goes through one outage with several cuts. What is neither intact nor booted cold with a reason fails.
func (c *campaign) pullPlug(at []time.Duration) []cut {
	h := c.host
	before := len(h.Outages())
	dark := c.copyCuts(at)
	known := h.Seen() // the guests go on, and the copies must not be asked for what came after
	timeline := h.AwaitOutage(before)
	if err := h.Pause(h.Context()); err != nil {
		c.t.Fatal(err)
	}
	c.t.Run(fmt.Sprintf("outage-%03d", c.outages), func(t *testing.T) {
		for i := range dark {
			whole := (c.copies+i)%fullBoots == 0
			t.Run(fmt.Sprintf("%d-after-%v", i, dark[i].At.Round(time.Millisecond)), func(t *testing.T) {
				t.Parallel()
				c.examine(t, &dark[i], whole, timeline, known)
			})
		}
	})
	if err := h.Context().Err(); err != nil {
		c.t.Fatalf("outage %d does not count: %v", c.outages, err)
	}
	if err := h.Unpause(h.Context()); err != nil {
		c.t.Fatal(err)
	}
	c.goOn()
	var results []cut
	for i := range dark {
		results = append(results, dark[i].cut)
	}
	judgeOrder(results)
	c.outages++
	c.copies += len(dark)
	appendJournal(c.t, *journal, results)
	return results
}

// copyCuts announces an outage and copies what cuts at these instants would leave.
func (c *campaign) copyCuts(at []time.Duration) (dark []darkHost) {
	var frozen time.Duration
	event := c.host.NMI()
	for i, instant := range at {
		time.Sleep(time.Until(event.Add(instant + frozen)))
		copied, f := c.host.CutCopy(fmt.Sprintf("cut-%d", i))
		offset := f.At.Sub(event)
		dark = append(dark, darkHost{cut{Domain: c.domain, Seed: *seed, Outage: c.outages, At: offset - frozen}, copied, offset})
		frozen += f.For
	}
	c.t.Logf("outage %d: %d cuts, the host was frozen for %v", c.outages, len(dark), frozen)
	return dark
}

// examine gives a copy its power back, in one way or in both.
func (c *campaign) examine(t *testing.T, d *darkHost, whole bool, timeline outage.Timeline, known labtest.Seen) {
	bench := <-c.benches
	defer func() { c.benches <- bench }()
	wake := func(h *labtest.Host) { h.Wake(c.standby) }
	fates := c.powerOn(t, "woken", d, bench, known, wake)
	if whole {
		booted := c.powerOn(t, "booted", d, bench, known, (*labtest.Host).PowerOn)
		if !maps.Equal(fates, booted) {
			t.Errorf("two ways to give one host its power back: woken %v, booted %v", fates, booted)
			fates = nil
		}
		d.Whole = true
	}
	for _, guest := range cutGuests {
		fate, seen := fates[guest]
		g := judge(guest, fate, seen, timeline, d.offset)
		if g.Fate == other {
			t.Errorf("%s, cut in its phase %q: %s", guest, g.Phase, g.Reason)
		}
		d.Guests = append(d.Guests, g)
	}
	if t.Failed() {
		c.keep(t, d.host)
	}
}

// keep keeps what a cut has left for whoever looks into what became of it.
func (c *campaign) keep(t *testing.T, dark *lab.Host) {
	folder, err := os.MkdirTemp("", "nvh-lab-cut-")
	if err == nil {
		err = dark.Keep(context.WithoutCancel(c.host.Context()), folder)
	}
	if err != nil {
		t.Errorf("keep what the cut has left: %v", err)
		return
	}
	t.Logf("what the cut has left is kept in %[1]s; boot it with %[1]s/power-on.sh", folder)
}

// powerOn returns what became of the guests; one of which nothing good can be said is missing. An emulated host that locks up, for which
// nothing of ours is to blame, says nothing: the copy is examined anew.
func (c *campaign) powerOn(t *testing.T, way string, d *darkHost, bench string, known labtest.Seen, on func(*labtest.Host)) (fates map[string]labtest.Fate) {
	err := labtest.ErrLockedUp
	for n := 0; errors.Is(err, labtest.ErrLockedUp) && n <= maxLockUps; n++ {
		d.LockUps += min(n, 1)
		err = nil
		t.Run(way, func(t *testing.T) {
			h := labtest.Examine(t, d.host, bench, known)
			on(h)
			fates, err = h.Fates(cutGuests...)
			if err != nil {
				t.Logf("%v; its console ends:\n%s", err, h.Tail(lab.ConsoleLog))
			}
		})
	}
	return fates
}
