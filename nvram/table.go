package nvram

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// table is what one copy of the metadata says. It is never changed after it was committed: a change makes a new one.
type table struct {
	sequence uint64
	id       ID
	kind     Kind
	layout   Layout
	size     Bytes
	unit     Bytes
	created  time.Time
	entries  []entry // in the order of their creation
}

// entry is one region.
type entry struct {
	id      ID
	name    string
	use     Use
	size    Bytes
	offset  Bytes // in a single pool
	inode   uint64
	birth   int64 // of the inode; 0 if the file system does not tell
	created time.Time
}

// check tells whether the table could have been written by this package. Recovery relies on it: whatever passes is safe to
// act upon.
func (t *table) check() error {
	if err := t.checkHeader(); err != nil {
		return err
	}
	names, ids := map[string]bool{}, map[ID]bool{}
	for i := range t.entries {
		e := &t.entries[i]
		if err := t.checkEntry(e); err != nil {
			return fmt.Errorf("entry %d: %w", i, err)
		}
		if names[e.name] || ids[e.id] {
			return corrupt("entry %d: name %q or ID %s is there twice", i, e.name, e.id)
		}
		names[e.name], ids[e.id] = true, true
	}
	if t.layout == LayoutSingle {
		return t.checkOverlap()
	}
	if used := t.used(); used > t.size {
		return corrupt("regions of %v in a pool of %v", used, t.size)
	}
	return nil
}

func (t *table) checkHeader() error {
	switch {
	case t.kind == "" || t.layout == "":
		return corrupt("unknown kind or layout")
	case t.unit < smallestUnit || t.unit&(t.unit-1) != 0 || t.unit > TiB:
		return corrupt("unit of %v", t.unit)
	case t.sequence == 0 || t.sequence > sequenceMask:
		return corrupt("sequence %d", t.sequence)
	case t.size%t.unit != 0 || t.size > 4096*TiB:
		return corrupt("size of %v in units of %v", t.size, t.unit)
	case t.layout == LayoutSingle && t.size < dataStart(t.unit):
		return corrupt("size of %v is below the metadata's", t.size)
	}
	return nil
}

func (t *table) checkEntry(e *entry) error {
	switch {
	case CheckName(e.name) != nil:
		return corrupt("name %q", e.name)
	case e.use == "":
		return corrupt("unknown use")
	case e.size == 0 || e.size%t.unit != 0 || e.size > t.size:
		return corrupt("size of %v", e.size)
	case t.layout == LayoutDirectory && e.offset != 0:
		return corrupt("offset in a directory")
	case t.layout == LayoutSingle && (e.offset%t.unit != 0 || e.offset < dataStart(t.unit) || e.offset > t.size-e.size):
		return corrupt("extent of %v at %v leaves the pool", e.size, e.offset)
	}
	return nil
}

func (t *table) checkOverlap() error {
	sorted := t.byOffset()
	for i := 1; i < len(sorted); i++ {
		if before := sorted[i-1]; before.offset+before.size > sorted[i].offset {
			return corrupt("regions %q and %q overlap", before.name, sorted[i].name)
		}
	}
	return nil
}

func (t *table) byOffset() []entry {
	return slices.SortedFunc(slices.Values(t.entries), func(a, b entry) int { return cmp.Compare(a.offset, b.offset) })
}

// used counts the regions and, in a single pool, the metadata.
func (t *table) used() Bytes {
	var sum Bytes
	if t.layout == LayoutSingle {
		sum = dataStart(t.unit)
	}
	for i := range t.entries {
		sum += t.entries[i].size
	}
	return sum
}

// gaps yields the free extents of a single pool in the order of their offsets. Freed neighbours are one gap, because only
// the regions are recorded and never the room between them.
func (t *table) gaps(yield func(offset, size Bytes) bool) {
	at := dataStart(t.unit)
	for _, e := range t.byOffset() {
		if e.offset > at && !yield(at, e.offset-at) {
			return
		}
		at = e.offset + e.size
	}
	if at < t.size {
		yield(at, t.size-at)
	}
}

