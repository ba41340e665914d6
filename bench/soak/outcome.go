package soak

import (
	"errors"
	"fmt"

	"github.com/nv-hypervisor/nv-hypervisor/lab/guest"
)

// Outcome is what became of one guest in one power cut.
type Outcome int

// The outcomes.
const (
	Resumed    Outcome = iota // continued, intact
	ColdBooted                // booted anew, with a reason
	Other                     // anything else: a broken promise
	outcomes
)

func judgeResumed(continued error) (Outcome, error) {
	if continued != nil {
		return Other, fmt.Errorf("the recovery calls it resumed, but: %w", continued)
	}
	return Resumed, nil
}

// judgeBooted looks at what the guest printed before the cut, all its boots, and since.
func judgeBooted(before, since []guest.Tick, reason string, committed bool) (Outcome, error) {
	first := since[0]
	for _, t := range before {
		if t.BootID == first.BootID {
			return Other, fmt.Errorf("the recovery calls it cold-booted, but it is boot %s again", first.BootID)
		}
	}
	switch {
	case committed:
		return Other, fmt.Errorf("it was committed before the power failed, and yet was booted anew: %s", reason)
	case reason == "":
		return Other, errors.New("it was booted anew without a reason")
	case first.Count != 1:
		return Other, fmt.Errorf("it was booted anew, but counts from %d", first.Count)
	case !first.SumOK, first.Disk == guest.DiskBad:
		return Other, fmt.Errorf("it was booted anew and finds itself damaged: %s", first)
	}
	return ColdBooted, nil
}
