package record

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
)

// A state region, in bytes from its start. Integers are little endian,
// checksums CRC32C, strings UTF-8 with their length elsewhere, reserved bytes 0.
//
//	      0 ┌──────────────────────────────┐
//	        │ header                 4 KiB │ written by Format, never again
//	  4 KiB ├──────────────────────────────┤
//	        │ record copy 0          4 KiB │ records with an even sequence
//	  8 KiB ├──────────────────────────────┤
//	        │ record copy 1          4 KiB │ records with an odd sequence
//	 12 KiB ├──────────────────────────────┤
//	        │ reserved                     │
//	 64 KiB ├──────────────────────────────┤
//	        │ launch record 0      256 KiB │
//	320 KiB ├──────────────────────────────┤
//	        │ launch record 1      256 KiB │
//	576 KiB ├──────────────────────────────┤
//	        │ reserved                     │
//	  1 MiB ├──────────────────────────────┤
//	        │ slot 0: volatile state       │ slot size, a multiple of 4 KiB
//	        ├──────────────────────────────┤
//	        │ slot 1: volatile state       │
//	        └──────────────────────────────┘ RegionSize, a multiple of 2 MiB
//
// Header:
//
//	 0 magic "NVHSTATE"     8 commit word      16 version (4), reserved (4)
//	24 VM UUID (16)        40 RAM region (16)  56 RAM size     64 slot size
//	72 name length (1), reserved (7)           80 name (64)   144 reserved
//
// Record copy (the first 1536 bytes are used):
//
//	  0 commit word          8 magic "NVHRECRD"   16 sequence     24 generation
//	 32 VM UUID (16)        48 status, note length, outage length, QEMU version
//	                           length, disks, steps, slot, launch copy (1 each)
//	 56 state length        64 state CRC32C (4), reserved (4)
//	 72 saved at, ns since 1970 UTC              80 event, ns of CLOCK_MONOTONIC
//	 88 dirty shutdowns     96 boot id (16)     112 RAM region (16)  128 RAM size
//	136 reserved           144 launch SHA-256 (32)
//	176 note (64)          240 outage (64)      304 QEMU version (128) 432 reserved
//	448 16 disks of 40: device, inode, size, mtime ns, path hash
//	1088 12 steps of 24: code, start ns, end ns          1376 reserved
//
// Launch record: 0 magic "NVHLAUNC", 8 length, 16 reserved, 32 SHA-256, 64 bytes.
//
// A commit word is stored last, in one 8-byte store, and makes what it stands
// in valid; 0 makes it invalid. Its low half is the CRC32C of all other bytes;
// its high half is never 0: "STAT" in the header, and the low 31 bits of the
// sequence below a set bit in a record.
const (
	layoutVersion = 1

	headerSize = 4 << 10

	copyOffset   = 4 << 10
	copyDistance = 4 << 10
	recordSize   = 1536

	launchOffset   = 64 << 10
	launchDistance = 256 << 10
	launchPrefix   = 64

	// SlotOffset is where slot 0 begins, in bytes from the start of the region.
	SlotOffset = 1 << 20
	slotUnit   = 4 << 10

	// MaxLaunch is the size of the largest launch record, in bytes.
	MaxLaunch = launchDistance - launchPrefix

	wordSize = 8
)

// Limits of the fields of a record.
const (
	MaxName        = 63  // bytes of a VM's name
	MaxNote        = 64  // bytes of Record.Note
	MaxOutage      = 64  // bytes of Record.Outage
	MaxQEMUVersion = 128 // bytes of Record.QEMUVersion
	MaxDisks       = 16
	MaxSteps       = 12
)

const (
	headerMagic = 0x45544154_5348564e // "NVHSTATE"
	headerTag   = 0x54415453          // "STAT", the high half of the header's commit word
	recordMagic = 0x44524345_5248564e // "NVHRECRD"
	launchMagic = 0x434e5541_4c48564e // "NVHLAUNC"

	none = 0xff // no slot, no launch record
)

