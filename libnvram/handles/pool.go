package handles

import (
	"errors"
	"fmt"
	"sync"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
)

// Table holds what the process has open. Its zero value holds nothing.
type Table struct {
	mu      sync.RWMutex // taken to read for as long as a Persist lasts, so that no memory is unmapped under it
	pools   map[uint64]*pool
	last    uint64
	regions []*region // in the order of their addresses
}

// pool is an open pool and what is mapped of it.
type pool struct {
	*nvram.Pool
	readOnly bool
	calls    sync.RWMutex // taken to read by every call, and to write by Close, which so waits for them
	closed   bool         // guarded by calls

	mapping sync.Mutex // guards mapped, and makes looking there and mapping one step
	mapped  map[string]*region
}

// Open opens a pool as nvram.Open or nvram.OpenReadOnly does, and numbers it. The number is not 0.
func (t *Table) Open(path string, readOnly bool) (uint64, error) {
	open := nvram.Open
	if readOnly {
		open = nvram.OpenReadOnly
	}
	opened, err := open(path)
	if err != nil {
		return 0, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.pools == nil {
		t.pools = map[uint64]*pool{}
	}
	t.last++
	t.pools[t.last] = &pool{Pool: opened, readOnly: readOnly, mapped: map[string]*region{}}
	return t.last, nil
}

// Close unmaps the pool's regions and gives the pool back.
func (t *Table) Close(number uint64) error {
	p, err := t.use(number)
	if err != nil {
		return err
	}
	p.calls.RUnlock()
	p.calls.Lock()
	defer p.calls.Unlock()
	if p.closed { // by another thread, between the two locks
		return notOpen()
	}
	p.closed = true
	t.mu.Lock()
	delete(t.pools, number)
	t.mu.Unlock()
	var errs []error
	for _, r := range p.mapped {
		errs = append(errs, t.unmap(r))
	}
	return errors.Join(append(errs, p.Pool.Close())...)
}

// use finds an open pool and keeps it open until the caller unlocks p.calls.
func (t *Table) use(number uint64) (*pool, error) {
	t.mu.RLock()
	p := t.pools[number]
	t.mu.RUnlock()
	if p == nil {
		return nil, notOpen()
	}
	p.calls.RLock()
	if p.closed {
		p.calls.RUnlock()
		return nil, notOpen()
	}
	return p, nil
}

func notOpen() error { return fmt.Errorf("%w; use what nv_open gave, until nv_close", ErrNotOpen) }

// Info describes the pool.
func (t *Table) Info(number uint64) (nvram.PoolInfo, error) {
	p, err := t.use(number)
	if err != nil {
		return nvram.PoolInfo{}, err
	}
	defer p.calls.RUnlock()
	return p.Pool.Info(), nil
}

// Regions lists the pool's regions, those of virtual machines too, in the order of their allocation.
func (t *Table) Regions(number uint64) ([]nvram.Region, error) {
	p, err := t.use(number)
	if err != nil {
		return nil, err
	}
	defer p.calls.RUnlock()
	return p.Pool.Regions(), nil
}

// Alloc makes a region and maps it. Its content is zero. If it cannot be mapped it is freed again.
func (t *Table) Alloc(number uint64, name string, size nvram.Bytes) (uintptr, error) {
	p, err := t.use(number)
	if err != nil {
		return 0, err
	}
	defer p.calls.RUnlock()
	if _, err := p.Pool.Alloc(nvram.Request{Name: name, Size: size, Use: nvram.UseUser}); err != nil {
		return 0, err
	}
	r, err := t.mapRegion(p, name)
	if err != nil {
		return 0, errors.Join(err, p.Pool.Free(name))
	}
	return r.address, nil
}

// Map maps a region that was allocated earlier. Mapping it again gives the same address.
func (t *Table) Map(number uint64, name string) (uintptr, nvram.Bytes, error) {
	p, err := t.use(number)
	if err != nil {
		return 0, 0, err
	}
	defer p.calls.RUnlock()
	r, err := t.mapRegion(p, name)
	if err != nil {
		return 0, 0, err
	}
	return r.address, r.size, nil
}

// Free gives a region up and unmaps it, in this order: while it is not known to be free its memory stays valid.
func (t *Table) Free(number uint64, name string) error {
	p, err := t.use(number)
	if err != nil {
		return err
	}
	defer p.calls.RUnlock()
	p.mapping.Lock()
	defer p.mapping.Unlock()
	if err := p.ours(name); err != nil {
		return err
	}
	if err := p.Pool.Free(name); err != nil {
		return err
	}
	r, ok := p.mapped[name]
	if !ok {
		return nil
	}
	delete(p.mapped, name)
	return t.unmap(r)
}

// ours refuses what is not there, and what another part of NV-Hypervisor allocated.
func (p *pool) ours(name string) error {
	r, err := p.Pool.Region(name)
	if err != nil {
		return err
	}
	if r.Use != nvram.UseUser {
		return fmt.Errorf("nvram pool %s: region %q %w (its use is %s); leave it to nvh, and take a pool of your own",
			p.Pool.Info().Path, name, ErrNotOurs, r.Use)
	}
	return nil
}
