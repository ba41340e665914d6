package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"text/tabwriter"

	"github.com/nv-hypervisor/nv-hypervisor/lab/guest"
)

// side is one guest on both sides of the cut.
type side struct {
	last, next guest.Tick // the last tick before it, the first after
	now        guest.Tick
	intact     error // nil: memory and disk were right in every tick
	disk       guest.Report
	diskErr    error
}

// row is one line of the comparison: what was seen of each guest, and whether it is as it must be.
type row struct {
	what                 string
	persistent, volatile string
	ok                   bool
}

// compare cuts the power once more, so that the disks are at rest, and puts the guests side by side.
func (d *demo) compare(context.Context) error {
	if err := d.Cut(); err != nil {
		return err
	}
	rows := compareSides(d.side(persistent), d.side(volatile))
	d.say("")
	w := tabwriter.NewWriter(d.out, 0, 4, 2, ' ', 0)
	fmt.Fprintf(w, "\t%s (persistent)\t%s (volatile)\tas it must be\n", persistent, volatile)
	for _, r := range rows {
		mark := "yes"
		if !r.ok {
			mark = "NO"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.what, r.persistent, r.volatile, mark)
	}
	problem := wrong(rows)
	if problem == nil {
		fmt.Fprintf(w, "so the guest\tcontinued\tlost everything and was booted\t\n")
	}
	return errors.Join(w.Flush(), problem)
}

func compareSides(p, v side) []row {
	return []row{
		{"last count before the cut", fmt.Sprint(p.last.Count), fmt.Sprint(v.last.Count), p.last.Count > 0 && v.last.Count > 0},
		{"first count after it", fmt.Sprint(p.next.Count), fmt.Sprint(v.next.Count), p.next.Count == p.last.Count+1 && v.next.Count == 1},
		{"boot id before", p.last.BootID, v.last.BootID, p.last.BootID != v.last.BootID},
		{"boot id after", p.next.BootID, v.next.BootID, p.next.BootID == p.last.BootID && v.next.BootID != v.last.BootID},
		{fmt.Sprintf("checksum over %d MiB", p.now.MemoryMiB), verdict(p.now.SumOK), "of a new boot: " + verdict(v.now.SumOK),
			p.now.SumOK && v.now.SumOK && p.now.MemoryMiB >= 64},
		{"every tick since its boot", intact(p.intact), "-", p.intact == nil},
		{"disk, read on the host", diskState(p), diskState(v), p.diskErr == nil && v.diskErr == nil && p.acknowledged()},
	}
}

// wrong names the rows that are not as they must be.
func wrong(rows []row) error {
	var errs []error
	for _, r := range rows {
		if !r.ok {
			errs = append(errs, fmt.Errorf("%s: persistent %s, volatile %s", r.what, r.persistent, r.volatile))
		}
	}
	return errors.Join(errs...)
}

func (d *demo) side(name string) side {
	ticks, n := d.Ticks(name), len(d.before[name])
	s := side{last: d.before[name][n-1], next: ticks[n], now: ticks[len(ticks)-1]}
	_, s.intact = d.Continued(name)
	s.disk, s.diskErr = guest.VerifyDisk(filepath.Join(d.Dir, name+".img"))
	return s
}

// acknowledged tells whether the disk has every record that the guest reported as written.
func (s side) acknowledged() bool {
	boot, found := s.disk.Boot(s.now.BootID)
	return found && boot.Written() >= s.now.Records
}

func verdict(ok bool) string {
	if ok {
		return "right"
	}
	return "WRONG"
}

func intact(err error) string {
	if err != nil {
		return err.Error()
	}
	return "no gap, memory and disk right"
}

func diskState(s side) string {
	if s.diskErr != nil {
		return s.diskErr.Error()
	}
	boot, _ := s.disk.Boot(s.now.BootID)
	return fmt.Sprintf("consistent, %d records of this boot", boot.Written())
}
