package powersupply

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/pod"
)

// judge says what the supplies mean together, as the package comment has it, and whether they contradict each other and
// are to be looked at again soon. The report has no time.
func judge(supplies []supply, lowBattery int) (r pod.Report, soon bool) {
	var stores []supply
	adapters, online, discharging, silent := 0, false, false, 0
	for _, s := range supplies {
		if !s.stores() {
			if s.online >= 0 {
				adapters++
			}
			online = online || s.online > 0
			continue
		}
		stores = append(stores, s)
		discharging = discharging || s.discharges()
		if s.silent() {
			silent++
		}
	}
	r = pod.Report{Detail: describe(supplies), Runtime: runtime(stores), Charge: charge(stores)}
	switch {
	case online:
		r.Condition = pod.Mains
	case !discharging && adapters == 0 && silent == len(stores):
		r.Condition = pod.Unknown
	case !discharging:
		r.Condition = pod.Mains
		soon = adapters > 0
	case !slices.ContainsFunc(stores, func(s supply) bool { return !s.low(lowBattery) }):
		r.Condition = pod.LowBattery
	default:
		r.Condition = pod.OnBattery
	}
	if r.Condition == pod.Mains {
		r.Runtime = -1 // what is drawn is stored
	}
	return r, soon
}

// describe puts the supplies into a line, such as "AC offline, BAT0 Discharging 63%".
func describe(supplies []supply) string {
	var words []string
	for _, s := range supplies {
		word := s.name
		switch {
		case s.status != "":
			word += " " + s.status
		case s.online > 0:
			word += " online"
		case s.online == 0:
			word += " offline"
		}
		if s.stores() && s.capacity >= 0 {
			word += fmt.Sprintf(" %d%%", s.capacity)
		}
		if s.level == "Low" || s.level == "Critical" {
			word += " (" + s.level + ")"
		}
		words = append(words, word)
	}
	return strings.Join(words, ", ")
}

// charge of all batteries in percent, or negative.
func charge(stores []supply) float64 {
	var now, full, sum float64
	counted, weighed := 0, 0
	for _, s := range stores {
		if s.energyNow >= 0 && s.energyFull > 0 {
			now, full, weighed = now+float64(s.energyNow), full+float64(s.energyFull), weighed+1
		}
		if s.capacity >= 0 {
			sum, counted = sum+float64(s.capacity), counted+1
		}
	}
	switch {
	case weighed == len(stores) && weighed > 1:
		return min(100, 100*now/full)
	case counted > 0:
		return sum / float64(counted)
	case weighed > 0:
		return min(100, 100*now/full)
	}
	return -1
}

// runtime of the host on its batteries, or negative.
func runtime(stores []supply) time.Duration {
	if len(stores) == 1 {
		return stores[0].runtime()
	}
	var energy, power int64
	known := len(stores) > 0
	least := time.Duration(-1)
	for _, s := range stores {
		known = known && s.energyNow >= 0 && s.powerNow >= 0
		energy, power = energy+s.energyNow, power+s.powerNow
		if d := s.runtime(); d >= 0 && s.discharges() && (least < 0 || d < least) {
			least = d
		}
	}
	if d := over(energy, power); known && d >= 0 {
		return d
	}
	return least
}
