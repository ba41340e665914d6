package nvram

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

var pageSize = os.Getpagesize()

// Mapping is a region, mapped. It stays usable after the pool was closed, until Close.
type Mapping struct {
	Memory
	Region Region
	Sync   bool // what was flushed and fenced needed no msync: the cache line flush was enough
	window *window
}

// Populate sets up every page of the mapping, to be written, so that a later store raises no page fault. Without it the
// first save of a VM spends longer on faults than on copying.
func (m *Mapping) Populate() error {
	if err := populatePages(m.window.mapped); err != nil {
		return fmt.Errorf("populate region %s: %w", m.Region.Name, err)
	}
	return nil
}

// Close unmaps the region. Neither the mapping nor what Bytes gave may be used afterwards.
func (m *Mapping) Close() error { return m.window.close() }

// window is a mapped part of a file or device.
type window struct {
	mapped []byte // what munmap wants back
	data   []byte // what was asked for
	sync   bool   // MAP_SYNC was granted
}

func (w *window) close() error {
	if w.mapped == nil {
		return nil
	}
	err := unix.Munmap(w.mapped)
	w.mapped, w.data = nil, nil
	return err
}

// mapWindow maps n bytes at offset. Align is what the file or device wants offsets and lengths to be multiples of. Synchronous
// mappings (MAP_SYNC) are asked for and not insisted on: mmap(2) gives them on DAX only.
func mapWindow(f *os.File, offset, n, align Bytes, writable, synchronous bool) (*window, error) {
	start := offset.roundDown(align)
	length := (offset + n).roundUp(align) - start
	protection := unix.PROT_READ
	if writable {
		protection |= unix.PROT_WRITE
	}
	w := &window{}
	var err error
	if synchronous {
		w.mapped, err = unix.Mmap(int(f.Fd()), int64(start), int(length), protection, unix.MAP_SHARED_VALIDATE|unix.MAP_SYNC)
		w.sync = err == nil
	}
	if !w.sync {
		w.mapped, err = unix.Mmap(int(f.Fd()), int64(start), int(length), protection, unix.MAP_SHARED)
	}
	if err != nil {
		return nil, fmt.Errorf("map %v at %v of %s: %w", length, start, f.Name(), err)
	}
	w.data = w.mapped[offset-start:][:n:n]
	return w, nil
}

// memory gives the window the way of persistence its kind of pool has.
func (w *window) memory(kind Kind, writable bool) Memory {
	switch {
	case !writable:
		return readMemory{w.data}
	case w.flushable(kind):
		return &lineMemory{data: w.data, flush: lineFlush}
	}
	return &syncMemory{data: w.data}
}

// flushable tells whether cache line flushes are all that persistence takes. On fsdax without MAP_SYNC they are not: the
// file system may not have written yet where the blocks are.
func (w *window) flushable(kind Kind) bool {
	return lineFlush != nil && (kind == KindShm || kind == KindDevDAX || kind == KindFSDAX && w.sync)
}

// persistence names what makes a store persistent.
func (w *window) persistence(kind Kind, writable bool) string {
	switch {
	case !writable:
		return "none"
	case w.flushable(kind):
		return lineFlushName
	}
	return "msync"
}

// populateStep bounds how much is mapped at once: under mlockall a mapping is locked memory as long as it lasts.
const populateStep = 256 * MiB

// populate makes the kernel provide every page of a new file now, so that nobody has to wait, or die of SIGBUS, later. The
// pages are zero, since the file is new.
func populate(f *os.File, size, align Bytes) error {
	for at := Bytes(0); at < size; at += populateStep {
		w, err := mapWindow(f, at, min(populateStep, size-at), align, true, false)
		if err != nil {
			return err
		}
		err = populatePages(w.data)
		if err := errors.Join(err, w.close()); err != nil {
			return fmt.Errorf("populate %s: %w", f.Name(), err)
		}
	}
	return nil
}

// populatePages uses MADV_POPULATE_WRITE (Linux 5.14), which reports what a touch would die of.
func populatePages(data []byte) error {
	err := unix.Madvise(data, unix.MADV_POPULATE_WRITE)
	if err == nil || !errors.Is(err, unix.EINVAL) {
		return err
	}
	for at := 0; at < len(data); at += pageSize {
		word := (*uint32)(unsafe.Pointer(&data[at]))
		atomic.AddUint32(word, 0) // a write that changes nothing
	}
	return nil
}
