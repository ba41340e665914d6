package host

import (
	"errors"
	"fmt"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/outage/policy"
	"github.com/nv-hypervisor/nv-hypervisor/pod"
)

// PolicyConfig says what is made of detectors that leave time.
type PolicyConfig struct {
	Redundant bool             `toml:"redundant"` // each source of the battery tier feeds the host alone
	Battery   BatteryPolicy    `toml:"battery"`
	Planned   PlannedPolicy    `toml:"planned"`
	Detectors []DetectorPolicy `toml:"detector"` // other rules for some of the battery tier
	Hooks     []HookConfig     `toml:"hook"`     // run in outages that the policy announces
}

// BatteryPolicy are the rules of the battery tier; see policy.Rules.
type BatteryPolicy struct {
	Debounce    Duration `toml:"debounce"`
	Ride        bool     `toml:"ride"`
	SaveAfter   Duration `toml:"save_after"`
	Blind       Duration `toml:"blind"`
	Reserve     Duration `toml:"reserve"`
	Safety      float64  `toml:"safety"`
	LeastCharge float64  `toml:"least_charge"`
	PowerBack   Duration `toml:"power_back"`
}

// PlannedPolicy are the rules of the planned tier, which is always saved at once.
type PlannedPolicy struct {
	PowerBack Duration `toml:"power_back"`
}

// DetectorPolicy are the rules for one detector of the battery tier. What it does not
// say is as in BatteryPolicy.
type DetectorPolicy struct {
	Name string `toml:"name"` // as nvh pod ls shows it
	BatteryPolicy
}

func defaultPolicy() PolicyConfig {
	r := policy.Defaults(pod.Battery)
	return PolicyConfig{
		Battery: BatteryPolicy{
			Debounce: Duration(r.Debounce), Ride: r.Ride, SaveAfter: Duration(r.SaveAfter), Blind: Duration(r.Blind),
			Reserve: Duration(r.Reserve), Safety: r.Safety, LeastCharge: r.LeastCharge, PowerBack: Duration(r.PowerBack),
		},
		Planned: PlannedPolicy{PowerBack: Duration(policy.Defaults(pod.Planned).PowerBack)},
	}
}

// inherit gives every detector's own rules the values that hold for all.
func (c *PolicyConfig) inherit() {
	for i := range c.Detectors {
		c.Detectors[i] = DetectorPolicy{BatteryPolicy: c.Battery}
	}
}

func (c *PolicyConfig) check() error {
	errs := []error{c.Battery.check("policy.battery")}
	if c.Planned.PowerBack < 0 {
		errs = append(errs, errors.New("configuration: policy.planned: power_back is negative"))
	}
	names := map[string]bool{}
	for _, d := range c.Detectors {
		if d.Name == "" || names[d.Name] {
			errs = append(errs, fmt.Errorf("configuration: policy.detector: name %q: each has one of its own, as nvh pod ls shows it", d.Name))
		}
		names[d.Name] = true
		errs = append(errs, d.check("policy.detector "+d.Name))
	}
	for i, h := range c.Hooks {
		if err := h.hook().Check(); err != nil {
			errs = append(errs, fmt.Errorf("configuration: policy.hook %d: %w", i+1, err))
		}
	}
	return errors.Join(errs...)
}

func (p *BatteryPolicy) check(where string) error {
	for _, d := range []struct {
		key   string
		value Duration
	}{{"debounce", p.Debounce}, {"save_after", p.SaveAfter}, {"blind", p.Blind}, {"reserve", p.Reserve}, {"power_back", p.PowerBack}} {
		if d.value < 0 {
			return fmt.Errorf("configuration: %s: %s = %q is negative", where, d.key, d.value)
		}
	}
	switch {
	case !(p.Safety >= 1 && p.Safety <= 1000):
		return fmt.Errorf("configuration: %s: safety = %v is not between 1 and 1000: it multiplies what a save needs", where, p.Safety)
	case !(p.LeastCharge >= 0 && p.LeastCharge <= 100):
		return fmt.Errorf("configuration: %s: least_charge = %v is not a percentage", where, p.LeastCharge)
	}
	return nil
}

func (p *BatteryPolicy) rules() policy.Rules {
	return policy.Rules{
		Debounce: time.Duration(p.Debounce), Ride: p.Ride, SaveAfter: time.Duration(p.SaveAfter), Blind: time.Duration(p.Blind),
		Reserve: time.Duration(p.Reserve), Safety: p.Safety, LeastCharge: p.LeastCharge, PowerBack: time.Duration(p.PowerBack),
	}
}

// rulesFor are the rules for one watcher.
func (c *PolicyConfig) rulesFor(w pod.Watcher) policy.Rules {
	r := policy.Defaults(w.Tier())
	switch w.Tier() {
	case pod.Battery:
		r = c.Battery.rules()
		for _, d := range c.Detectors {
			if d.Name == w.Name() {
				r = d.rules()
			}
		}
	case pod.Planned:
		r.PowerBack = time.Duration(c.Planned.PowerBack)
	}
	return r
}

// Follow watches detectors that leave time, until Close, and does what the policy makes
// of them. It is called once.
func (h *Host) Follow(watchers []pod.Watcher) error {
	known := map[string]bool{}
	var watched []policy.Watched
	for _, w := range watchers {
		if known[w.Name()] {
			return fmt.Errorf("configuration: detector %q is there twice", w.Name())
		}
		known[w.Name()] = true
		watched = append(watched, policy.Watched{Watcher: w, Rules: h.config.Policy.rulesFor(w)})
	}
	for _, d := range h.config.Policy.Detectors {
		if !known[d.Name] {
			return fmt.Errorf("configuration: policy.detector: no detector is called %q", d.Name)
		}
	}
	if len(watched) == 0 {
		return nil
	}
	outages := &announcer{Controller: h.outages, need: newNeed(h.store), publish: h.events.publish, log: h.log}
	for _, hook := range h.config.Policy.Hooks {
		outages.hooks = append(outages.hooks, hook.hook())
	}
	power := policy.Start(watched, policy.Options{
		Outages: outages, Need: outages.longestWithHooks, Redundant: h.config.Policy.Redundant,
		Notify: func(event string, data map[string]string) { h.events.publish(event, "", data) }, Log: h.log,
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	h.power = power
	return nil
}
