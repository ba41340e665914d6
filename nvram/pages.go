package nvram

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// PageSample says in how large pages the kernel maps the regions of a pool. With small ones a guest's first walk through
// its memory takes 262,144 page faults a GiB, and with huge ones 512; address translation profits likewise.
type PageSample struct {
	Unit    Bytes `json:"unit"`    // what was looked at at a time: 2 MiB, or the device's alignment
	Sampled int   `json:"sampled"` // pieces of this size
	Huge    int   `json:"huge"`    // those that the kernel mapped as one page
}

// maxSamples is how many pieces are looked at, evenly spread over all regions.
const maxSamples = 64

// MeasurePages maps samples of all regions and counts the page faults that reading them costs: one means one huge page. That is what
// the kernel does today with the extents of the file, and with a mapping that is aligned as QEMU's is; it cannot be read off
// anywhere, since /proc/PID/smaps does not count huge pages of DAX files. Without regions it samples nothing.
func (p *Pool) MeasurePages() (*PageSample, error) {
	t := p.state.Load()
	unit := max(Alignment, p.medium.align)
	sample := &PageSample{Unit: unit}
	var total int
	for i := range t.entries {
		total += int(t.entries[i].size / unit)
	}
	step := max(1, total/maxSamples)
	next := step / 2
	for i := range t.entries {
		pieces := int(t.entries[i].size / unit)
		for ; next < pieces && sample.Sampled < maxSamples; next += step {
			huge, err := p.measurePiece(&t.entries[i], Bytes(next)*unit, unit)
			if err != nil {
				return nil, inPool(p.medium.path, fmt.Errorf("measure the pages of region %q: %w", t.entries[i].name, err))
			}
			sample.Sampled++
			if huge {
				sample.Huge++
			}
		}
		next -= pieces
	}
	return sample, nil
}

// measurePiece measures one piece of a region.
func (p *Pool) measurePiece(e *entry, offset, unit Bytes) (huge bool, err error) {
	f, at := p.medium.File, e.offset+offset
	if p.disk != nil {
		if f, err = p.disk.open(e.id, false); err != nil {
			return false, err
		}
		defer f.Close() // opened to read: closing cannot lose anything
		at = offset
	}
	return mapsHuge(f, at, unit)
}

// mapsHuge maps a piece of a file at an address that a huge page can have, and tells whether the kernel uses one.
func mapsHuge(f *os.File, offset, size Bytes) (huge bool, err error) {
	// Twice the space, so that an aligned address is in it: mmap(2) knows of no alignment.
	space, err := unix.MmapPtr(-1, 0, nil, uintptr(2*size), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, unix.MunmapPtr(space, uintptr(2*size))) }()
	aligned := unsafe.Add(space, int(size)-int(uintptr(space)%uintptr(size)))
	if _, err := unix.MmapPtr(int(f.Fd()), int64(offset), aligned, uintptr(size), unix.PROT_READ, unix.MAP_SHARED|unix.MAP_FIXED); err != nil {
		return false, err
	}
	faults, err := faultsOf(func() error {
		// Not by touching: memory with an uncorrectable error would kill the process.
		return unix.Madvise(unsafe.Slice((*byte)(aligned), size), unix.MADV_POPULATE_READ)
	})
	return faults <= fewFaults, err
}

// fewFaults allows for what the Go runtime does on the same thread. In pages of 4 KiB, 2 MiB cost 512 faults on DAX and
// 32 on tmpfs, where the kernel maps 16 pages at a time.
const fewFaults = 4

// faultsOf counts the page faults of a call.
func faultsOf(call func() error) (int64, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, after unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &before); err != nil {
		return 0, err
	}
	err := call()
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &after); err != nil {
		return 0, err
	}
	return after.Minflt + after.Majflt - before.Minflt - before.Majflt, err
}