func (t *table) largestFree() Bytes {
	if len(t.entries) >= MaxRegions {
		return 0
	}
	if t.layout == LayoutDirectory {
		return t.size - t.used()
	}
	var largest Bytes
	t.gaps(func(_, size Bytes) bool {
		largest = max(largest, size)
		return true
	})
	return largest
}

func (t *table) find(name string) (entry, bool) {
	i := slices.IndexFunc(t.entries, func(e entry) bool { return e.name == name })
	if i < 0 {
		return entry{}, false
	}
	return t.entries[i], true
}

// next is the table of the change after this one, with room to edit.
func (t *table) next() *table {
	n := *t
	n.sequence++
	n.entries = slices.Clone(t.entries)
	return &n
}

// add gives a table with the requested regions, the extents of a single pool placed first-fit. The new entries are its last.
func (t *table) add(reqs []Request, now time.Time) (*table, error) {
	n := t.next()
	for _, r := range reqs {
		e := entry{id: newID(), name: r.Name, use: r.Use, size: r.Size.roundUp(t.unit), created: now}
		if err := n.admit(r, &e); err != nil {
			return nil, err
		}
		n.entries = append(n.entries, e)
	}
	return n, nil
}

// admit refuses what cannot be added and gives the entry its place.
func (t *table) admit(r Request, e *entry) error {
	if err := CheckName(r.Name); err != nil {
		return err
	}
	if _, taken := t.find(r.Name); taken {
		return &problem{ErrExists, fmt.Sprintf("region %q", r.Name), "choose another name or free that region"}
	}
	if _, known := useCodes[r.Use]; !known {
		return fmt.Errorf("region %q: unknown use %q; give ram, state or user", r.Name, r.Use)
	}
	if r.Size == 0 {
		return fmt.Errorf("region %q: size is 0; give at least 1 byte", r.Name)
	}
	if len(t.entries) >= MaxRegions {
		return &problem{ErrFull, fmt.Sprintf("it holds %d regions, the most a pool can", MaxRegions), "free some regions or use another pool"}
	}
	if largest := t.largestFree(); r.Size > largest {
		return &problem{ErrFull, fmt.Sprintf("region %q needs %v, %v are free, the largest piece is %v", r.Name, r.Size, t.size-t.used(), largest),
			"free some regions or initialise a larger pool"}
	}
	if t.layout == LayoutSingle {
		t.gaps(func(offset, size Bytes) bool {
			e.offset = offset
			return size < e.size
		})
	}
	return nil
}

// remove gives a table without the named regions, and those.
func (t *table) remove(names []string) (*table, []entry, error) {
	n := t.next()
	var gone []entry
	for _, name := range names {
		i := slices.IndexFunc(n.entries, func(e entry) bool { return e.name == name })
		if i < 0 {
			return nil, nil, notFound(name)
		}
		gone = append(gone, n.entries[i])
		n.entries = slices.Delete(n.entries, i, i+1)
	}
	return n, gone, nil
}

// rename gives a table in which all names are changed at once, so two regions can swap theirs.
func (t *table) rename(oldNew map[string]string) (*table, error) {
	for old, name := range oldNew {
		if _, ok := t.find(old); !ok {
			return nil, notFound(old)
		}
		if err := CheckName(name); err != nil {
			return nil, err
		}
	}
	n := t.next()
	taken := map[string]bool{}
	for i := range n.entries {
		e := &n.entries[i]
		if name, ok := oldNew[e.name]; ok {
			e.name = name
		}
		if taken[e.name] {
			return nil, &problem{ErrExists, fmt.Sprintf("region %q", e.name), "choose another name or free that region"}
		}
		taken[e.name] = true
	}
	return n, nil
}

func notFound(name string) error {
	return &problem{ErrNotFound, fmt.Sprintf("%q", name), "list the pool to see what it holds"}
}
