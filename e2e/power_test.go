package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/lab/rig"
	"github.com/nv-hypervisor/nv-hypervisor/outage"
	"github.com/nv-hypervisor/nv-hypervisor/outage/policy"
	"github.com/nv-hypervisor/nv-hypervisor/pod/webhook"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

// rules are those of the battery tier, with short times.
const rules = `
[policy.battery]
debounce = "300ms"
blind = "1s"
power_back = "500ms"
`

// awaitPhase waits until the decision about the power is in a phase.
func awaitPhase(t *testing.T, ctx context.Context, r *rig.Rig, want policy.Phase) policy.Status {
	t.Helper()
	for {
		s, err := r.Client().Status(ctx)
		must(t, err)
		if s.Power != nil && s.Power.Phase == want {
			return *s.Power
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// outages lists the timelines of outages, the latest first.
func outages(t *testing.T, ctx context.Context, r *rig.Rig) []outage.Timeline {
	t.Helper()
	all, err := r.Client().Outages(ctx)
	must(t, err)
	var list []outage.Timeline
	for _, o := range all {
		if o.Kind == "outage" {
			list = append(list, o)
		}
	}
	return list
}

// A source that says something else ten times a second makes no more saves than its rules allow, and costs no guest
// anything: none as long as it is never on battery for the debounce, one if it says that the battery is low.
func TestFlappingSource(t *testing.T) {
	const times, each = 20, 50 * time.Millisecond
	r, ctx := boot(t, rig.Options{Bin: bin, Config: "[pod.webhook]\n" + rules})
	must(t, r.Launch(ctx, r.Guest("db", memory)))
	tick(t, ctx, r, "db", 2)
	flap := func(bad string) {
		t.Helper()
		for i := range 2 * times {
			_, err := r.Client().Announce(ctx, webhook.Event{Condition: []string{bad, "mains"}[i%2], Source: "liar"})
			must(t, err)
			time.Sleep(each)
		}
	}
	flap("on-battery")
	if o := outages(t, ctx, r); len(o) != 0 {
		t.Errorf("flapping between mains and battery: %+v", o)
	}
	before := len(r.Ticks("db"))
	flap("low-battery")
	awaitPhase(t, ctx, r, policy.Calm)
	continued(t, ctx, r, "db", before)
	if o := outages(t, ctx, r); len(o) != 1 || o[0].Source != "webhook" || o[0].Outcome != "resumed in place" {
		t.Errorf("flapping between mains and low battery: %+v", o)
	}

	// In the end it says the truth: what is saved last is what is resumed.
	out, err := r.Nvh(ctx, "pod", "event", "low-battery", "--source", "liar")
	if must(t, err); !strings.Contains(out, "low battery") {
		t.Errorf("nvh pod event:\n%s", out)
	}
	_, err = r.AwaitState(ctx, "db", vm.Saved)
	must(t, err)
	must(t, r.Cut())
	before = len(r.Ticks("db"))
	must(t, r.Boot(ctx))
	continued(t, ctx, r, "db", before)
}

// A real UPS service: ridden through on battery, saved when the battery is low or the service is gone, and continued in
// place when there is power again.
func TestUPS(t *testing.T) {
	ups := newUPSD(t)
	r, ctx := boot(t, rig.Options{Bin: bin, Config: fmt.Sprintf("[[pod.nut]]\nups = %q\ninterval = \"100ms\"\n", ups.ups()) + rules})
	must(t, r.Launch(ctx, r.Guest("db", memory)))
	tick(t, ctx, r, "db", 2)

	ups.says("OB DISCHRG", "battery.runtime: 1800", "battery.charge: 90")
	if st := awaitPhase(t, ctx, r, policy.Riding); st.Source != ups.detector() || st.Cause != "OB DISCHRG" {
		t.Errorf("riding: %+v", st)
	}
	tick(t, ctx, r, "db", len(r.Ticks("db"))+3) // it runs on battery
	before := len(r.Ticks("db"))
	ups.says("OB LB DISCHRG", "battery.runtime: 1800", "battery.charge: 90")
	_, err := r.AwaitState(ctx, "db", vm.Saved)
	must(t, err)
	if o := outages(t, ctx, r); len(o) != 1 || o[0].Source != ups.detector() || o[0].Tier != "battery" || o[0].Cause != "low battery" || o[0].Outcome != "saved" {
		t.Errorf("low battery: %+v", o)
	}
	out, err := r.Nvh(ctx, "pod", "ls")
	if must(t, err); !strings.Contains(out, ups.detector()) || !strings.Contains(out, "low battery") || !strings.Contains(out, "30m0s") {
		t.Errorf("nvh pod ls:\n%s", out)
	}
	ups.says("OL CHRG")
	awaitPhase(t, ctx, r, policy.Calm)
	continued(t, ctx, r, "db", before)

	// The service dies on battery: nobody tells how much is left.
	ups.says("OB DISCHRG", "battery.runtime: 1800", "battery.charge: 90")
	awaitPhase(t, ctx, r, policy.Riding)
	if _, err := r.Nvh(ctx, "pod", "test", ups.detector()); err != nil {
		t.Error(err)
	}
	ups.kill()
	_, err = r.AwaitState(ctx, "db", vm.Saved)
	must(t, err)
	before = len(r.Ticks("db"))
	if o := outages(t, ctx, r); len(o) != 2 || o[0].Cause != "on battery, and lost for 1s" {
		t.Errorf("lost: %+v", o)
	}
	if _, err := r.Nvh(ctx, "pod", "test", ups.detector()); err == nil {
		t.Error("the test of a detector whose service is dead went well")
	}
	if out, err := r.Nvh(ctx, "doctor"); err == nil || !strings.Contains(out, ups.detector()) {
		t.Errorf("nvh doctor: %v\n%s", err, out)
	}
	ups.says("OL CHRG")
	ups.start()
	awaitPhase(t, ctx, r, policy.Calm)
	continued(t, ctx, r, "db", before)
	if o := outages(t, ctx, r); len(o) != 2 || o[0].Outcome != "resumed in place" {
		t.Errorf("in the end: %+v", o)
	}
}
