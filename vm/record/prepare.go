package record

import (
	"fmt"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
)

// Arming is what is known of a save before the outage.
type Arming struct {
	QEMUVersion   string // at most MaxQEMUVersion bytes
	BootID        UUID
	DirtyShutdown uint64
	Disks         []DiskIdentity // at most MaxDisks; their number is final, SetDisk replaces them
}

// Commit is a save that waits to happen: the free slot chosen, the record
// encoded but for what only the outage tells. It is used by one goroutine at a
// time. See commit.go for the hot half.
type Commit struct {
	area  *Area
	mem   nvram.Memory
	base  uint64 // sequence of the record this save replaces
	stage stage

	copyOffset int // of the record copy
	slotOffset int
	slotSize   int

	body [recordSize]byte
}

// Prepare arms a save of the running VM. It may be called as soon as the VM is
// marked running, and again at any time to arm with newer facts; any mark that
// follows makes the save refuse with [ErrSuperseded]. When it returns, an older
// record that a power cut spared is durably gone. All allocation is here.
func (a *Area) Prepare(known Arming) (*Commit, error) {
	const step = "prepare a save"
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.own(); err != nil {
		return nil, a.name(step, err)
	}
	turn := a.turn.Load() >> 1
	defer a.release(turn)

	now, err := a.latest()
	if err != nil {
		return nil, a.name(step, err)
	}
	if now.Sequence != turn {
		return nil, a.name(step, fmt.Errorf("sequence %d follows %d, the medium lost a record: %w", turn, now.Sequence, ErrNoRecord))
	}
	if now.Status != StatusRunning {
		return nil, a.name(step, fmt.Errorf("generation %d is %v: %w", now.Generation, now.Status, ErrNotRunning))
	}
	r := Record{
		Sequence:      now.Sequence + 1,
		Generation:    now.Generation,
		Status:        StatusSaved,
		Launch:        now.Launch,
		QEMUVersion:   known.QEMUVersion,
		RAM:           a.id.RAM,
		RAMSize:       a.id.RAMSize,
		DirtyShutdown: known.DirtyShutdown,
		BootID:        known.BootID,
		// Both slots are free while the VM runs; the other one than last time
		// keeps the last state for a post-mortem.
		Slot:  freeSlot(now.Slot),
		Disks: known.Disks,
	}
	if err := r.validate(); err != nil {
		return nil, a.name(step, err)
	}
	// A power cut may have spared the predecessor of the current record. The
	// save must find an invalid copy to write into.
	if err := a.destroy(r.Sequence); err != nil {
		return nil, a.name(step, err)
	}
	c := &Commit{
		area:       a,
		mem:        a.mem,
		base:       now.Sequence,
		copyOffset: copyAt(r.Sequence),
		slotOffset: SlotOffset + r.Slot*int(a.id.SlotSize),
		slotSize:   int(a.id.SlotSize),
	}
	copy(c.body[:], r.encode(a.id.VM))
	return c, nil
}

func freeSlot(last int) int {
	if last == 0 {
		return 1
	}
	return 0
}
