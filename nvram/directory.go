package nvram

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// directory is the backing of a pool in a directory: a region is a file named after its ID, so that to rename a region
// touches only the table, and a file that belongs to no region is known by its name.
type directory struct {
	path  string
	align Bytes
}

const regionPrefix = "region-"

func (d *directory) file(id ID) string { return filepath.Join(d.path, regionPrefix+id.String()) }

func (d *directory) provision(fresh []entry) error {
	for i := range fresh {
		if err := d.create(&fresh[i]); err != nil {
			return errors.Join(err, d.retire(fresh[:i]))
		}
	}
	if err := syncDirectory(d.path); err != nil {
		return errors.Join(err, d.retire(fresh))
	}
	return nil
}

// create makes one region's file, complete and synced, or no file.
func (d *directory) create(e *entry) (err error) {
	f, err := os.OpenFile(d.file(e.id), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if err := preallocate(f, e.size); err != nil {
		return err
	}
	if err := populate(f, e.size, d.align); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	id, err := identify(f)
	e.inode, e.birth = id.inode, id.birth
	return err
}

// preallocate reserves the file's blocks, and looks whether they really are.
func preallocate(f *os.File, size Bytes) error {
	if err := fallocate(f, size); err != nil {
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EFBIG) {
			return &problem{ErrFull, fmt.Sprintf("%v do not fit on the file system, %s", size, freeSpace(f)),
				"free some regions, or make room on the file system (on tmpfs: mount -o remount,size=…)"}
		}
		return fmt.Errorf("preallocate %v in %s: %w; use a file system that can (ext4, xfs, tmpfs, hugetlbfs)", size, f.Name(), err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if reserved := Bytes(st.Blocks) * 512; reserved < size {
		return fmt.Errorf("preallocate %v in %s: the file system reserved only %v; use ext4, xfs, tmpfs or hugetlbfs without compression",
			size, f.Name(), reserved)
	}
	return nil
}

func fallocate(f *os.File, size Bytes) error {
	for {
		if err := unix.Fallocate(int(f.Fd()), 0, 0, int64(size)); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func freeSpace(f *os.File) string {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return "and what is free cannot be told"
	}
	return fmt.Sprintf("%v are free", (Bytes(st.Bavail) * Bytes(st.Bsize)).roundDown(MiB))
}

// identity is how a file is known again. The inode number alone may be given to a later file.
type identity struct {
	inode uint64
	birth int64 // ns since 1970; 0 if the file system does not tell
	size  Bytes
}

func identify(f *os.File) (identity, error) {
	var st unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st); err != nil {
		return identity{}, fmt.Errorf("statx %s: %w", f.Name(), err)
	}
	id := identity{inode: st.Ino, size: Bytes(st.Size)}
	if st.Mask&unix.STATX_BTIME != 0 {
		id.birth = st.Btime.Sec*1e9 + int64(st.Btime.Nsec)
	}
	return id, nil
}

// retire removes the files. It is not synced: a cut before the file system did it leaves files for sweep.
func (d *directory) retire(gone []entry) error {
	var errs []error
	for i := range gone {
		if err := os.Remove(d.file(gone[i].id)); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (d *directory) verify(e *entry) error {
	f, err := d.open(e, false)
	if err != nil {
		return err
	}
	return f.Close()
}

// open opens a region's file if it is the one that was provisioned.
func (d *directory) open(e *entry, writable bool) (*os.File, error) {
	flag := os.O_RDONLY
	if writable {
		flag = os.O_RDWR
	}
	f, err := os.OpenFile(d.file(e.id), flag|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &problem{ErrTruncated, fmt.Sprintf("region %q: %s is missing", e.name, d.file(e.id)), lostRemedy}
	}
	if err != nil {
		return nil, fmt.Errorf("region %q: %w", e.name, err)
	}
	if err := e.match(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

const lostRemedy = "its content is lost; restore it together with the whole file system, or free the region"

func (e *entry) match(f *os.File) error {
	id, err := identify(f)
	switch {
	case err != nil:
		return fmt.Errorf("region %q: %w", e.name, err)
	case id.inode != e.inode || id.birth != e.birth && id.birth != 0 && e.birth != 0:
		return &problem{ErrReplaced, fmt.Sprintf("region %q: %s is not the file that was allocated (inode %d, not %d)", e.name, f.Name(), id.inode, e.inode), lostRemedy}
	case id.size != e.size:
		return &problem{ErrTruncated, fmt.Sprintf("region %q: %s has %v, not %v", e.name, f.Name(), id.size, e.size), lostRemedy}
	}
	return nil
}

// strays lists the files of ours that belong to no region. Other files are none of our business.
func (d *directory) strays(t *table) ([]string, error) {
	files, err := os.ReadDir(d.path)
	if err != nil {
		return nil, err
	}
	known := make(map[ID]bool, len(t.entries))
	for i := range t.entries {
		known[t.entries[i].id] = true
	}
	var strays []string
	for _, f := range files {
		text, ours := strings.CutPrefix(f.Name(), regionPrefix)
		id, err := ParseID(text)
		if ours && err == nil && f.Type().IsRegular() && !known[id] {
			strays = append(strays, filepath.Join(d.path, f.Name()))
		}
	}
	return strays, nil
}

func (d *directory) sweep(t *table) error {
	strays, err := d.strays(t)
	for _, file := range strays {
		err = errors.Join(err, os.Remove(file))
	}
	return err
}

func syncDirectory(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
