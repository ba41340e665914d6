// Package stats sums up samples of one duration without claiming more than they say.
package stats

import (
	"math"
	"slices"
	"time"
)

// Summary describes a set of samples. A percentile is always one of the samples
// (nearest rank), so with fewer than 100 of them the 99th is the largest, and
// P99IsMax says so.
type Summary struct {
	N        int
	Min      time.Duration
	Median   time.Duration // with an even N the mean of the middle two
	P99      time.Duration
	Max      time.Duration
	P99IsMax bool // too few samples to tell the 99th percentile from the largest
}

// Summarize does not change samples. Of none it makes the zero Summary.
func Summarize(samples []time.Duration) Summary {
	if len(samples) == 0 {
		return Summary{}
	}
	sorted := slices.Sorted(slices.Values(samples))
	n := len(sorted)
	rank := Rank(0.99, n)
	return Summary{
		N: n, Min: sorted[0], Median: (sorted[(n-1)/2] + sorted[n/2]) / 2,
		P99: sorted[rank], Max: sorted[n-1], P99IsMax: rank == n-1,
	}
}

// Rank is the index, in n sorted samples, of the smallest that a fraction q of
// all samples does not exceed.
func Rank(q float64, n int) int {
	// The product of a decimal fraction and n can lie a hair above a whole number.
	rank := int(math.Ceil(q*float64(n) - 1e-9))
	return min(max(rank-1, 0), n-1)
}
