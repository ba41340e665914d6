package nvram

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"time"
)

// The bytes of a pool's metadata, all little endian. They start the file nvram.meta of a directory, or the device or file
// of a single pool. This file is the only place that knows them.
//
//	     0 ┌──────────────────────────────────────────────┐
//	       │ head: magic "NVHPOOL\0", version u32,        │  never changes; every version of the format begins so
//	       │       CRC32C u32 of the 12 bytes before      │
//	    64 ├──────────────────────────────────────────────┤
//	       │ selector u64: sequence (48 bits) and, above, │  the one 8-byte store that commits a change;
//	       │       16 bits of the sequence's CRC32C       │  0 until the pool is initialised
//	  4096 ├──────────────────────────────────────────────┤
//	       │ copy 0: header 256, then count entries of 128│  the committed one when the sequence is even
//	139264 ├──────────────────────────────────────────────┤
//	       │ copy 1: the same                             │  the committed one when the sequence is odd
//	274432 ├──────────────────────────────────────────────┤
//	       │ nothing, up to the next multiple of the unit │
//	       ├──────────────────────────────────────────────┤
//	       │ single pools: extents, one a region          │
//	       └──────────────────────────────────────────────┘
//
//	header                                     entry
//	 0  magic "NVHTABLE"                         0  region ID
//	 8  CRC32C u32 of all that follows,         16  size u64
//	    through the last entry                  24  offset u64 (0 in a directory)
//	12  version u32                             32  inode u64 (0 in a single pool)
//	16  sequence u64                            40  birth time of the inode, i64 ns (0: not known)
//	24  pool ID                                 48  created, i64 ns since 1970
//	40  size u64: capacity or quota             56  use u8: 1 ram, 2 state, 3 user
//	48  unit u64: regions are multiples of it   57  length of the name u8
//	56  created, i64 ns since 1970              58  zero
//	64  kind u8: 1 shm 2 fsdax 3 devdax 4 file  64  name, then zeros
//	65  layout u8: 1 directory 2 single
//	66  zero
//	68  count u32
//	72  zero
//
// A change writes the copy that is not committed, flushes and fences it, stores the selector, flushes and fences
// that, and then writes the other copy alike, so that at rest both copies are equal and either may be lost.
const (
	formatVersion = 1

	headOffset     = 0
	headSize       = 16
	selectorOffset = 64 // a cache line of its own
	copyStart      = 4096
	headerSize     = 256
	entrySize      = 128
	copySize       = (headerSize + MaxRegions*entrySize + 4095) &^ 4095
	metadataSize   = copyStart + 2*copySize

	headMagic  = "NVHPOOL\x00"
	tableMagic = "NVHTABLE"

	smallestUnit = 4096
)

var (
	wire       = binary.LittleEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)

	kindCodes   = map[Kind]byte{KindShm: 1, KindFSDAX: 2, KindDevDAX: 3, KindFile: 4}
	layoutCodes = map[Layout]byte{LayoutDirectory: 1, LayoutSingle: 2}
	useCodes    = map[Use]byte{UseRAM: 1, UseState: 2, UseUser: 3}
)

func copyOffset(copy uint64) int { return copyStart + int(copy&1)*copySize }

// dataStart is where the extents of a single pool begin.
func dataStart(unit Bytes) Bytes { return Bytes(metadataSize).roundUp(unit) }

func encodeHead() []byte {
	b := make([]byte, headSize)
	copy(b, headMagic)
	wire.PutUint32(b[8:], formatVersion)
	wire.PutUint32(b[12:], headChecksum(b))
	return b
}

func headChecksum(head []byte) uint32 { return crc32.Checksum(head[:12], castagnoli) }

const sequenceMask = 1<<48 - 1

func selectorWord(sequence uint64) uint64 {
	var b [8]byte
	wire.PutUint64(b[:], sequence)
	return uint64(crc32.Checksum(b[:], castagnoli))<<48 | sequence&sequenceMask
}

// decodeSelector gives the committed sequence, and whether the word is sound.
func decodeSelector(word uint64) (uint64, bool) {
	sequence := word & sequenceMask
	return sequence, sequence != 0 && selectorWord(sequence) == word
}

