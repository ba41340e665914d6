package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
	"unsafe"
)

// Device is the disk as the guest opens it. WriteAt returns only when the disk has acknowledged the data
// as durable (O_DSYNC), and ReadAt asks the disk, not the page cache (O_DIRECT).
type Device interface {
	io.ReaderAt
	io.WriterAt
}

// chunkSectors is how much is read at once when many records are checked.
const chunkSectors = 256

// alignment of buffers given to a device opened with O_DIRECT.
const alignment = 4096

// ErrForeign means that the disk holds something that is not a journal and is left untouched.
var ErrForeign = errors.New("disk holds other data, give the guest an empty raw image")

// Log is the writing side. It is not safe for concurrent use. Everything it knows about acknowledged
// records is in memory: after a power cut that keeps memory, that knowledge is compared with the disk.
type Log struct {
	dev     Device
	sectors uint64
	boot    BootID
	first   uint64 // sequence of this boot's first record
	next    uint64 // sequence of the next record; all before it are acknowledged
	checked uint64 // records before it have been read back
	chunk   []byte
}

// Open finds the end of the log on a disk of size bytes and prepares to append to it.
func Open(dev Device, size int64, boot BootID) (*Log, error) {
	sectors := sectorsOf(size)
	if sectors == 0 {
		return nil, fmt.Errorf("journal on a disk of %d bytes: want at least %d", size, SectorSize)
	}
	l := &Log{dev: dev, sectors: sectors, boot: boot, chunk: aligned(chunkSectors * SectorSize)}
	next, err := l.findEnd()
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	l.first, l.next, l.checked = next, next, next
	return l, nil
}

// Records returns how many records of this boot the disk has acknowledged.
func (l *Log) Records() uint64 { return l.next - l.first }

// Append writes the next record and returns when the disk has acknowledged it.
func (l *Log) Append(count uint64, wall time.Time) error {
	sector := l.chunk[:SectorSize]
	Record{Boot: l.boot, Sequence: l.next, First: l.first, Count: count, Wall: wall}.encode(sector)
	if _, err := l.dev.WriteAt(sector, int64(l.next%l.sectors)*SectorSize); err != nil {
		return fmt.Errorf("journal: write record %d: %w", l.next, err)
	}
	l.next++
	return nil
}

// CheckNew reads back what was appended since the last check, and the record before it.
func (l *Log) CheckNew() error {
	from := l.checked
	if from > l.first {
		from--
	}
	return l.check(from)
}

// CheckAll reads back every record of this boot that the log still holds.
func (l *Log) CheckAll() error { return l.check(l.first) }

func (l *Log) check(from uint64) error {
	if l.next > l.sectors {
		from = max(from, l.next-l.sectors)
	}
	for seq := from; seq < l.next; {
		n := min(l.next-seq, chunkSectors, l.sectors-seq%l.sectors)
		buf := l.chunk[:n*SectorSize]
		if _, err := l.dev.ReadAt(buf, int64(seq%l.sectors)*SectorSize); err != nil {
			return fmt.Errorf("journal: read record %d: %w", seq, err)
		}
		for i := range n {
			r, err := decode(buf[i*SectorSize:])
			if err != nil {
				return fmt.Errorf("journal: acknowledged record %d: %w", seq+i, err)
			}
			if r.Boot != l.boot || r.Sequence != seq+i {
				return fmt.Errorf("journal: acknowledged record %d is missing, found record %d of boot %s", seq+i, r.Sequence, r.Boot)
			}
		}
		seq += n
	}
	l.checked = l.next
	return nil
}

// findEnd returns the sequence after the newest valid record. It looks only at magic and sequence of most
// sectors, since a checksum of each would take long under binary translation, and verifies the newest.
func (l *Log) findEnd() (uint64, error) {
	var newest uint64
	var found, foreign bool
	for start := uint64(0); start < l.sectors; start += chunkSectors {
		n := min(chunkSectors, l.sectors-start)
		buf := l.chunk[:n*SectorSize]
		if _, err := l.dev.ReadAt(buf, int64(start)*SectorSize); err != nil {
			return 0, fmt.Errorf("read sector %d: %w", start, err)
		}
		for i := range n {
			b := buf[i*SectorSize : (i+1)*SectorSize]
			seq := binary.LittleEndian.Uint64(b[offSequence:])
			switch {
			case string(b[:8]) != magic:
				foreign = foreign || binary.LittleEndian.Uint64(b) != 0
			case seq%l.sectors == start+i && (!found || seq > newest):
				if _, err := decode(b); err == nil {
					newest, found = seq, true
				}
			}
		}
	}
	if found {
		return newest + 1, nil
	}
	if foreign {
		return 0, ErrForeign
	}
	return 0, nil
}

func aligned(n int) []byte {
	raw := make([]byte, n+alignment)
	skip := alignment - int(uintptr(unsafe.Pointer(unsafe.SliceData(raw)))%alignment)
	return raw[skip : skip+n : skip+n]
}
