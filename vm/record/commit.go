package record

import "hash/crc32"

// The hot half of a save. What this file may import and call is enforced by
// TestHotPath: no allocation, no formatting, no locks, no system calls but
// those of the memory's own Fence.

// stage is how far a save has come.
//
//	armed ──Copy──▶ copied ──Fence──▶ durable ──Commit──▶ spent
//	  ▲              ▲  │                │
//	  │            Copy │ Fence failed   │
//	  │              │  ▼                │
//	  └───Abort───  owned  ◀────Copy─────┘
//
// Abort leads back to armed from every stage between armed and spent.
type stage uint8

const (
	stageArmed   stage = iota // owns nothing; can wait for years
	stageOwned                // owns the area; the slot holds nothing that counts
	stageCopied               // state in the slot, perhaps still in caches
	stageDurable              // the state is durable
	stageSpent                // the record is durable, or its durability is unknown after an error
)

// crcChunk is how much is checksummed at a time before it is copied, so that
// the copy reads it from the first-level cache.
const crcChunk = 16 << 10

// Slot returns the capacity of the slot, in bytes.
func (c *Commit) Slot() (capacity int) { return c.slotSize }

// Copy checksums the state and copies it to the slot; it is durable after
// Fence. From here on the save owns the area, until Commit or Abort. It may be
// repeated. [ErrSuperseded] says that the save must be prepared anew.
func (c *Commit) Copy(state []byte) error {
	switch {
	case c.stage == stageSpent:
		return ErrSuperseded
	case len(state) == 0:
		return ErrEmpty
	case len(state) > c.slotSize:
		return ErrTooLarge
	}
	if c.stage == stageArmed {
		if err := c.area.take(c.base); err != nil {
			return err
		}
	}
	c.stage = stageOwned
	sum := uint32(0)
	for at := 0; at < len(state); at += crcChunk {
		chunk := state[at:min(at+crcChunk, len(state))]
		sum = crc32.Update(sum, castagnoli, chunk)
		c.mem.Copy(c.slotOffset+at, chunk)
	}
	put64(c.body[:], stateLengthAt, uint64(len(state)))
	put32(c.body[:], stateCRCAt, sum)
	c.stage = stageCopied
	return nil
}

// SetDisk replaces the identity of disk i, as known since the guest stopped. i
// must be less than the number of disks armed with.
func (c *Commit) SetDisk(i int, d DiskIdentity) {
	if i >= 0 && i < int(c.body[diskCountAt]) {
		putDisk(c.body[:], i, d)
	}
}

// SetStep records step i of the timeline, in nanoseconds since the event; steps
// are numbered from 0 without gaps, and those from MaxSteps on are not kept.
func (c *Commit) SetStep(i int, code StepCode, startNS, endNS int64) {
	if i < 0 || i >= MaxSteps {
		return
	}
	putStep(c.body[:], i, Step{Code: code, StartNS: startNS, EndNS: endNS})
	c.body[stepCountAt] = max(c.body[stepCountAt], byte(i+1))
}

// SetOutage names the outage; beyond MaxOutage bytes the id is cut.
func (c *Commit) SetOutage(id string) {
	field := c.body[outageAt:][:MaxOutage]
	clear(field)
	c.body[outageLenAt] = byte(copy(field, id))
}

// SetTime records when the save happened: wall clock in nanoseconds since 1970
// UTC, and CLOCK_MONOTONIC of the event that caused it.
func (c *Commit) SetTime(savedAtNS, eventNS int64) {
	put64(c.body[:], savedAtAt, uint64(savedAtNS))
	put64(c.body[:], eventAt, uint64(eventNS))
}

// Fence makes the copied state durable: the first half of the commit. Where CPU
// caches are volatile, the caller writes them back between Fence and Commit.
func (c *Commit) Fence() error {
	if c.stage != stageCopied {
		return ErrOrder
	}
	if err := c.mem.Fence(); err != nil {
		c.stage = stageOwned // what was flushed may be lost: only another Copy helps
		return err
	}
	c.stage = stageDurable
	return nil
}

// Commit makes the record current: the second half. When it returns without
// error the image is durable and valid. After an error it may or may not be:
// void it or mark the VM running before the guest runs on.
func (c *Commit) Commit() error {
	if c.stage != stageDurable {
		return ErrOrder
	}
	at := c.copyOffset
	c.mem.Store(at+wordSize, c.body[wordSize:])
	c.mem.Flush(at, recordSize)
	if err := c.mem.Fence(); err != nil {
		return err // not current: the commit word is still 0
	}
	c.mem.Store8(at+wordAt, recordWord(c.body[:]))
	c.mem.Flush(at+wordAt, wordSize)
	err := c.mem.Fence()
	c.stage = stageSpent
	c.area.release(c.base + 1)
	return err
}

// Abort gives up a save that Commit has not completed. The current record
// stays; the Commit is armed again.
func (c *Commit) Abort() {
	if c.stage != stageArmed && c.stage != stageSpent {
		c.stage = stageArmed
		c.area.release(c.base)
	}
}
