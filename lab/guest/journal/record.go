// Package journal is a log of 512-byte records on a raw disk: the guest writes it, the host reads it back.
//
// It answers one question about a disk after a power cut: is every record that the disk acknowledged still
// there? Sequence numbers grow by one for the life of the disk, across boots; record n lies in sector
// n modulo the length of the log, so a full log overwrites its oldest records. Each record names the boot
// that wrote it and that boot's first sequence number. One record is one sector and one write, so at most
// the newest record, one that was never acknowledged, can be torn.
package journal

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"time"
)

// SectorSize is the size of a record in bytes.
const SectorSize = 512

// maxSectors limits the log to the first 64 MiB of a disk, so that finding its end stays quick.
const maxSectors = 64 << 20 / SectorSize

// The two ways in which a sector is not a record.
var (
	ErrEmpty   = errors.New("sector is empty")
	ErrCorrupt = errors.New("sector is not a valid record")
)

// BootID is the kernel's boot id, /proc/sys/kernel/random/boot_id.
type BootID [16]byte

// ParseBootID reads the 36-character form.
func ParseBootID(s string) (BootID, error) {
	var id BootID
	raw, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(s), "-", ""))
	if err != nil || len(raw) != len(id) {
		return id, fmt.Errorf("boot id %q: want 32 hexadecimal digits", s)
	}
	copy(id[:], raw)
	return id, nil
}

// String gives the 36-character form.
func (id BootID) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}

// Record is one entry. On the disk, all numbers little-endian:
//
//	offset  size  field
//	0       8     "NVHGLOG1"
//	8       16    boot id
//	24      8     sequence
//	32      8     first sequence of this boot
//	40      8     count: the workload's tick counter
//	48      8     wall clock, nanoseconds since 1970
//	56      452   filler that follows from the sequence, so that two halves of different records never fit
//	508     4     CRC-32C of bytes 0 to 507
type Record struct {
	Boot     BootID
	Sequence uint64
	First    uint64
	Count    uint64
	Wall     time.Time
}

const (
	magic       = "NVHGLOG1"
	offBoot     = 8
	offSequence = 24
	offFirst    = 32
	offCount    = 40
	offWall     = 48
	offFiller   = 56
	offCRC      = SectorSize - 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encode writes the record to the first SectorSize bytes of b.
func (r Record) encode(b []byte) {
	le := binary.LittleEndian
	copy(b, magic)
	copy(b[offBoot:], r.Boot[:])
	le.PutUint64(b[offSequence:], r.Sequence)
	le.PutUint64(b[offFirst:], r.First)
	le.PutUint64(b[offCount:], r.Count)
	le.PutUint64(b[offWall:], uint64(r.Wall.UnixNano()))
	x := r.Sequence
	for i := offFiller; i < offCRC; i += 4 {
		x = x*6364136223846793005 + 1442695040888963407
		le.PutUint32(b[i:], uint32(x>>32))
	}
	le.PutUint32(b[offCRC:], crc32.Checksum(b[:offCRC], castagnoli))
}

// decode reads the first SectorSize bytes of b. Its errors are ErrEmpty and ErrCorrupt.
func decode(b []byte) (Record, error) {
	le := binary.LittleEndian
	if string(b[:8]) != magic {
		for _, c := range b[:SectorSize] {
			if c != 0 {
				return Record{}, ErrCorrupt
			}
		}
		return Record{}, ErrEmpty
	}
	if le.Uint32(b[offCRC:]) != crc32.Checksum(b[:offCRC], castagnoli) {
		return Record{}, ErrCorrupt
	}
	r := Record{
		Sequence: le.Uint64(b[offSequence:]), First: le.Uint64(b[offFirst:]), Count: le.Uint64(b[offCount:]),
		Wall: time.Unix(0, int64(le.Uint64(b[offWall:]))),
	}
	copy(r.Boot[:], b[offBoot:])
	if r.First > r.Sequence {
		return Record{}, ErrCorrupt
	}
	return r, nil
}

// sectorsOf gives the length of the log on a disk of size bytes.
func sectorsOf(size int64) uint64 {
	return min(uint64(size)/SectorSize, maxSectors)
}
