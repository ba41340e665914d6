package soak

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/bench/report"
	"github.com/nv-hypervisor/nv-hypervisor/lab/guest"
)

const ms = time.Millisecond

func ticks(boot string, from, to uint64) []guest.Tick {
	var list []guest.Tick
	for n := from; n <= to; n++ {
		list = append(list, guest.Tick{BootID: boot, Count: n, SumOK: true, Disk: "ok"})
	}
	return list
}

func TestJudgement(t *testing.T) {
	damaged := ticks("b", 1, 2)
	damaged[0].SumOK = false
	lost := ticks("b", 1, 2)
	lost[0].Disk = guest.DiskBad
	for _, c := range []struct {
		name      string
		since     []guest.Tick
		reason    string
		committed bool
		want      Outcome
		says      string
	}{
		{"a new boot with a reason", ticks("b", 1, 2), "was running", false, ColdBooted, ""},
		{"no reason", ticks("b", 1, 2), "", false, Other, "without a reason"},
		{"it was committed", ticks("b", 1, 2), "was running", true, Other, "was committed"},
		{"the same boot", ticks("a", 4, 5), "was running", false, Other, "boot a again"},
		{"counting on", ticks("b", 4, 5), "was running", false, Other, "counts from 4"},
		{"memory", damaged, "was running", false, Other, "damaged"},
		{"disk", lost, "was running", false, Other, "damaged"},
	} {
		got, err := judgeBooted(ticks("a", 1, 3), c.since, c.reason, c.committed)
		if got != c.want || (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, %v", c.name, got, err)
		}
	}
	if got, err := judgeResumed(nil); got != Resumed || err != nil {
		t.Errorf("continued: %v, %v", got, err)
	}
	if got, err := judgeResumed(errors.New("count went from 3 to 5")); got != Other || err == nil {
		t.Errorf("not continued: %v, %v", got, err)
	}
}

func TestBuckets(t *testing.T) {
	for _, c := range []struct {
		at   time.Duration
		want string
	}{
		{0, "0 to 1 ms after"}, {ms - 1, "0 to 1 ms after"}, {ms, "1 to 2 ms after"}, {7 * ms, "6 to 8 ms after"},
		{49 * ms, "20 to 50 ms after"}, {50 * ms, "50 ms and later after"}, {time.Hour, "50 ms and later after"},
	} {
		if got := bucketOf("after", c.at, savePlaces).String(); got != c.want {
			t.Errorf("%v is %q, want %q", c.at, got, c.want)
		}
	}
}

// Plans stay in their ranges and reach all of them; the same seed draws the same.
func TestPlans(t *testing.T) {
	one, two := rand.New(rand.NewPCG(5, 0)), rand.New(rand.NewPCG(5, 0))
	var early, late, second, unannounced int
	for range 2000 {
		p := draw(one)
		if p != draw(two) {
			t.Fatal("the same seed draws something else")
		}
		if p.lead < 0 || p.lead >= longestLead || p.after < 0 || p.after > beyond || p.secondLead >= longestSpell || p.secondAfter >= beyond || !p.signalled {
			t.Fatalf("out of range: %+v", p)
		}
		switch {
		case p.second && p.after != beyond:
			t.Fatalf("the recovery of nothing: %+v", p)
		case p.second && !p.secondSignalled:
			unannounced++
		case p.second:
			second++
		case p.after < sequence:
			early++
		default:
			late++
		}
	}
	for name, n := range map[string]int{"early": early, "late": late, "second": second, "unannounced": unannounced} {
		if n < 100 {
			t.Errorf("%s: %d of 2000", name, n)
		}
	}
}

func TestResult(t *testing.T) {
	r := &Result{Took: time.Minute, Seed: 3, VMs: 2, Cycles: 2, Machine: report.Machine{CPU: "Abacus"}}
	r.count(bucketOf("after", 3*ms, savePlaces), ColdBooted)
	r.count(bucketOf("after", 3*ms, savePlaces), Resumed)
	r.count(bucketOf("after", 30*ms, savePlaces), Resumed)
	if err := r.Err(); err != nil {
		t.Error(err)
	}
	r.count(bucketOf("after", 0, savePlaces), Other)
	r.violation("cycle %d: vm: lost", 2)
	if err := r.Err(); err == nil || !strings.Contains(err.Error(), "seed 3") {
		t.Errorf("a violation: %v", err)
	}
	var out strings.Builder
	if err := r.WriteTable(&out); err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(out.String()), " ")
	for _, want := range []string{
		"2 power cuts of 2 guests in 1m0s (seed 3)",
		"0 0 1 0 to 1 ms after 1 1 0 3 to 4 ms after 1 0 0 20 to 50 ms after 2 1 1 total",
		"MUST NOT BE: cycle 2: vm: lost",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the table lacks %q:\n%s", want, out.String())
		}
	}
	content, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"phase":"after","from_ms":3,"to_ms":4,"resumed":1,"cold_booted":1,"other":0`, `"power_cuts":2`, `"violations":["cycle 2: vm: lost"]`} {
		if !strings.Contains(string(content), want) {
			t.Errorf("the file lacks %s: %s", want, content)
		}
	}
}
