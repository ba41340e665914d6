package handles

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"unsafe"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
)

// region is mapped memory of a pool.
type region struct {
	address  uintptr
	size     nvram.Bytes
	readOnly bool
	unmap    func() error

	mu     sync.Mutex   // a Memory is for one goroutine at a time
	memory nvram.Memory // guarded by mu
}

func (t *Table) mapRegion(p *pool, name string) (*region, error) {
	p.mapping.Lock()
	defer p.mapping.Unlock()
	if r, ok := p.mapped[name]; ok {
		return r, nil
	}
	if err := p.ours(name); err != nil {
		return nil, err
	}
	m, err := p.Pool.Map(name)
	if err != nil {
		return nil, err
	}
	r := &region{
		address:  uintptr(unsafe.Pointer(unsafe.SliceData(m.Bytes()))),
		size:     m.Region.Size,
		readOnly: p.readOnly,
		unmap:    m.Close,
		memory:   m.Memory,
	}
	t.add(r)
	p.mapped[name] = r
	return r, nil
}

func (t *Table) add(r *region) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i, _ := t.search(r.address)
	t.regions = slices.Insert(t.regions, i, r)
}

func (t *Table) unmap(r *region) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i, ok := t.search(r.address); ok {
		t.regions = slices.Delete(t.regions, i, i+1)
	}
	return r.unmap() // under the lock: before the address can belong to another mapping, it is out of the list
}

// search gives the place of the region that starts at the address. The caller holds t.mu.
func (t *Table) search(address uintptr) (int, bool) {
	return slices.BinarySearchFunc(t.regions, address, func(r *region, a uintptr) int { return cmp.Compare(r.address, a) })
}

// Persist makes size bytes at the address persistent: what was stored there before, in a way this thread knows of, survives what the
// kind of the pool survives. The bytes are within one mapped region, or nothing happens and the error wraps ErrNotMapped.
func (t *Table) Persist(address uintptr, size nvram.Bytes) error {
	t.mu.RLock()
	defer t.mu.RUnlock()
	r := t.find(address, size)
	if r == nil {
		return fmt.Errorf("%d bytes at %#x: %w; persist what nv_alloc or nv_map gave, until nv_free or nv_close", uint64(size), address, ErrNotMapped)
	}
	return r.persist(int(address-r.address), int(size))
}

// find gives the region that holds all the bytes. The caller holds t.mu.
func (t *Table) find(address uintptr, size nvram.Bytes) *region {
	i, starts := t.search(address)
	if !starts {
		i--
	}
	if i < 0 {
		return nil
	}
	r := t.regions[i]
	offset := nvram.Bytes(address - r.address)
	if offset > r.size || size > r.size-offset {
		return nil
	}
	return r
}

func (r *region) persist(offset, size int) error {
	if r.readOnly {
		return fmt.Errorf("%w; open the pool without NV_RDONLY to write to it", nvram.ErrReadOnly)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.memory.Flush(offset, size)
	if err := r.memory.Fence(); err != nil {
		return fmt.Errorf("%d bytes at %d of a region: %w; what is persistent of them is not known, see the kernel's log about the device, and write them again",
			size, offset, err)
	}
	return nil
}
