package journal

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

const diskSectors = 64

// memory is a disk in memory whose writes can be dropped, as by a cache that the power cut emptied.
type memory struct {
	image []byte
	drop  bool
}

func (m *memory) ReadAt(p []byte, off int64) (int, error) { return copy(p, m.image[off:]), nil }

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if !m.drop {
		copy(m.image[off:], p)
	}
	return len(p), nil
}

func newDisk() *memory { return &memory{image: make([]byte, diskSectors*SectorSize)} }

func boot(t *testing.T, disk *memory, id byte) *Log {
	t.Helper()
	l, err := Open(disk, int64(len(disk.image)), BootID{id})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func fill(t *testing.T, l *Log, n int) {
	t.Helper()
	for i := range n {
		if err := l.Append(uint64(i+1), time.Unix(0, int64(i))); err != nil {
			t.Fatal(err)
		}
		if err := l.CheckNew(); err != nil {
			t.Fatal(err)
		}
	}
}

func onHost(t *testing.T, disk *memory) (Report, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(path, disk.image, 0o600); err != nil {
		t.Fatal(err)
	}
	return Verify(path)
}

func TestHostReadsWhatTheGuestWrote(t *testing.T) {
	for _, tc := range []struct{ first, second int }{{0, 1}, {1, 0}, {5, 7}, {64, 1}, {60, 100}, {200, 3}} {
		t.Run(fmt.Sprintf("%d+%d", tc.first, tc.second), func(t *testing.T) {
			disk := newDisk()
			fill(t, boot(t, disk, 1), tc.first)
			l := boot(t, disk, 2)
			fill(t, l, tc.second)
			if err := l.CheckAll(); err != nil {
				t.Error(err)
			}
			report, err := onHost(t, disk)
			if err != nil {
				t.Fatal(err)
			}
			if want := min(tc.first+tc.second, diskSectors); report.Records != want {
				t.Errorf("%d records, want %d", report.Records, want)
			}
			b, ok := report.Boot(BootID{2}.String())
			if ok != (tc.second > 0) || ok && (b.Written() != uint64(tc.second) || b.LastCount != uint64(tc.second)) {
				t.Errorf("second boot = %+v, %v", b, ok)
			}
		})
	}
}

func TestAcknowledgedButLostIsFoundByTheGuest(t *testing.T) {
	for _, before := range []int{0, 1, diskSectors, diskSectors + 9} {
		disk := newDisk()
		l := boot(t, disk, 1)
		fill(t, l, before)
		disk.drop = true
		if err := l.Append(1, time.Now()); err != nil {
			t.Fatal(err)
		}
		disk.drop = false
		if l.CheckNew() == nil {
			t.Errorf("after %d records: a dropped record went unseen by CheckNew", before)
		}
		if l.CheckAll() == nil {
			t.Errorf("after %d records: a dropped record went unseen by CheckAll", before)
		}
	}
}

// A rolled back disk: everything the guest wrote after the copy is gone.
func TestRolledBackDiskIsFoundByTheGuest(t *testing.T) {
	disk := newDisk()
	l := boot(t, disk, 1)
	fill(t, l, 10)
	copied := slices.Clone(disk.image)
	fill(t, l, 5)
	disk.image = copied
	if l.CheckNew() == nil {
		t.Error("the rollback went unseen")
	}
}

func TestHostFindsDamage(t *testing.T) {
	for name, harm := range map[string]func(image []byte){
		"flipped bit":       func(b []byte) { b[3*SectorSize+100] ^= 1 },
		"zeroed record":     func(b []byte) { clear(b[3*SectorSize : 4*SectorSize]) },
		"repeated record":   func(b []byte) { copy(b[3*SectorSize:], b[2*SectorSize:3*SectorSize]) },
		"two halves":        func(b []byte) { copy(b[3*SectorSize+256:4*SectorSize], b[2*SectorSize+256:]) },
		"garbage behind it": func(b []byte) { b[50*SectorSize] = 1 },
	} {
		disk := newDisk()
		fill(t, boot(t, disk, 1), 10)
		harm(disk.image)
		report, err := onHost(t, disk)
		if !errors.Is(err, ErrDamaged) || len(report.Damage) == 0 {
			t.Errorf("%s: %+v, %v", name, report, err)
		}
	}
}

func TestTornNewestRecordIsNoDamage(t *testing.T) {
	for _, before := range []int{10, diskSectors + 10} {
		disk := newDisk()
		fill(t, boot(t, disk, 1), before)
		at := before % diskSectors * SectorSize
		copy(disk.image[at:], bytes.Repeat([]byte{0xab}, SectorSize/2))
		report, err := onHost(t, disk)
		if err != nil || !report.Torn {
			t.Errorf("after %d records: %+v, %v", before, report, err)
		}
		l := boot(t, disk, 2)
		fill(t, l, 1)
		if report, err := onHost(t, disk); err != nil || report.Torn {
			t.Errorf("after %d records and a new boot: %+v, %v", before, report, err)
		}
	}
}

func TestForeignDiskIsLeftAlone(t *testing.T) {
	disk := newDisk()
	copy(disk.image, "QFI\xfb")
	if _, err := Open(disk, int64(len(disk.image)), BootID{}); !errors.Is(err, ErrForeign) {
		t.Errorf("Open = %v, want ErrForeign", err)
	}
	if _, err := onHost(t, disk); !errors.Is(err, ErrDamaged) {
		t.Errorf("Verify = %v, want ErrDamaged", err)
	}
}

func TestBootIDKeepsItsForm(t *testing.T) {
	const text = "6f1c2a9e-0b1d-4c53-9a52-1f0c7e0a9d11"
	id, err := ParseBootID(text + "\n")
	if err != nil || id.String() != text {
		t.Errorf("%s, %v", id, err)
	}
	if _, err := ParseBootID("12"); err == nil {
		t.Error("a short id was accepted")
	}
}

func FuzzVerify(f *testing.F) {
	disk := newDisk()
	l, err := Open(disk, int64(len(disk.image)), BootID{1})
	if err != nil {
		f.Fatal(err)
	}
	for i := range uint64(3) {
		if err := l.Append(i, time.Unix(1, 0)); err != nil {
			f.Fatal(err)
		}
	}
	f.Add(disk.image[:4*SectorSize])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, image []byte) {
		report := verify(image[:len(image)/SectorSize*SectorSize])
		if report.Records > len(image)/SectorSize {
			t.Errorf("%d records on %d bytes", report.Records, len(image))
		}
	})
}
