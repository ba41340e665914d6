// Package nvramtest tests what must survive a power cut. A Recorder is a memory that notes every store, flush and
// fence; CrashStates then yields what the memory could hold had the power gone at any point of that history. A test runs
// its real recovery on each.
//
// The model is the processor's as nvram.Memory states it: a store becomes persistent at any time after it was made, in any order with others,
// torn at 8-byte boundaries, and for certain only when it was flushed and that flush was followed by a fence of the same memory.
//
// To prove that a test sees what it should, run it again with DropFlush or DropFence for each flush and fence in turn: if it
// still passes, either that flush is superfluous or the test is blind.
//
// The package does not import package nvram, whose own tests use it.
package nvramtest

import (
	"encoding/binary"
	"fmt"
)

// LineSize is the cache line that a flush writes back, and WordSize what a power cut does not tear, in bytes.
const (
	LineSize = 64
	WordSize = 8
)

type eventKind uint8

const (
	eventStore eventKind = iota
	eventFlush
	eventFence
)

// event is one entry of the history.
type event struct {
	kind  eventKind
	view  int // whose fence completes which flush
	off   int
	n     int    // flush
	bytes []byte // store
}

func (e event) String() string {
	switch e.kind {
	case eventStore:
		return fmt.Sprintf("store of %d bytes at %d", len(e.bytes), e.off)
	case eventFlush:
		return fmt.Sprintf("flush of %d bytes at %d", e.n, e.off)
	}
	return "fence"
}

// Recorder is a memory, in the sense of nvram.Memory, over a byte slice, with its history. It is for one goroutine.
type Recorder struct {
	view
	initial []byte
	data    []byte
	history []event
	views   int
	flushes counter
	fences  counter
}

// counter numbers flushes or fences and knows which one to leave out.
type counter struct {
	n    int
	drop int // -1: none
}

// next tells whether this one counts.
func (c *counter) next() bool {
	keep := c.n != c.drop
	c.n++
	return keep
}

// NewRecorder makes a memory whose persistent content is a copy of image.
func NewRecorder(image []byte) *Recorder {
	r := &Recorder{
		initial: append([]byte(nil), image...),
		data:    append([]byte(nil), image...),
		flushes: counter{drop: -1},
		fences:  counter{drop: -1},
	}
	r.view = view{recorder: r, size: len(image)}
	return r
}

// DropFlush makes the recorder ignore the i-th flush, counting from 0 and counting the flush half of each Copy. Call it first.
func (r *Recorder) DropFlush(i int) { r.flushes.drop = i }

// DropFence makes the recorder ignore the i-th fence, counting from 0. Call it first.
func (r *Recorder) DropFence(i int) { r.fences.drop = i }

// Flushes counts the flushes so far, those in Copy included.
func (r *Recorder) Flushes() int { return r.flushes.n }

// Fences counts the fences so far.
func (r *Recorder) Fences() int { return r.fences.n }

// Len is the length of the history, the Point of a crash now. What was dropped is not in it.
func (r *Recorder) Len() int { return len(r.history) }

// View is the part [off, off+n) as a memory of its own, as a second mapping is: recorded in the same history, but a fence of one does not
// complete the flushes of the other.
func (r *Recorder) View(off, n int) Memory {
	_ = r.data[off : off+n]
	r.views++
	return &view{recorder: r, id: r.views, base: off, size: n}
}

// Memory is nvram.Memory.
type Memory interface {
	Bytes() []byte
	Store(off int, p []byte)
	Store8(off int, v uint64)
	Copy(off int, p []byte)
	Flush(off, n int)
	Fence() error
}

type view struct {
	recorder *Recorder
	id       int
	base     int
	size     int
}

func (v *view) Bytes() []byte { return v.recorder.data[v.base:][:v.size:v.size] }

func (v *view) Store(off int, p []byte) {
	copy(v.Bytes()[off:off+len(p)], p)
	v.note(event{kind: eventStore, off: v.base + off, bytes: append([]byte(nil), p...)})
}

func (v *view) Store8(off int, value uint64) {
	if (v.base+off)%WordSize != 0 {
		panic("nvramtest: Store8 at an offset that is not a multiple of 8")
	}
	v.Store(off, binary.LittleEndian.AppendUint64(nil, value))
}

func (v *view) Copy(off int, p []byte) {
	v.Store(off, p)
	v.Flush(off, len(p))
}

func (v *view) Flush(off, n int) {
	_ = v.Bytes()[off : off+n]
	if v.recorder.flushes.next() {
		v.note(event{kind: eventFlush, off: v.base + off, n: n})
	}
}

func (v *view) Fence() error {
	if v.recorder.fences.next() {
		v.note(event{kind: eventFence})
	}
	return nil
}

func (v *view) note(e event) {
	e.view = v.id
	v.recorder.history = append(v.recorder.history, e)
}
