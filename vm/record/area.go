package record

import (
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
)

// copyView is one record copy, judged.
type copyView struct {
	record Record
	err    error // nil: valid; errUnwritten: no record here; anything else: damaged
}

// copies judges both record copies.
func (a *Area) copies() [2]copyView {
	var views [2]copyView
	for i := range views {
		b := slices.Clone(a.mem.Bytes()[copyAt(uint64(i)):][:recordSize])
		r, err := decodeRecord(b, a.id.VM)
		switch {
		case err == nil && int(r.Sequence&1) != i:
			err = fmt.Errorf("sequence %d is in the wrong place", r.Sequence)
		case err == nil && r.StateLength > uint64(a.id.SlotSize):
			err = fmt.Errorf("state of %d bytes is longer than its slot", r.StateLength)
		}
		views[i] = copyView{r, err}
	}
	return views
}

// Latest returns the current record: of the valid copies the one with the
// highest sequence. A damaged or half-written other copy changes nothing,
// because a saved record is destroyed before the guest runs on. When neither
// copy is valid the error is [ErrNoRecord] and says why.
func (a *Area) Latest() (Record, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.latest()
}

func (a *Area) latest() (Record, error) {
	c := a.copies()
	switch {
	case c[0].err == nil && (c[1].err != nil || c[0].record.Sequence > c[1].record.Sequence):
		return c[0].record, nil
	case c[1].err == nil:
		return c[1].record, nil
	}
	return Record{}, fmt.Errorf("VM %q: %w (copy 0: %w; copy 1: %w)", a.id.Name, ErrNoRecord, c[0].err, c[1].err)
}

// highest returns the record to count on from: the current one or, when there
// is none, an empty one with the highest counters that the damaged copies
// show, so that a number is not used for two things if it can be helped.
func (a *Area) highest() Record {
	if r, err := a.latest(); err == nil {
		return r
	}
	best := Record{Slot: -1, Launch: LaunchRef{Index: -1}}
	for i := range uint64(2) {
		r := parseRecord(a.mem.Bytes()[copyAt(i):])
		if r.Sequence < plausible {
			best.Sequence = max(best.Sequence, r.Sequence)
		}
		if r.Generation < plausible {
			best.Generation = max(best.Generation, r.Generation)
		}
	}
	return best
}

// State returns the saved volatile state after checking its length and
// checksum. The slice is a view of the region: it must not be written to and
// holds until the next save begins.
func (a *Area) State() ([]byte, error) {
	r, err := a.Latest()
	if err != nil {
		return nil, err
	}
	if r.Status != StatusSaved {
		return nil, fmt.Errorf("VM %q is %v: %w", a.id.Name, r.Status, ErrNotSaved)
	}
	p := a.slot(r.Slot)[:r.StateLength:r.StateLength]
	if sum := crc32.Checksum(p, castagnoli); sum != r.StateCRC {
		return nil, fmt.Errorf("VM %q, generation %d: checksum of the %d bytes in slot %d is %08x, recorded is %08x: %w",
			a.id.Name, r.Generation, r.StateLength, r.Slot, sum, r.StateCRC, ErrStateCorrupt)
	}
	return p, nil
}

func (a *Area) slot(i int) []byte {
	size := int(a.id.SlotSize)
	return a.mem.Bytes()[SlotOffset+i*size:][:size]
}

// name wraps an error with the VM and the step.
func (a *Area) name(step string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, ErrBusy) {
		return fmt.Errorf("VM %q: %s: a save or another change is in progress, try again after it: %w", a.id.Name, step, err)
	}
	return fmt.Errorf("VM %q: %s: %w", a.id.Name, step, err)
}
