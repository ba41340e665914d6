package nvram

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// Pool is an open pool. Its methods may be called by several goroutines; Alloc, Free and Rename wait for one another,
// the others wait for nobody.
type Pool struct {
	core
	medium      *medium
	disk        *diskFiles // nil for a single pool
	window      *window    // the metadata; guarded by change
	kind        Kind
	writable    bool
	mapSync     bool
	persistence string
	closed      bool // guarded by change
}

// Open opens the pool for this process alone, repairs what a power cut left half done and removes what it left over. The error
// wraps ErrLocked if another process has it, or tells why it is no pool that can be used.
func Open(path string) (*Pool, error) {
	p, err := open(path, true)
	return p, inPool(path, err)
}

// OpenReadOnly opens the pool to look at, beside a process that uses it. It repairs nothing and shows the pool as it was
// at this moment; regions can be mapped, to read.
func OpenReadOnly(path string) (*Pool, error) {
	p, err := open(path, false)
	return p, inPool(path, err)
}

func open(path string, writable bool) (_ *Pool, err error) {
	if path, err = filepath.Abs(path); err != nil {
		return nil, err
	}
	m, err := openMedium(path, writable)
	if err != nil {
		return nil, err
	}
	p := &Pool{medium: m, writable: writable}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	if writable {
		if err := m.lock(); err != nil {
			return nil, err
		}
	}
	t, _, err := m.snapshot()
	if err != nil {
		return nil, err
	}
	if err := m.fits(t); err != nil {
		return nil, err
	}
	return p, p.attach(t)
}

// attach makes the pool ready for use by what is known of it.
func (p *Pool) attach(t *table) (err error) {
	p.kind = t.kind
	p.store = p.backing(t.kind)
	if p.window, err = p.medium.mapMetadata(t.kind, p.writable); err != nil {
		return err
	}
	p.meta = p.window.memory(t.kind, p.writable)
	p.mapSync = p.window.sync
	p.persistence = p.window.persistence(t.kind, p.writable)
	if p.writable {
		return p.load()
	}
	p.state.Store(t)
	return nil
}

func (p *Pool) backing(kind Kind) backing {
	if p.medium.layout == LayoutDirectory {
		p.disk = &diskFiles{p.medium.path, p.medium.align}
		return &directory{p.disk}
	}
	return &single{func(offset, n Bytes) (Memory, func() error, error) {
		w, err := p.medium.extent(offset, n, kind, p.writable)
		if err != nil {
			return nil, nil, err
		}
		return w.memory(kind, p.writable), w.close, nil
	}}
}

// snapshot reads the metadata as it is now. A process that uses the pool may be in the middle of a change, so it reads until
// twice the same.
func (m *medium) snapshot() (*table, []Finding, error) {
	meta, err := m.readMetadata()
	if err != nil {
		return nil, nil, err
	}
	return recoverTable(meta)
}