// encodeTable gives one copy: header and entries. The same table gives the same bytes.
func encodeTable(t *table) []byte {
	b := make([]byte, headerSize+len(t.entries)*entrySize)
	copy(b, tableMagic)
	wire.PutUint32(b[12:], formatVersion)
	wire.PutUint64(b[16:], t.sequence)
	copy(b[24:40], t.id[:])
	wire.PutUint64(b[40:], uint64(t.size))
	wire.PutUint64(b[48:], uint64(t.unit))
	wire.PutUint64(b[56:], uint64(t.created.UnixNano()))
	b[64] = kindCodes[t.kind]
	b[65] = layoutCodes[t.layout]
	wire.PutUint32(b[68:], uint32(len(t.entries)))
	for i := range t.entries {
		encodeEntry(b[headerSize+i*entrySize:][:entrySize], &t.entries[i])
	}
	wire.PutUint32(b[8:], crc32.Checksum(b[12:], castagnoli))
	return b
}

func encodeEntry(b []byte, e *entry) {
	copy(b, e.id[:])
	wire.PutUint64(b[16:], uint64(e.size))
	wire.PutUint64(b[24:], uint64(e.offset))
	wire.PutUint64(b[32:], e.inode)
	wire.PutUint64(b[40:], uint64(e.birth))
	wire.PutUint64(b[48:], uint64(e.created.UnixNano()))
	b[56] = useCodes[e.use]
	b[57] = byte(len(e.name))
	copy(b[64:], e.name)
}

// decodeTable reads one copy. Its error wraps ErrCorrupt, or ErrNewerVersion. The table it returns passed table.check.
func decodeTable(b []byte) (*table, error) {
	if string(b[:8]) != tableMagic {
		return nil, corrupt("no table header")
	}
	count := wire.Uint32(b[68:])
	if count > MaxRegions {
		return nil, corrupt("%d entries where %d is the most", count, MaxRegions)
	}
	b = b[:headerSize+int(count)*entrySize]
	if crc32.Checksum(b[12:], castagnoli) != wire.Uint32(b[8:]) {
		return nil, corrupt("checksum differs")
	}
	if version := wire.Uint32(b[12:]); version != formatVersion {
		return nil, newerVersion(version)
	}
	t := &table{
		sequence: wire.Uint64(b[16:]),
		id:       ID(b[24:40]),
		size:     Bytes(wire.Uint64(b[40:])),
		unit:     Bytes(wire.Uint64(b[48:])),
		created:  time.Unix(0, int64(wire.Uint64(b[56:]))),
		kind:     lookUp(kindCodes, b[64]),
		layout:   lookUp(layoutCodes, b[65]),
	}
	if !allZero(b[66:68]) || !allZero(b[72:headerSize]) {
		return nil, corrupt("header has bytes this version does not know")
	}
	for i := range int(count) {
		e, err := decodeEntry(b[headerSize+i*entrySize:][:entrySize])
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", i, err)
		}
		t.entries = append(t.entries, e)
	}
	return t, t.check()
}

func decodeEntry(b []byte) (entry, error) {
	length := int(b[57])
	if length > MaxNameLength || !allZero(b[58:64]) || !allZero(b[64+length:]) {
		return entry{}, corrupt("bytes this version does not know")
	}
	return entry{
		id:      ID(b[:16]),
		size:    Bytes(wire.Uint64(b[16:])),
		offset:  Bytes(wire.Uint64(b[24:])),
		inode:   wire.Uint64(b[32:]),
		birth:   int64(wire.Uint64(b[40:])),
		created: time.Unix(0, int64(wire.Uint64(b[48:]))),
		use:     lookUp(useCodes, b[56]),
		name:    string(b[64 : 64+length]),
	}, nil
}

// lookUp gives the name of a code, or "" for one that is not known, which table.check refuses.
func lookUp[K ~string](codes map[K]byte, code byte) K {
	for name, c := range codes {
		if c == code {
			return name
		}
	}
	return ""
}

func allZero(b []byte) bool {
	for len(b) > 0 {
		n := min(len(b), len(zeros))
		if !bytes.Equal(b[:n], zeros[:n]) {
			return false
		}
		b = b[n:]
	}
	return true
}

func corrupt(format string, args ...any) error {
	return &problem{kind: ErrCorrupt, detail: fmt.Sprintf(format, args...)}
}

func newerVersion(version uint32) error {
	return &problem{ErrNewerVersion, fmt.Sprintf("format version %d, this program knows %d", version, formatVersion),
		"open it with the newer version of NV-Hypervisor that made it"}
}
