package record

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
)

// Status says what the current record allows.
type Status uint8

const (
	StatusNone    Status = iota // never started
	StatusRunning               // the guest may have run since the record was written: no image
	StatusSaved                 // a complete image; no guest instruction has run since
	StatusStopped               // ended; nothing to resume
)

var statusNames = [...]string{"none", "running", "saved", "stopped"}

// String returns the word the command line shows.
func (s Status) String() string {
	if int(s) < len(statusNames) {
		return statusNames[s]
	}
	return fmt.Sprintf("status %d", uint8(s))
}

// MarshalText is String, for JSON.
func (s Status) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Record is what a record copy says. The fields from Slot to Steps describe a
// save: the image when Status is StatusSaved, and after a resume the image the
// VM came from.
type Record struct {
	Sequence   uint64 `json:"sequence"`   // counts records; the highest is current
	Generation uint64 `json:"generation"` // counts cold boots and resumes
	Status     Status `json:"status"`
	Note       string `json:"note,omitempty"` // why it is so, for people; at most MaxNote bytes

	Launch        LaunchRef   `json:"launch"`
	QEMUVersion   string      `json:"qemu_version,omitempty"` // at most MaxQEMUVersion bytes
	RAM           nvram.ID    `json:"ram"`
	RAMSize       nvram.Bytes `json:"ram_size"`
	DirtyShutdown uint64      `json:"dirty_shutdown"` // the DIMM's dirty-shutdown count; 0 where there is none
	BootID        UUID        `json:"boot_id"`        // the host's boot id, which EventNS belongs to

	Slot        int            `json:"slot"`         // -1: none
	StateLength uint64         `json:"state_length"` // bytes
	StateCRC    uint32         `json:"state_crc"`    // CRC32C
	SavedAt     time.Time      `json:"saved_at"`
	EventNS     int64          `json:"event_monotonic_ns"` // CLOCK_MONOTONIC of the event that caused the save
	Outage      string         `json:"outage,omitempty"`   // its id; at most MaxOutage bytes
	Disks       []DiskIdentity `json:"disks,omitempty"`    // at most MaxDisks
	Steps       []Step         `json:"steps,omitempty"`    // at most MaxSteps
}

// LaunchRef names a launch record by place and content.
type LaunchRef struct {
	Index  int    `json:"index"` // 0 or 1; -1: none
	SHA256 Digest `json:"sha256"`
}

// DiskIdentity is what tells a disk image from a changed or exchanged one.
type DiskIdentity struct {
	Device   uint64 `json:"device"` // st_dev; for information: it may differ after a host boot
	Inode    uint64 `json:"inode"`
	Size     uint64 `json:"size"` // bytes
	MtimeNS  int64  `json:"mtime_ns"`
	PathHash uint64 `json:"path_hash"` // HashPath of its path
}

// HashPath condenses a path for DiskIdentity: the first 8 bytes of its SHA-256.
func HashPath(path string) uint64 {
	sum := sha256.Sum256([]byte(path))
	return get64(sum[:], 0)
}

// Step is one step of a save, in nanoseconds since the event. EndNS is 0 for a
// step that had not ended when the record was written, as the commit itself.
type Step struct {
	Code    StepCode `json:"step"`
	StartNS int64    `json:"start_ns"`
	EndNS   int64    `json:"end_ns"`
}

// StepCode names a step of a save.
type StepCode uint8

const (
	StepWake   StepCode = iota + 1 // event to the first thread that acts on it
	StepStop                       // vCPUs stopped, disks drained and flushed
	StepDump                       // QEMU writes the volatile state
	StepCheck                      // the state's own framing is verified
	StepCopy                       // checksum, and copy to the slot
	StepFlush                      // CPU caches written back
	StepCommit                     // this record
)

var stepNames = [...]string{"", "wake", "stop", "dump", "check", "copy", "flush", "commit"}

// String returns the name that timelines and metrics use.
func (c StepCode) String() string {
	if c > 0 && int(c) < len(stepNames) {
		return stepNames[c]
	}
	return fmt.Sprintf("step %d", uint8(c))
}

// MarshalText is String, for JSON.
func (c StepCode) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UUID is 16 bytes, shown as 8-4-4-4-12 hexadecimal digits.
type UUID [16]byte

// String returns the canonical form.
func (u UUID) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// MarshalText is String, for JSON.
func (u UUID) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// Digest is a SHA-256.
type Digest [sha256.Size]byte

// String returns hexadecimal digits.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// MarshalText is String, for JSON.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// validate reports whether the record fits its place.
func (r *Record) validate() error {
	for _, f := range []struct {
		name      string
		have, max int
	}{
		{"note", len(r.Note), MaxNote},
		{"outage id", len(r.Outage), MaxOutage},
		{"QEMU version", len(r.QEMUVersion), MaxQEMUVersion},
		{"list of disks", len(r.Disks), MaxDisks},
		{"list of steps", len(r.Steps), MaxSteps},
	} {
		if f.have > f.max {
			return fmt.Errorf("%s has length %d, at most %d fits: %w", f.name, f.have, f.max, ErrTooLarge)
		}
	}
	return nil
}

