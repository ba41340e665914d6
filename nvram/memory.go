package nvram

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// LineSize is the unit in which a cache writes back, in bytes.
const LineSize = 64

// Memory is the only way persistent bytes are written. Offsets are in bytes from its start; one outside of it panics, as it
// would with a slice. No method allocates, logs or, unless the pool is of kind file, enters the kernel.
//
// What is stored may become persistent at any time, in any order, torn at 8-byte boundaries. It is
// persistent for certain when a Flush that covers it was followed by a Fence of the same Memory that returned nil.
type Memory interface {
	// Bytes is the content, to read. Writing to it goes round the promises of this interface.
	Bytes() []byte
	// Store writes p at off.
	Store(off int, p []byte)
	// Store8 writes v, little endian, at off, which is a multiple of 8. A power cut leaves the old or the new value.
	Store8(off int, v uint64)
	// Copy stores and flushes in one go, past the caches where that is faster. It needs no Flush, but a Fence.
	Copy(off int, p []byte)
	// Flush begins to write back n bytes at off.
	Flush(off, n int)
	// Fence waits until everything flushed before is persistent. Only kind file and memory without MAP_SYNC can fail;
	// then nothing is known about what was flushed since the last Fence that succeeded.
	Fence() error
}

// lineMemory is memory on the memory bus: a cache line flush is all it takes.
type lineMemory struct {
	data  []byte
	flush func(unsafe.Pointer, uintptr) // chosen once by CPUID
}

func (m *lineMemory) Bytes() []byte { return m.data }

func (m *lineMemory) Store(off int, p []byte) { copy(m.data[off:off+len(p)], p) }

func (m *lineMemory) Store8(off int, v uint64) { store8(m.data, off, v) }

func (m *lineMemory) Copy(off int, p []byte) {
	dst := m.data[off : off+len(p)]
	if len(p) == 0 {
		return
	}
	head := int(-uintptr(unsafe.Pointer(&dst[0])) & (LineSize - 1))
	body := (len(p) - head) &^ (LineSize - 1)
	if body <= 0 {
		copy(dst, p)
		m.flush(unsafe.Pointer(&dst[0]), uintptr(len(p)))
		return
	}
	if head > 0 {
		copy(dst[:head], p)
		m.flush(unsafe.Pointer(&dst[0]), uintptr(head))
	}
	copyNonTemporal(unsafe.Pointer(&dst[head]), unsafe.Pointer(&p[head]), uintptr(body))
	if tail := head + body; tail < len(p) {
		copy(dst[tail:], p[tail:])
		m.flush(unsafe.Pointer(&dst[tail]), uintptr(len(p)-tail))
	}
}

func (m *lineMemory) Flush(off, n int) {
	if n > 0 {
		m.flush(unsafe.Pointer(&m.data[off : off+n][0]), uintptr(n))
	}
}

func (m *lineMemory) Fence() error {
	storeFence()
	return nil
}

// syncMemory is memory behind a page cache: a fence is an msync of the pages flushed since the last one.
type syncMemory struct {
	data   []byte // starts on a page
	lo, hi int    // what was flushed since the last fence; empty if lo >= hi
}

func (m *syncMemory) Bytes() []byte { return m.data }

func (m *syncMemory) Store(off int, p []byte) { copy(m.data[off:off+len(p)], p) }

func (m *syncMemory) Store8(off int, v uint64) { store8(m.data, off, v) }

func (m *syncMemory) Copy(off int, p []byte) {
	m.Store(off, p)
	m.Flush(off, len(p))
}

func (m *syncMemory) Flush(off, n int) {
	_ = m.data[off : off+n]
	if n <= 0 {
		return
	}
	if m.lo >= m.hi {
		m.lo, m.hi = off, off+n
		return
	}
	m.lo, m.hi = min(m.lo, off), max(m.hi, off+n)
}

func (m *syncMemory) Fence() error {
	if m.lo >= m.hi {
		return nil
	}
	if err := unix.Msync(m.data[m.lo&^(pageSize-1):m.hi], unix.MS_SYNC); err != nil {
		return err
	}
	m.lo, m.hi = 0, 0
	return nil
}

// readMemory is a region of a pool that was opened read-only. To write to it is a defect of the caller.
type readMemory struct{ data []byte }

const readOnlyPanic = "nvram: write to a region of a pool that was opened read-only"

func (m readMemory) Bytes() []byte      { return m.data }
func (m readMemory) Store(int, []byte)  { panic(readOnlyPanic) }
func (m readMemory) Store8(int, uint64) { panic(readOnlyPanic) }
func (m readMemory) Copy(int, []byte)   { panic(readOnlyPanic) }
func (m readMemory) Flush(int, int)     {}
func (m readMemory) Fence() error       { return nil }

// store8 is one store instruction, which is what makes it atomic with respect to power loss.
func store8(data []byte, off int, v uint64) {
	p := unsafe.Pointer(&data[off : off+8][0])
	if uintptr(p)%8 != 0 {
		panic("nvram: Store8 at an offset that is not a multiple of 8")
	}
	atomic.StoreUint64((*uint64)(p), littleEndian(v))
}
