package journal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// ErrDamaged means that records which must be on the disk are missing or wrong. The report says which.
var ErrDamaged = errors.New("journal is damaged")

// maxDamage limits how many findings a report lists.
const maxDamage = 20

// Report is what Verify found on a disk.
type Report struct {
	Records int      // valid records
	Boots   []Boot   // oldest first
	Damage  []string // one sentence each, at most 20; empty on a sound disk
	Torn    bool     // the sector after the newest record holds a torn write, which was never acknowledged
}

// Boot is the part of the log that one boot of the guest wrote.
type Boot struct {
	ID        string
	First     uint64 // sequence of its first record
	Last      uint64 // sequence of its last record on the disk
	LastCount uint64 // tick counter in that record
}

// Written returns the number of records that the boot wrote, those overwritten since included.
func (b Boot) Written() uint64 { return b.Last - b.First + 1 }

// Boot finds a boot by its id.
func (r Report) Boot(id string) (Boot, bool) {
	for _, b := range r.Boots {
		if b.ID == id {
			return b, true
		}
	}
	return Boot{}, false
}

func (r *Report) damage(format string, args ...any) {
	if len(r.Damage) < maxDamage {
		r.Damage = append(r.Damage, fmt.Sprintf(format, args...))
	}
}

// Verify reads a raw disk image on the host and checks that the log has no gap and no damaged record.
// On a damaged log it returns the report together with an error that wraps ErrDamaged.
// A disk without any record is sound and reports none. Verify only reads; the guest may be running, but
// records that it writes meanwhile can then show as damage.
func Verify(path string) (Report, error) {
	f, err := os.Open(path)
	if err != nil {
		return Report{}, fmt.Errorf("verify guest disk: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Report{}, fmt.Errorf("verify guest disk: %w", err)
	}
	image := make([]byte, sectorsOf(info.Size())*SectorSize)
	if _, err := io.ReadFull(f, image); err != nil {
		return Report{}, fmt.Errorf("verify guest disk %s: %w", path, err)
	}
	report := verify(image)
	if len(report.Damage) > 0 {
		return report, fmt.Errorf("verify guest disk %s: %w: %s", path, ErrDamaged, strings.Join(report.Damage, "; "))
	}
	return report, nil
}

func verify(image []byte) Report {
	var report Report
	sectors := uint64(len(image) / SectorSize)
	records := make([]Record, sectors)
	states := make([]error, sectors)
	var newest uint64
	for s := range sectors {
		records[s], states[s] = decode(image[s*SectorSize:])
		if states[s] == nil && records[s].Sequence%sectors != s {
			states[s] = ErrCorrupt
		}
		if states[s] == nil {
			report.Records++
			newest = max(newest, records[s].Sequence)
		}
	}
	// Without a record the whole disk must be empty; with records, all that is not theirs.
	oldest, end := uint64(0), uint64(0)
	if report.Records > 0 {
		end = newest + 1
		oldest = end - min(end, sectors)
	}
	inFlight := end % max(sectors, 1)
	for seq := end; seq < oldest+sectors; seq++ {
		if s := seq % sectors; errors.Is(states[s], ErrCorrupt) {
			if report.Records > 0 && s == inFlight {
				report.Torn = true
				continue
			}
			report.damage("sector %d beyond the log is not empty", s)
		}
	}
	for seq := oldest; seq < end; seq++ {
		s := seq % sectors
		switch {
		case states[s] != nil && s == inFlight:
			report.Torn = true
		case states[s] != nil:
			report.damage("record %d: %v", seq, states[s])
		case records[s].Sequence != seq:
			report.damage("record %d is missing, its sector holds record %d", seq, records[s].Sequence)
		default:
			report.follow(records[s])
		}
	}
	return report
}

// follow adds a record, which comes in order of sequence, to the boots.
func (r *Report) follow(rec Record) {
	id := rec.Boot.String()
	if n := len(r.Boots); n > 0 && r.Boots[n-1].ID == id {
		last := &r.Boots[n-1]
		if rec.First != last.First {
			r.damage("record %d says that its boot began at %d, earlier ones say %d", rec.Sequence, rec.First, last.First)
		}
		last.Last, last.LastCount = rec.Sequence, rec.Count
		return
	}
	if _, seen := r.Boot(id); seen {
		r.damage("record %d belongs to boot %s, which had ended before", rec.Sequence, id)
	}
	if len(r.Boots) > 0 && rec.First != rec.Sequence {
		r.damage("boot %s began at record %d, its first record on the disk is %d", id, rec.First, rec.Sequence)
	}
	r.Boots = append(r.Boots, Boot{ID: id, First: rec.First, Last: rec.Sequence, LastCount: rec.Count})
}
