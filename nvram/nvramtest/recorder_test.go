package nvramtest

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
)

// possible collects the words at the offsets in every crash state at the given point; a negative point counts from the end.
func possible(r *Recorder, offsets ...int) []string {
	var all []string
	for s := range r.CrashStates(1000, 1) {
		if s.Point != r.Len() {
			continue
		}
		var words []uint64
		for _, off := range offsets {
			words = append(words, binary.LittleEndian.Uint64(s.Image[off:]))
		}
		all = append(all, fmt.Sprint(words))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func TestCrashStatesFollowTheModel(t *testing.T) {
	tests := []struct {
		name string
		run  func(r *Recorder)
		want []string // words at 0, 8 and 64
	}{
		{"nothing", func(r *Recorder) {}, []string{"[0 0 0]"}},
		{"stored only", func(r *Recorder) { r.Store8(0, 1) }, []string{"[0 0 0]", "[1 0 0]"}},
		{"flushed, not fenced", func(r *Recorder) { r.Store8(0, 1); r.Flush(0, 8) }, []string{"[0 0 0]", "[1 0 0]"}},
		{"fenced, not flushed", func(r *Recorder) { r.Store8(0, 1); r.Fence() }, []string{"[0 0 0]", "[1 0 0]"}},
		{"guaranteed", func(r *Recorder) { r.Store8(0, 1); r.Flush(0, 8); r.Fence() }, []string{"[1 0 0]"}},
		{"copied", func(r *Recorder) { r.Copy(0, []byte{1}); r.Fence() }, []string{"[1 0 0]"}},
		{"flushed before the store", func(r *Recorder) { r.Flush(0, 8); r.Store8(0, 1); r.Fence() }, []string{"[0 0 0]", "[1 0 0]"}},
		{"versions in between", func(r *Recorder) { r.Store8(0, 1); r.Store8(0, 2) }, []string{"[0 0 0]", "[1 0 0]", "[2 0 0]"}},
		{"flushed version is the least", func(r *Recorder) { r.Store8(0, 1); r.Flush(0, 8); r.Store8(0, 2); r.Fence() }, []string{"[1 0 0]", "[2 0 0]"}},
		{"torn within a line", func(r *Recorder) { r.Store(0, slices.Repeat([]byte{1, 0, 0, 0, 0, 0, 0, 0}, 2)) },
			[]string{"[0 0 0]", "[0 1 0]", "[1 0 0]", "[1 1 0]"}},
		{"lines in any order", func(r *Recorder) { r.Store8(0, 1); r.Store8(64, 2) }, []string{"[0 0 0]", "[0 0 2]", "[1 0 0]", "[1 0 2]"}},
		{"flush takes the whole line", func(r *Recorder) { r.Store8(8, 1); r.Flush(0, 1); r.Fence() }, []string{"[0 1 0]"}},
		{"another view's fence is not ours", func(r *Recorder) { r.Copy(0, []byte{1}); r.View(64, 64).Fence() }, []string{"[0 0 0]", "[1 0 0]"}},
		{"a view's own fence", func(r *Recorder) { v := r.View(64, 64); v.Copy(0, []byte{1}); v.Fence() }, []string{"[0 0 1]"}},
		{"dropped flush", func(r *Recorder) { r.DropFlush(0); r.Copy(0, []byte{1}); r.Fence() }, []string{"[0 0 0]", "[1 0 0]"}},
		{"dropped fence", func(r *Recorder) { r.DropFence(0); r.Copy(0, []byte{1}); r.Fence() }, []string{"[0 0 0]", "[1 0 0]"}},
		{"dropped second flush", func(r *Recorder) { r.DropFlush(1); r.Copy(0, []byte{1}); r.Copy(64, []byte{1}); r.Fence() },
			[]string{"[1 0 0]", "[1 0 1]"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := NewRecorder(make([]byte, 128))
			test.run(r)
			if got := possible(r, 0, 8, 64); !slices.Equal(got, test.want) {
				t.Errorf("possible are %v, want %v", got, test.want)
			}
		})
	}
}

// TestSamplesStayPossible compares samples with the model stated a second time, word by word.
func TestSamplesStayPossible(t *testing.T) {
	r := NewRecorder(make([]byte, 4096))
	r.Copy(0, slices.Repeat([]byte{1}, 4096))
	r.Fence()
	r.Store(1000, slices.Repeat([]byte{2}, 2000))
	r.Store(1500, slices.Repeat([]byte{3}, 100))
	states, torn := 0, 0
	for s := range r.CrashStates(64, 7) {
		if s.Point < 3 {
			continue
		}
		states++
		for i, b := range s.Image {
			old, new := b == 1, b == 2 && i >= 1000 && i < 3000 || b == 3 && i >= 1500 && i < 1600
			if !old && !new {
				t.Fatalf("%s: byte %d is %d", s.Desc, i, b)
			}
		}
		if line := s.Image[1024:1088]; slices.Contains(line, 1) && slices.Contains(line, 2) {
			torn++
		}
	}
	if states < 64 || torn == 0 {
		t.Errorf("%d states, %d with a torn line", states, torn)
	}
}

func TestSameSeedGivesSameStates(t *testing.T) {
	run := func(seed int64) []string {
		r := NewRecorder(make([]byte, 4096))
		r.Store(0, slices.Repeat([]byte{1}, 4096))
		var all []string
		for s := range r.CrashStates(32, seed) {
			all = append(all, string(s.Image))
		}
		return all
	}
	if !slices.Equal(run(1), run(1)) {
		t.Error("the same seed gave other states")
	}
	if slices.Equal(run(1), run(2)) {
		t.Error("another seed gave the same states")
	}
}
