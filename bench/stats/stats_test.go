package stats

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// upTo is n, n-1, … 1 milliseconds: unsorted on purpose.
func upTo(n int) []time.Duration {
	var samples []time.Duration
	for i := n; i > 0; i-- {
		samples = append(samples, time.Duration(i)*time.Millisecond)
	}
	return samples
}

func TestSummaries(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		samples []time.Duration
		want    Summary
	}{
		{nil, Summary{}},
		{upTo(1), Summary{1, ms, ms, ms, ms, true}},
		{upTo(2), Summary{2, ms, 1500 * time.Microsecond, 2 * ms, 2 * ms, true}},
		{upTo(3), Summary{3, ms, 2 * ms, 3 * ms, 3 * ms, true}},
		{upTo(30), Summary{30, ms, 15500 * time.Microsecond, 30 * ms, 30 * ms, true}},
		{upTo(99), Summary{99, ms, 50 * ms, 99 * ms, 99 * ms, true}},
		{upTo(100), Summary{100, ms, 50500 * time.Microsecond, 99 * ms, 100 * ms, false}},
		{upTo(101), Summary{101, ms, 51 * ms, 100 * ms, 101 * ms, false}},
		{upTo(1000), Summary{1000, ms, 500500 * time.Microsecond, 990 * ms, 1000 * ms, false}},
	} {
		if got := Summarize(c.samples); got != c.want {
			t.Errorf("%d samples: %+v, want %+v", len(c.samples), got, c.want)
		}
	}
}

// Whatever the samples, their order is kept, the summary is in order, and at least
// 99 % of them do not exceed P99 while fewer do not exceed any smaller sample.
func TestSummaryOfAnySamples(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		samples := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) time.Duration {
			return time.Duration(rapid.Int64Range(0, 1<<40).Draw(t, "ns"))
		}), 1, 400).Draw(t, "samples")
		before := slices.Clone(samples)
		s := Summarize(samples)
		if !slices.Equal(before, samples) {
			t.Fatal("the samples were changed")
		}
		if !slices.IsSorted([]time.Duration{s.Min, s.Median, s.P99, s.Max}) {
			t.Fatalf("out of order: %+v", s)
		}
		covered, below := 0, 0
		for _, d := range samples {
			if d <= s.P99 {
				covered++
			}
			if d < s.P99 {
				below++
			}
		}
		if 100*covered < 99*s.N || 100*below >= 99*s.N {
			t.Fatalf("P99 %v covers %d of %d, without itself %d", s.P99, covered, s.N, below)
		}
	})
}
