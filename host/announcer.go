package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/outage"
	"github.com/nv-hypervisor/nv-hypervisor/outage/hook"
	"github.com/nv-hypervisor/nv-hypervisor/outage/policy"
	"github.com/nv-hypervisor/nv-hypervisor/pod"
	"github.com/nv-hypervisor/nv-hypervisor/vm/saver"
)

// HookConfig is a command that is run in the outages that the policy announces.
type HookConfig struct {
	When    string   `toml:"when"`    // "before-save", "after-save" or "power-back"
	Command []string `toml:"command"` // path and arguments
	Limit   Duration `toml:"limit"`   // after which it is killed
}

func (c *HookConfig) hook() hook.Hook {
	return hook.Hook{When: hook.When(c.When), Command: c.Command, Limit: time.Duration(c.Limit)}
}

// announcer is the controller as the policy sees it, with the operator's hooks around.
type announcer struct {
	*outage.Controller
	*need
	hooks   []hook.Hook
	publish func(kind, vm string, data map[string]string)
	log     *slog.Logger
}

var _ policy.Outages = (*announcer)(nil)

// longestWithHooks is how long it takes from a decision to the last commit.
func (a *announcer) longestWithHooks() time.Duration {
	d := a.longest()
	for _, h := range a.hooks {
		if h.When == hook.BeforeSave {
			d += h.Limit
		}
	}
	return d
}

// Observe implements policy.Outages.
func (a *announcer) Observe(began func(id string), ended func(id string, operator bool)) {
	a.Controller.Observe(func(c outage.Change) {
		if c.By != "" {
			ended(c.Outage.ID, c.By == outage.ByOperator)
			return
		}
		a.add(c.Outage.Duration.Duration())
		began(c.Outage.ID)
	})
}

// Begin implements policy.Outages.
func (a *announcer) Begin(ctx context.Context, s policy.Save) (string, error) {
	env := []string{"NVH_SOURCE=" + s.Source, "NVH_TIER=" + s.Tier.String(), "NVH_CAUSE=" + s.Cause}
	var before []ran
	if s.Tier != pod.Emergency { // which leaves no time for them
		before = a.run(ctx, hook.BeforeSave, env)
	}
	t, err := a.Announce(ctx, saver.Announcement{Source: s.Source, Tier: s.Tier.String(), Cause: s.Cause})
	if errors.Is(err, saver.ErrOutage) {
		err = fmt.Errorf("%w: %w", policy.ErrUnderWay, err)
	}
	if err == nil {
		a.note(t, append(before, a.run(ctx, hook.AfterSave, append(env, "NVH_OUTAGE="+t.ID, "NVH_OUTCOME="+t.Outcome))...))
	}
	return t.ID, err
}

// End implements policy.Outages.
func (a *announcer) End(ctx context.Context, id string) error {
	active := a.Active()
	err := a.Controller.End(ctx, id)
	if active != nil && active.ID == id && !errors.Is(err, outage.ErrNoOutage) {
		a.note(*active, a.run(ctx, hook.PowerBack, []string{"NVH_SOURCE=" + active.Source, "NVH_TIER=" + active.Tier, "NVH_CAUSE=" + active.Cause, "NVH_OUTAGE=" + id}))
	}
	return err
}

// ran is a hook that has been run, by CLOCK_MONOTONIC.
type ran struct {
	name       string
	start, end int64
}

// run runs the hooks of a moment, one after the other.
func (a *announcer) run(ctx context.Context, when hook.When, env []string) []ran {
	var list []ran
	for _, h := range a.hooks {
		if h.When != when {
			continue
		}
		r := ran{name: string(when) + " " + h.Command[0], start: saver.Now()}
		result := hook.Run(ctx, h, env)
		r.end = saver.Now()
		data := map[string]string{"when": string(when), "command": strings.Join(h.Command, " "), "output": result.Output}
		if result.Err != nil {
			data["error"] = result.Err.Error()
			r.name += " (failed: " + result.Err.Error() + ")"
			a.log.Warn("hook", "when", when, "command", h.Command, "error", result.Err, "output", result.Output)
		}
		a.publish("hook", "", data)
		list = append(list, r)
	}
	return list
}

// note puts hooks into the timeline of an outage. Those before the save began before the event.
func (a *announcer) note(t outage.Timeline, list []ran) {
	if len(list) == 0 {
		return
	}
	var steps []outage.Step
	since := func(ns int64) outage.Micros { return outage.MicrosOf(time.Duration(ns - t.EventNS)) }
	for _, r := range list {
		steps = append(steps, outage.Step{Name: r.name, Start: since(r.start), End: since(r.end)})
	}
	if err := a.AddSteps(t.ID, steps...); err != nil {
		a.log.Error("keep the timeline", "outage", t.ID, "error", err)
	}
}
