//go:build lab

package scenario

import (
	"testing"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/lab/labtest"
	"github.com/nv-hypervisor/nv-hypervisor/outage"
)

// What TestCuts counts as anything else than resumed intact or booted cold with a reason.
func TestJudge(t *testing.T) {
	step := func(name string, start, end time.Duration) outage.Step {
		return outage.Step{Name: name, Start: outage.MicrosOf(start), End: outage.MicrosOf(end)}
	}
	const ms = time.Millisecond
	saved := outage.Timeline{VMs: []outage.VMTimeline{{Name: "db", Steps: []outage.Step{
		step("stop", 2*ms, 50*ms), step("dump", 60*ms, 150*ms), step("copy", 150*ms, 180*ms), step("commit", 180*ms, 181*ms),
	}}}}
	back, cold := labtest.Fate{Resumed: true}, labtest.Fate{Reason: "no image"}
	for _, c := range []struct {
		at          time.Duration
		fate        labtest.Fate
		seen        bool
		timeline    outage.Timeline
		phase, want string
	}{
		{1 * ms, cold, true, saved, phaseBefore, coldBooted},
		{30 * ms, cold, true, saved, "stop", coldBooted},
		{55 * ms, cold, true, saved, "dump", coldBooted},
		{170 * ms, back, true, saved, "copy", other}, // from an image that was not there
		{190 * ms, cold, true, saved, phaseBehind, coldBooted},
		{190 * ms, back, true, saved, phaseBehind, resumed},
		{220 * ms, cold, true, saved, phaseBehind, other}, // although it was committed
		{220 * ms, back, false, saved, phaseBehind, other},
		{30 * ms, labtest.Fate{}, true, saved, "stop", other},
		{220 * ms, back, true, outage.Timeline{}, phaseBehind, other},
	} {
		g := judge("db", c.fate, c.seen, c.timeline, c.at)
		if g.Phase != c.phase || g.Fate != c.want || (g.Reason == "") != (c.want == resumed) {
			t.Errorf("%v after %v: %+v, want %s in phase %s", c.fate, c.at, g, c.want, c.phase)
		}
	}
}

// A guest that is saved at one instant is saved at every later one of the same outage.
func TestJudgeOrder(t *testing.T) {
	cuts := []cut{
		{Guests: []guestFate{{Name: "db", Fate: coldBooted}, {Name: "web", Fate: coldBooted}}},
		{Guests: []guestFate{{Name: "db", Fate: resumed}, {Name: "web", Fate: coldBooted}}},
		{Guests: []guestFate{{Name: "db", Fate: coldBooted}, {Name: "web", Fate: resumed}}},
	}
	judgeOrder(cuts)
	for i, want := range [][2]string{{coldBooted, coldBooted}, {resumed, coldBooted}, {other, resumed}} {
		if got := [2]string{cuts[i].Guests[0].Fate, cuts[i].Guests[1].Fate}; got != want {
			t.Errorf("cut %d: %v, want %v", i, got, want)
		}
	}
}
