package nut

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/pod"
)

// reading is what the variables of a UPS mean.
type reading struct {
	condition pod.Condition
	detail    string        // ups.status, word for word
	runtime   time.Duration // negative: not told
	charge    float64       // negative: not told
	warning   string
}

// read judges the variables of a UPS, by the rules of the package comment.
func read(variables map[string]string) reading {
	status := variables["ups.status"]
	words := strings.Fields(status)
	return reading{
		condition: condition(words, mains(variables)),
		detail:    strings.Join(words, " "),
		runtime:   runtime(variables["battery.runtime"]),
		charge:    charge(variables["battery.charge"]),
		warning:   warning(words, variables),
	}
}

// evidence is what the measured input voltage proves.
type evidence uint8

const (
	noEvidence evidence = iota
	mainsThere
	mainsGone
)

// condition judges the words of ups.status. Those it does not name say nothing of the power.
func condition(words []string, input evidence) pod.Condition {
	has := func(word string) bool { return slices.Contains(words, word) }
	testing := has("CAL") || has("TEST")
	switch {
	case has("FSD"):
		return pod.Going
	case has("OB") && testing && input == mainsThere:
		return pod.Mains
	case has("OB") && has("LB"):
		return pod.LowBattery
	case has("OB") && testing && input == noEvidence:
		return pod.Mains
	case has("OB"):
		return pod.OnBattery
	case has("OL"), has("BYPASS"):
		return pod.Mains
	}
	return pod.Unknown
}

// mains judges the measured input by the voltage below which the UPS takes to its battery, else by 80 % of the nominal
// one, which is less than any mains is allowed to have.
func mains(variables map[string]string) evidence {
	volts, ok := number(variables["input.voltage"])
	if !ok {
		return noEvidence
	}
	least, ok := number(variables["input.transfer.low"])
	if !ok || least == 0 {
		nominal, ok := number(variables["input.voltage.nominal"])
		if !ok || nominal == 0 {
			return noEvidence
		}
		least = 0.8 * nominal
	}
	if volts < least {
		return mainsGone
	}
	return mainsThere
}

// number reads a value that is finite and not negative.
func number(value string) (float64, bool) {
	n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
	return n, err == nil && n >= 0 && !math.IsInf(n, 1)
}

// longest is more than any battery lasts: drivers say so when they do not know.
const longest = 30 * 24 * time.Hour

func runtime(value string) time.Duration {
	seconds, ok := number(value)
	if !ok || seconds > longest.Seconds() {
		return -1
	}
	return time.Duration(seconds * float64(time.Second))
}

func charge(value string) float64 {
	percent, ok := number(value)
	if !ok || percent > 100 {
		return -1
	}
	return percent
}

// warnings are for words that an operator should see to, though the condition is known.
var warnings = []struct{ word, says string }{
	{"RB", "the battery must be replaced"},
	{"BYPASS", "the load is on bypass, so the battery does not carry it when the power fails: end the bypass"},
	{"OFF", "the UPS feeds nothing from its outlets: switch it on"},
	{"OVER", "the load is more than the UPS can carry: take something off it"},
	{"CAL", "the battery is being calibrated, which empties it: do not rely on it before it is charged again"},
	{"TEST", "the battery is being tested"},
}

func warning(words []string, variables map[string]string) string {
	var says []string
	for _, w := range warnings {
		if slices.Contains(words, w.word) {
			says = append(says, w.word+": "+w.says)
		}
	}
	if alarm := variables["ups.alarm"]; alarm != "" {
		says = append(says, fmt.Sprintf("ALARM: the UPS says %q: see its manual", alarm))
	}
	if condition(words, noEvidence) == pod.Unknown {
		says = append(says, fmt.Sprintf("ups.status is %q, which does not tell whether there is power: see the driver's log", strings.Join(words, " ")))
	}
	return strings.Join(says, "; ")
}