// Offsets in the header.
const (
	headerMagicAt   = 0
	headerWordAt    = 8
	headerVersionAt = 16
	headerVMAt      = 24
	headerRAMAt     = 40
	headerRAMSizeAt = 56
	headerSlotAt    = 64
	headerNameLenAt = 72
	headerNameAt    = 80
)

// Offsets in a record copy.
const (
	wordAt          = 0
	magicAt         = 8
	sequenceAt      = 16
	generationAt    = 24
	vmAt            = 32
	statusAt        = 48
	noteLenAt       = 49
	outageLenAt     = 50
	qemuLenAt       = 51
	diskCountAt     = 52
	stepCountAt     = 53
	slotAt          = 54
	launchIndexAt   = 55
	stateLengthAt   = 56
	stateCRCAt      = 64
	savedAtAt       = 72
	eventAt         = 80
	dirtyShutdownAt = 88
	bootIDAt        = 96
	ramAt           = 112
	ramSizeAt       = 128
	launchSHAAt     = 144
	noteAt          = 176
	outageAt        = 240
	qemuAt          = 304
	disksAt         = 448
	diskSize        = 40
	stepsAt         = 1088
	stepSize        = 24
)

// Offsets in a launch record.
const (
	launchMagicAt  = 0
	launchLengthAt = 8
	launchSHA256At = 32
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// RegionSize is the size of the region that holds slots of the given size: a
// multiple of [nvram.Alignment].
func RegionSize(slot nvram.Bytes) nvram.Bytes {
	const unit = nvram.Alignment
	return (SlotOffset + 2*slot + unit - 1) / unit * unit
}

// copyAt is where the record with this sequence lives: the copy its
// predecessor does not occupy.
func copyAt(sequence uint64) int {
	return copyOffset + int(sequence&1)*copyDistance
}

func launchAt(index int) int { return launchOffset + index*launchDistance }

// headerWord is the commit word of a header of headerSize bytes.
func headerWord(b []byte) uint64 {
	sum := crc32.Update(0, castagnoli, b[:headerWordAt])
	sum = crc32.Update(sum, castagnoli, b[headerWordAt+wordSize:headerSize])
	return headerTag<<32 | uint64(sum)
}

// recordWord is the commit word of a record of recordSize bytes.
func recordWord(b []byte) uint64 {
	sequence := get64(b, sequenceAt)
	sum := crc32.Update(0, castagnoli, b[wordAt+wordSize:recordSize])
	return 1<<63 | sequence<<33>>1 | uint64(sum)
}

func put64(b []byte, at int, v uint64) { binary.LittleEndian.PutUint64(b[at:], v) }
func put32(b []byte, at int, v uint32) { binary.LittleEndian.PutUint32(b[at:], v) }
func get64(b []byte, at int) uint64    { return binary.LittleEndian.Uint64(b[at:]) }
func get32(b []byte, at int) uint32    { return binary.LittleEndian.Uint32(b[at:]) }

func putDisk(b []byte, i int, d DiskIdentity) {
	at := disksAt + i*diskSize
	put64(b, at, d.Device)
	put64(b, at+8, d.Inode)
	put64(b, at+16, d.Size)
	put64(b, at+24, uint64(d.MtimeNS))
	put64(b, at+32, d.PathHash)
}

func getDisk(b []byte, i int) DiskIdentity {
	at := disksAt + i*diskSize
	return DiskIdentity{
		Device:   get64(b, at),
		Inode:    get64(b, at+8),
		Size:     get64(b, at+16),
		MtimeNS:  int64(get64(b, at+24)),
		PathHash: get64(b, at+32),
	}
}

func putStep(b []byte, i int, s Step) {
	at := stepsAt + i*stepSize
	put64(b, at, uint64(s.Code))
	put64(b, at+8, uint64(s.StartNS))
	put64(b, at+16, uint64(s.EndNS))
}

func getStep(b []byte, i int) Step {
	at := stepsAt + i*stepSize
	return Step{
		Code:    StepCode(get64(b, at)),
		StartNS: int64(get64(b, at+8)),
		EndNS:   int64(get64(b, at+16)),
	}
}
