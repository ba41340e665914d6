package nvram

import (
	"bytes"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// core is a pool without its files: the region table in one Memory, and a backing that holds the regions. The crash tests run
// it over a recording memory; what they prove holds for every kind of pool.
type core struct {
	meta   Memory
	store  backing
	change sync.Mutex // held by one change at a time; guards meta and broken
	broken error      // a fence failed: what is persistent is not known until the pool is opened again
	state  atomic.Pointer[table]
}

// backing holds the bytes of regions.
type backing interface {
	// provision makes the regions' memory: zeroed, preallocated and persistent when it returns. It may note in the
	// entries how to know the memory again. If it fails nothing is left behind.
	provision(fresh []entry) error
	// retire gives up the memory of regions that are no longer in the table.
	retire(gone []entry) error
	// verify tells whether the region's memory is there and is the same that was provisioned.
	verify(e *entry) error
	// sweep removes memory of ours that belongs to no region: what a cut left of provision or retire.
	sweep(t *table) error
}

// format makes a new, empty pool of whatever the memory holds. A cut before its last fence leaves something that recoverTable
// refuses; the head goes first, so that it is taken for a pool cut short and not for somebody's data.
func format(meta Memory, t *table) error {
	meta.Copy(headOffset, encodeHead())
	if err := meta.Fence(); err != nil {
		return err
	}
	enc := encodeTable(t)
	meta.Copy(copyOffset(0), enc)
	meta.Copy(copyOffset(1), enc)
	if err := meta.Fence(); err != nil {
		return err
	}
	return storeSelector(meta, t.sequence)
}

// replace makes t, a new pool, of the pool old by an ordinary change: a cut leaves the one or the other.
func replace(meta Memory, old, t *table) error {
	if err := repair(meta, old); err != nil {
		return err
	}
	t.sequence = old.sequence + 1
	c := core{meta: meta}
	return c.commit(t)
}

func storeSelector(meta Memory, sequence uint64) error {
	meta.Store8(selectorOffset, selectorWord(sequence))
	meta.Flush(selectorOffset, 8)
	return meta.Fence()
}

// load recovers the pool from its memory, makes both copies equal again, and sweeps.
func (c *core) load() error {
	t, _, err := recoverTable(c.meta.Bytes())
	if err != nil {
		return err
	}
	if err := repair(c.meta, t); err != nil {
		return fmt.Errorf("repair the metadata: %w", err)
	}
	c.state.Store(t)
	if err := c.store.sweep(t); err != nil {
		return fmt.Errorf("remove what a cut left behind: %w", err)
	}
	return nil
}

// repair writes whatever differs from metadata at rest. It leaves alone the copy that is right, so it may be cut short.
func repair(meta Memory, t *table) error {
	differs := false
	fix := func(at int, want []byte) {
		if !bytes.Equal(meta.Bytes()[at:at+len(want)], want) {
			meta.Copy(at, want)
			differs = true
		}
	}
	fix(headOffset, encodeHead())
	enc := encodeTable(t)
	fix(copyOffset(0), enc)
	fix(copyOffset(1), enc)
	if differs {
		if err := meta.Fence(); err != nil {
			return err
		}
	}
	if wire.Uint64(meta.Bytes()[selectorOffset:]) != selectorWord(t.sequence) {
		return storeSelector(meta, t.sequence)
	}
	return nil
}

// commit makes next the table. The caller holds c.change.
func (c *core) commit(next *table) error {
	if err := c.write(next); err != nil {
		c.broken = fmt.Errorf("a write to it failed earlier (%w); open the pool again", err)
		return fmt.Errorf("write the region table: %w; open the pool again to see whether the change was made", err)
	}
	return nil
}

func (c *core) write(next *table) error {
	enc := encodeTable(next)
	c.meta.Copy(copyOffset(next.sequence), enc)
	if err := c.meta.Fence(); err != nil {
		return err
	}
	if err := storeSelector(c.meta, next.sequence); err != nil {
		return err
	}
	c.state.Store(next)
	c.meta.Copy(copyOffset(next.sequence+1), enc)
	return c.meta.Fence()
}

func (c *core) alloc(reqs []Request) ([]entry, error) {
	c.change.Lock()
	defer c.change.Unlock()
	if c.broken != nil {
		return nil, c.broken
	}
	if len(reqs) == 0 {
		return nil, nil
	}
	now := c.state.Load()
	next, err := now.add(reqs, time.Now())
	if err != nil {
		return nil, err
	}
	fresh := next.entries[len(now.entries):]
	if err := c.store.provision(fresh); err != nil {
		return nil, err
	}
	if err := c.commit(next); err != nil {
		return nil, err
	}
	return fresh, nil
}

func (c *core) free(names []string) error {
	c.change.Lock()
	defer c.change.Unlock()
	if c.broken != nil {
		return c.broken
	}
	if len(names) == 0 {
		return nil
	}
	next, gone, err := c.state.Load().remove(names)
	if err != nil {
		return err
	}
	if err := c.commit(next); err != nil {
		return err
	}
	if err := c.store.retire(gone); err != nil {
		return fmt.Errorf("the regions are freed, but their memory is not yet: %w; opening the pool again removes it", err)
	}
	return nil
}

func (c *core) rename(oldNew map[string]string) error {
	c.change.Lock()
	defer c.change.Unlock()
	if c.broken != nil {
		return c.broken
	}
	if len(oldNew) == 0 {
		return nil
	}
	next, err := c.state.Load().rename(oldNew)
	if err != nil {
		return err
	}
	return c.commit(next)
}
