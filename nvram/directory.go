package nvram

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
)

// directory is the backing of a pool in a directory: a region is a file named after its ID, so that to rename a region
// touches only the table, and a file that belongs to no region is known by its name.
type directory struct{ files files }

// files is what a directory of region files can do. Only create and sync are persistent when they return.
type files interface {
	// create makes a file of zeros, complete and synced, or no file. Its entry in the directory takes a sync.
	create(id ID, size Bytes) (identity, error)
	// remove removes the file if it is there.
	remove(id ID) error
	// list gives the region files that are there. Other files are none of our business.
	list() ([]ID, error)
	// identify looks at a file. The error wraps fs.ErrNotExist if it is missing.
	identify(id ID) (identity, error)
	// sync makes persistent what was created and removed.
	sync() error
}

// identity is how a file is known again. The inode number alone may be given to a later file.
type identity struct {
	inode uint64
	birth int64 // ns since 1970; 0 if the file system does not tell
	size  Bytes
}

func (d *directory) provision(fresh []entry) error {
	for i := range fresh {
		e := &fresh[i]
		id, err := d.files.create(e.id, e.size)
		if err != nil {
			return errors.Join(fmt.Errorf("region %q: %w", e.name, err), d.retire(fresh[:i]))
		}
		e.inode, e.birth = id.inode, id.birth
	}
	if err := d.files.sync(); err != nil {
		return errors.Join(err, d.retire(fresh))
	}
	return nil
}

// retire removes the files. It does not sync: what a cut brings back, sweep removes.
func (d *directory) retire(gone []entry) error {
	var errs []error
	for i := range gone {
		errs = append(errs, d.files.remove(gone[i].id))
	}
	return errors.Join(errs...)
}

func (d *directory) verify(e *entry) error {
	id, err := d.files.identify(e.id)
	return e.match(id, err)
}

const lostRemedy = "its content is lost; restore it together with the whole file system, or free the region"

// match tells whether what identify found is what was provisioned.
func (e *entry) match(id identity, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &problem{ErrTruncated, fmt.Sprintf("region %q: its file %s%s is missing", e.name, regionPrefix, e.id), lostRemedy}
	case err != nil:
		return fmt.Errorf("region %q: %w", e.name, err)
	case id.inode != e.inode || id.birth != e.birth && id.birth != 0 && e.birth != 0:
		return &problem{ErrReplaced, fmt.Sprintf("region %q: %s%s is not the file that was allocated (inode %d born %d, not %d born %d)",
			e.name, regionPrefix, e.id, id.inode, id.birth, e.inode, e.birth), lostRemedy}
	case id.size > e.size:
		return &problem{ErrReplaced, fmt.Sprintf("region %q: its file %s%s has grown to %v from %v", e.name, regionPrefix, e.id, id.size, e.size), lostRemedy}
	case id.size < e.size:
		return &problem{ErrTruncated, fmt.Sprintf("region %q: its file %s%s has %v, not %v", e.name, regionPrefix, e.id, id.size, e.size), lostRemedy}
	}
	return nil
}

// strays lists the files of ours that belong to no region.
func (d *directory) strays(t *table) ([]ID, error) {
	ids, err := d.files.list()
	if err != nil {
		return nil, err
	}
	known := make(map[ID]bool, len(t.entries))
	for i := range t.entries {
		known[t.entries[i].id] = true
	}
	return slices.DeleteFunc(ids, func(id ID) bool { return known[id] }), nil
}

func (d *directory) sweep(t *table) error {
	strays, err := d.strays(t)
	for _, id := range strays {
		err = errors.Join(err, d.files.remove(id))
	}
	return err
}
