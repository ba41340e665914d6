package pattern_test

import (
	"slices"
	"testing"

	"github.com/nv-hypervisor/nv-hypervisor/lab/guest/pattern"
)

const blocks = 40

func fresh(t *testing.T) (*pattern.Pattern, []uint64) {
	t.Helper()
	words := make([]uint64, blocks*pattern.WordsPerBlock)
	p, err := pattern.New(7, words)
	if err != nil {
		t.Fatal(err)
	}
	return p, words
}

func TestStepsKeepThePatternWhole(t *testing.T) {
	p, _ := fresh(t)
	seen := map[uint64]bool{}
	for range 3 * blocks {
		p.Step()
		p.CheckNext(3)
		if err := p.CheckAll(); err != nil {
			t.Fatal(err)
		}
		if seen[p.Sum()] {
			t.Fatalf("sum %016x came twice", p.Sum())
		}
		seen[p.Sum()] = true
	}
}

func TestSumFollowsFromSeedAndSteps(t *testing.T) {
	a, _ := fresh(t)
	b, _ := fresh(t)
	for range 5 {
		a.Step()
		b.Step()
	}
	if a.Sum() != b.Sum() {
		t.Errorf("sums %016x and %016x differ", a.Sum(), b.Sum())
	}
}

// Neighbouring seeds are what the checkers of one guest use.
func TestNeighbouringSeedsShareNoContent(t *testing.T) {
	seen := map[uint64]uint64{}
	for seed := range uint64(8) {
		words := make([]uint64, blocks*pattern.WordsPerBlock)
		p, err := pattern.New(seed, words)
		if err != nil {
			t.Fatal(err)
		}
		for range 4 {
			p.Step()
		}
		for i := 0; i < len(words); i += pattern.WordsPerBlock {
			if other, twice := seen[words[i]]; twice {
				t.Fatalf("seeds %d and %d share a block", other, seed)
			}
			seen[words[i]] = seed
		}
	}
}

func TestOneFlippedBitIsFound(t *testing.T) {
	for _, at := range []int{0, pattern.WordsPerBlock - 1, blocks*pattern.WordsPerBlock - 1} {
		p, words := fresh(t)
		p.Step()
		words[at] ^= 1 << 40
		if p.CheckAll() == nil {
			t.Errorf("a flipped bit in word %d went unseen", at)
		}
		words[at] ^= 1 << 40
		if p.CheckAll() == nil {
			t.Error("the mismatch was forgotten once memory was right again")
		}
	}
}

// A write that never reached memory leaves a block that was right one version earlier.
func TestLostWritesAreFound(t *testing.T) {
	p, words := fresh(t)
	before := slices.Clone(words)
	p.Step()
	copy(words[:pattern.WordsPerBlock], before)
	if p.CheckAll() == nil {
		t.Error("a block of the previous version went unseen")
	}
}

func TestStepDoesNotPaintOverDamage(t *testing.T) {
	p, words := fresh(t)
	words[3]++
	p.Step()
	if p.Err() == nil {
		t.Error("the damaged block was rewritten without a check")
	}
}

func TestCheckNextReachesEveryBlock(t *testing.T) {
	p, words := fresh(t)
	words[len(words)-1]++
	p.CheckNext(blocks - 1)
	if err := p.Err(); err != nil {
		t.Fatalf("found before its turn: %v", err)
	}
	p.CheckNext(1)
	if p.Err() == nil {
		t.Error("the last block was not checked")
	}
}

func TestOddSizesAreRefused(t *testing.T) {
	for _, n := range []int{0, 1, pattern.WordsPerBlock + 1} {
		if _, err := pattern.New(1, make([]uint64, n)); err == nil {
			t.Errorf("%d words were accepted", n)
		}
	}
}
