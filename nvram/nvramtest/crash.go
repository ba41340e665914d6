package nvramtest

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"iter"
	"math/rand/v2"
	"slices"
)

// CrashState is what the memory could hold after a power cut.
type CrashState struct {
	// Image is the content. It is valid, and may be written to, until the next state is asked for.
	Image []byte
	// Point says how much of the history had happened: the cut came after that many stores, flushes and fences.
	Point int
	// Desc says which cut this is.
	Desc string
}

// CrashStates yields what the memory could hold had the power gone after any prefix of the history. For each prefix it yields at most
// limit states: all of them if there are no more, with every 8-byte word that is not yet guaranteed having any of the values it had since it was;
// otherwise nothing written back, everything written back, all subsets of lines if those are few enough, and samples drawn
// with the seed, of whole lines and of torn ones in turn.
func (r *Recorder) CrashStates(limit int, seed int64) iter.Seq[CrashState] {
	return func(yield func(CrashState) bool) {
		s := replay{
			guaranteed: bytes.Clone(r.initial),
			image:      bytes.Clone(r.initial),
			lines:      map[int]*line{},
			random:     rand.New(rand.NewPCG(uint64(seed), 0)),
		}
		for point := range len(r.history) + 1 {
			after := "the start"
			if point > 0 {
				s.apply(r.history[point-1])
				after = r.history[point-1].String()
			}
			desc := fmt.Sprintf("cut after event %d of %d (%s)", point, len(r.history), after)
			if !s.states(limit, func(how string) bool {
				return yield(CrashState{Image: s.image, Point: point, Desc: desc + ", " + how})
			}) {
				return
			}
		}
	}
}

// line is a cache line that is not yet guaranteed.
type line struct {
	versions [][]byte    // the guaranteed content, then what it became with each store
	flushed  map[int]int // by view: how many of the stores were flushed, but not yet fenced
}

// replay is the state of the model after a prefix of the history.
type replay struct {
	guaranteed []byte // what is persistent for certain
	image      []byte // the one handed out
	lines      map[int]*line
	random     *rand.Rand
	key        maphash.Hash
	seen       map[uint64]bool // what was handed out for this prefix
}

func (s *replay) apply(e event) {
	switch e.kind {
	case eventStore:
		s.store(e.off, e.bytes)
	case eventFlush:
		for at := e.off &^ (LineSize - 1); at < e.off+e.n; at += LineSize {
			if l := s.lines[at]; l != nil {
				l.flushed[e.view] = len(l.versions) - 1
			}
		}
	case eventFence:
		s.fence(e.view)
	}
}

func (s *replay) store(off int, p []byte) {
	for len(p) > 0 {
		at := off &^ (LineSize - 1)
		n := min(len(p), at+LineSize-off)
		l := s.lines[at]
		if l == nil {
			end := min(at+LineSize, len(s.guaranteed))
			l = &line{versions: [][]byte{bytes.Clone(s.guaranteed[at:end])}, flushed: map[int]int{}}
			s.lines[at] = l
		}
		content := bytes.Clone(l.versions[len(l.versions)-1])
		copy(content[off-at:], p[:n])
		l.versions = append(l.versions, content)
		off, p = off+n, p[n:]
	}
}

func (s *replay) fence(view int) {
	for at, l := range s.lines {
		n := l.flushed[view]
		if n == 0 {
			continue
		}
		copy(s.guaranteed[at:], l.versions[n])
		l.versions = l.versions[n:]
		for v, m := range l.flushed {
			l.flushed[v] = max(0, m-n)
		}
		if len(l.versions) == 1 {
			delete(s.lines, at)
		}
	}
}

// choice is a piece of memory with the different contents it may have.
type choice struct {
	off    int
	values [][]byte
}