// encode returns the bytes of a record that validate accepts, without its
// commit word.
func (r *Record) encode(vm UUID) []byte {
	b := make([]byte, recordSize)
	put64(b, magicAt, recordMagic)
	put64(b, sequenceAt, r.Sequence)
	put64(b, generationAt, r.Generation)
	copy(b[vmAt:], vm[:])
	b[statusAt] = byte(r.Status)
	b[noteLenAt] = byte(copy(b[noteAt:][:MaxNote], r.Note))
	b[outageLenAt] = byte(copy(b[outageAt:][:MaxOutage], r.Outage))
	b[qemuLenAt] = byte(copy(b[qemuAt:][:MaxQEMUVersion], r.QEMUVersion))
	b[diskCountAt] = byte(len(r.Disks))
	b[stepCountAt] = byte(len(r.Steps))
	b[slotAt] = byte(r.Slot) // -1 is none
	b[launchIndexAt] = byte(r.Launch.Index)
	put64(b, stateLengthAt, r.StateLength)
	put32(b, stateCRCAt, r.StateCRC)
	if !r.SavedAt.IsZero() {
		put64(b, savedAtAt, uint64(r.SavedAt.UnixNano()))
	}
	put64(b, eventAt, uint64(r.EventNS))
	put64(b, dirtyShutdownAt, r.DirtyShutdown)
	copy(b[bootIDAt:], r.BootID[:])
	copy(b[ramAt:], r.RAM[:])
	put64(b, ramSizeAt, uint64(r.RAMSize))
	copy(b[launchSHAAt:], r.Launch.SHA256[:])
	for i, d := range r.Disks {
		putDisk(b, i, d)
	}
	for i, s := range r.Steps {
		putStep(b, i, s)
	}
	return b
}

// errUnwritten: the commit word is 0. That is no damage: nothing was ever
// written here, a write was cut short, or the record was destroyed on purpose.
var errUnwritten = errors.New("not written")

// decodeRecord judges one record copy of the VM.
func decodeRecord(b []byte, vm UUID) (Record, error) {
	word := get64(b, wordAt)
	switch {
	case word == 0:
		return Record{}, errUnwritten
	case word != recordWord(b):
		return Record{}, errors.New("checksum is wrong")
	case get64(b, magicAt) != recordMagic:
		return Record{}, errors.New("not a record")
	case UUID(b[vmAt:]) != vm:
		return Record{}, fmt.Errorf("belongs to VM %v", UUID(b[vmAt:]))
	}
	r := parseRecord(b)
	if err := r.consistent(); err != nil {
		return Record{}, err
	}
	// One record has one encoding: lengths out of range or bytes where none
	// belong do not survive this.
	if !bytes.Equal(r.encode(vm)[wordSize:], b[wordSize:recordSize]) {
		return Record{}, errors.New("fields out of range")
	}
	return r, nil
}

// parseRecord reads the fields as far as they fit, believing nothing.
func parseRecord(b []byte) Record {
	text := func(at, lenAt, limit int) string { return string(b[at:][:min(int(b[lenAt]), limit)]) }
	r := Record{
		Sequence:      get64(b, sequenceAt),
		Generation:    get64(b, generationAt),
		Status:        Status(b[statusAt]),
		Note:          text(noteAt, noteLenAt, MaxNote),
		Launch:        LaunchRef{Index: index(b[launchIndexAt]), SHA256: Digest(b[launchSHAAt:])},
		QEMUVersion:   text(qemuAt, qemuLenAt, MaxQEMUVersion),
		RAM:           nvram.ID(b[ramAt:]),
		RAMSize:       nvram.Bytes(get64(b, ramSizeAt)),
		DirtyShutdown: get64(b, dirtyShutdownAt),
		BootID:        UUID(b[bootIDAt:]),
		Slot:          index(b[slotAt]),
		StateLength:   get64(b, stateLengthAt),
		StateCRC:      get32(b, stateCRCAt),
		EventNS:       int64(get64(b, eventAt)),
		Outage:        text(outageAt, outageLenAt, MaxOutage),
	}
	if ns := int64(get64(b, savedAtAt)); ns != 0 {
		r.SavedAt = time.Unix(0, ns).UTC()
	}
	for i := range min(int(b[diskCountAt]), MaxDisks) {
		r.Disks = append(r.Disks, getDisk(b, i))
	}
	for i := range min(int(b[stepCountAt]), MaxSteps) {
		r.Steps = append(r.Steps, getStep(b, i))
	}
	return r
}

func index(b byte) int {
	if b == none {
		return -1
	}
	return int(b)
}

// plausible bounds the counters believed: no VM has seen as many events.
const plausible = 1 << 40

// consistent rejects what no version of this package has ever written.
func (r *Record) consistent() error {
	switch {
	case int(r.Status) >= len(statusNames):
		return fmt.Errorf("unknown %v", r.Status)
	case r.Sequence == 0 || r.Sequence >= plausible || r.Generation >= plausible:
		return fmt.Errorf("counters out of range: sequence %d, generation %d", r.Sequence, r.Generation)
	case r.Slot > 1:
		return fmt.Errorf("unknown slot %d", r.Slot)
	case r.Launch.Index > 1:
		return fmt.Errorf("unknown launch record %d", r.Launch.Index)
	case r.Status == StatusSaved && (r.Slot < 0 || r.Launch.Index < 0 || r.StateLength == 0):
		return errors.New("saved without a state")
	case r.Status == StatusRunning && r.Launch.Index < 0:
		return errors.New("running without a launch record")
	}
	return nil
}