func (m *medium) readMetadata() (_ []byte, err error) {
	w, err := m.mapMetadata("", false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	meta := slices.Clone(w.data)
	for range 100 {
		again := slices.Clone(w.data)
		if slices.Equal(meta, again) {
			return meta, nil
		}
		meta = again
	}
	return nil, errors.New("the process that uses it changes it without a pause; try again")
}

// Close gives the pool back. Mappings stay usable.
func (p *Pool) Close() error {
	p.change.Lock()
	defer p.change.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	p.broken = os.ErrClosed
	var err error
	if p.window != nil {
		err = p.window.close()
	}
	return errors.Join(err, p.medium.Close())
}

// Info describes the pool.
func (p *Pool) Info() PoolInfo {
	info := p.state.Load().info(p.medium.path)
	info.MapSync, info.Persistence = p.mapSync, p.persistence
	return info
}

func (t *table) info(path string) PoolInfo {
	return PoolInfo{
		ID: t.id, Path: path, Kind: t.kind, Layout: t.layout,
		Size: t.size, Used: t.used(), Free: t.size - t.used(), LargestFree: t.largestFree(),
		Unit: t.unit, Regions: len(t.entries), Sequence: t.sequence, Created: t.created,
	}
}

// Alloc makes regions: all of them or none. They are zeroed, preallocated and populated when it returns. The error wraps
// ErrFull, ErrExists or ErrInvalidName if it is the caller's to solve.
func (p *Pool) Alloc(reqs ...Request) ([]Region, error) {
	if !p.writable {
		return nil, inPool(p.medium.path, ErrReadOnly)
	}
	entries, err := p.alloc(reqs)
	if err != nil {
		return nil, inPool(p.medium.path, err)
	}
	regions := make([]Region, len(entries))
	for i := range entries {
		regions[i] = p.region(&entries[i])
	}
	return regions, nil
}

// Free gives up regions: all of them or none. Nobody sees their content again.
func (p *Pool) Free(names ...string) error {
	if !p.writable {
		return inPool(p.medium.path, ErrReadOnly)
	}
	return inPool(p.medium.path, p.free(names))
}

// Rename changes names, old to new: all of them or none, at once, so two regions can swap theirs. Path, Offset and inode of a region
// stay as they are, so it can be in use.
func (p *Pool) Rename(oldNew map[string]string) error {
	if !p.writable {
		return inPool(p.medium.path, ErrReadOnly)
	}
	return inPool(p.medium.path, p.rename(oldNew))
}

// Regions lists the regions in the order of their allocation.
func (p *Pool) Regions() []Region {
	t := p.state.Load()
	regions := make([]Region, len(t.entries))
	for i := range t.entries {
		regions[i] = p.region(&t.entries[i])
	}
	return regions
}

// Region finds a region by its name, or gives an error that wraps ErrNotFound.
func (p *Pool) Region(name string) (Region, error) {
	e, ok := p.state.Load().find(name)
	if !ok {
		return Region{}, inPool(p.medium.path, notFound(name))
	}
	return p.region(&e), nil
}

func (p *Pool) region(e *entry) Region {
	r := Region{ID: e.id, Name: e.name, Use: e.use, Size: e.size, Offset: e.offset, Created: e.created, Path: p.medium.path}
	if p.disk != nil {
		r.Path = p.disk.name(e.id)
	}
	return r
}

// Verify tells whether the region still is what was allocated: in the table under its name and ID, its backing there, not truncated and
// not replaced by another file.
func (p *Pool) Verify(r Region) error {
	e, ok := p.state.Load().find(r.Name)
	if !ok || e.id != r.ID {
		return inPool(p.medium.path, notFound(r.Name))
	}
	if e.size != r.Size || e.offset != r.Offset {
		return inPool(p.medium.path, &problem{ErrCorrupt, fmt.Sprintf("region %q is of %v at %v, not of %v at %v", e.name, e.size, e.offset, r.Size, r.Offset),
			"take the region from the pool again"})
	}
	return inPool(p.medium.path, p.store.verify(&e))
}

// Map maps a region. It is meant for regions of some MiB: guest RAM is for QEMU to map.
func (p *Pool) Map(name string) (*Mapping, error) {
	e, ok := p.state.Load().find(name)
	if !ok {
		return nil, inPool(p.medium.path, notFound(name))
	}
	w, err := p.mapEntry(&e)
	if err != nil {
		return nil, inPool(p.medium.path, err)
	}
	return &Mapping{
		Memory: w.memory(p.kind, p.writable),
		Region: p.region(&e),
		Sync:   w.flushable(p.kind),
		window: w,
	}, nil
}

func (p *Pool) mapEntry(e *entry) (*window, error) {
	if p.disk == nil {
		return p.medium.extent(e.offset, e.size, p.kind, p.writable)
	}
	f, err := p.disk.open(e.id, p.writable)
	if err != nil {
		return nil, e.match(identity{}, err)
	}
	defer f.Close() // the mapping holds the file; nothing was written through f that closing could lose
	id, err := identify(f)
	if err := e.match(id, err); err != nil {
		return nil, err
	}
	return mapWindow(f, 0, e.size, p.disk.align, p.writable, p.kind == KindFSDAX)
}