// choices lists, in order, the pieces of the given size that are not yet guaranteed.
func (s *replay) choices(size int) []choice {
	var all []choice
	for at, l := range s.lines {
		for off := 0; off < len(l.versions[0]); off += size {
			c := choice{off: at + off}
			for _, v := range l.versions {
				value := v[off:min(off+size, len(v))]
				if !slices.ContainsFunc(c.values, func(known []byte) bool { return bytes.Equal(known, value) }) {
					c.values = append(c.values, value)
				}
			}
			if len(c.values) > 1 {
				all = append(all, c)
			}
		}
	}
	slices.SortFunc(all, func(a, b choice) int { return a.off - b.off })
	return all
}

// combinations multiplies up to limit+1.
func combinations(choices []choice, limit int) int {
	n := 1
	for _, c := range choices {
		if n *= len(c.values); n > limit {
			return limit + 1
		}
	}
	return n
}

// states prepares the images of the current prefix one by one. It gives false if the consumer has had enough.
func (s *replay) states(limit int, yield func(how string) bool) bool {
	s.seen = map[uint64]bool{}
	words := s.choices(WordSize)
	if combinations(words, limit) <= limit {
		return s.enumerate(words, "words", yield)
	}
	lines := s.choices(LineSize)
	left := limit
	if n := combinations(lines, limit/2); n <= limit/2 {
		if !s.enumerate(lines, "lines", yield) {
			return false
		}
		left -= n
	} else {
		if !s.emit(lines, oldest(lines), "nothing written back", yield) || !s.emit(lines, newest(lines), "everything written back", yield) {
			return false
		}
		left -= 2
	}
	return s.sample(left, lines, words, yield)
}

// enumerate walks through all combinations like an odometer.
func (s *replay) enumerate(choices []choice, what string, yield func(string) bool) bool {
	picked := oldest(choices)
	for {
		if !s.emit(choices, picked, fmt.Sprintf("%s %v", what, picked), yield) {
			return false
		}
		i := 0
		for ; i < len(picked); i++ {
			if picked[i]++; picked[i] < len(choices[i].values) {
				break
			}
			picked[i] = 0
		}
		if i == len(picked) {
			return true
		}
	}
}

// sample draws combinations, in turn of lines and of words. How likely the newest value is differs from one to the next, since what hurts
// is often a single piece missing, or a single one early.
func (s *replay) sample(n int, lines, words []choice, yield func(string) bool) bool {
	for i := range n {
		choices, what := lines, "lines"
		if i%2 == 1 {
			choices, what = words, "words"
		}
		picked := oldest(choices)
		switch bias := s.random.Float64(); i / 2 % 4 {
		case 0: // all but one
			picked = newest(choices)
			one := s.random.IntN(len(choices))
			picked[one] = s.random.IntN(len(choices[one].values) - 1)
		case 1: // only one
			one := s.random.IntN(len(choices))
			picked[one] = 1 + s.random.IntN(len(choices[one].values)-1)
		default:
			for k, c := range choices {
				if s.random.Float64() < bias {
					picked[k] = 1 + s.random.IntN(len(c.values)-1)
				}
			}
		}
		if !s.emit(choices, picked, fmt.Sprintf("sample %d of %s", i, what), yield) {
			return false
		}
	}
	return true
}

// emit makes the image and hands it out, unless it was for this prefix already.
func (s *replay) emit(choices []choice, picked []int, how string, yield func(string) bool) bool {
	copy(s.image, s.guaranteed)
	s.key.Reset()
	for i, c := range choices {
		copy(s.image[c.off:], c.values[picked[i]])
		s.key.Write(c.values[picked[i]])
	}
	if key := s.key.Sum64(); !s.seen[key] {
		s.seen[key] = true
		return yield(how)
	}
	return true
}

func oldest(choices []choice) []int { return make([]int, len(choices)) }

func newest(choices []choice) []int {
	picked := make([]int, len(choices))
	for i, c := range choices {
		picked[i] = len(c.values) - 1
	}
	return picked
}
