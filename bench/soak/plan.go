package soak

import (
	"math/rand/v2"
	"time"
)

// plan is what one cycle does to the power.
type plan struct {
	lead      time.Duration // the guests run
	signalled bool          // the outage is announced
	after     time.Duration // and the power fails so much later

	// A second cut, in the recovery from the first.
	second          bool
	secondLead      time.Duration // since the daemon answers
	secondSignalled bool
	secondAfter     time.Duration
}

// The ranges that plans are drawn from.
const (
	longestLead  = 500 * time.Millisecond
	sequence     = 20 * time.Millisecond  // longer than two guests take to be saved
	beyond       = 100 * time.Millisecond // after everything, the timeline on disk included
	longestSpell = 600 * time.Millisecond // longer than a recovery of two guests on two cores
)

// draw makes a plan. Of five cuts four fall into the first 20 ms after the signal;
// every fifth cycle saves everything and cuts the recovery that follows.
func draw(random *rand.Rand) plan {
	p := plan{lead: upTo(random, longestLead), signalled: true, after: instant(random)}
	if random.IntN(5) == 0 {
		p.after = beyond
		p.second, p.secondLead = true, upTo(random, longestSpell)
		p.secondSignalled = random.IntN(2) == 0
		if p.secondSignalled {
			p.secondAfter = instant(random)
		}
	}
	return p
}

// instant is how long after a signal the power fails.
func instant(random *rand.Rand) time.Duration {
	if random.IntN(5) == 0 {
		return sequence + upTo(random, beyond-sequence)
	}
	return upTo(random, sequence)
}

func upTo(random *rand.Rand, limit time.Duration) time.Duration {
	return time.Duration(random.Int64N(int64(limit)))
}
