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

const regionPrefix = "region-"

// diskFiles is the files of a directory that exists.
type diskFiles struct {
	path  string
	align Bytes // of mappings
}

func (d *diskFiles) name(id ID) string { return filepath.Join(d.path, regionPrefix+id.String()) }

func (d *diskFiles) create(id ID, size Bytes) (_ identity, err error) {
	f, err := os.OpenFile(d.name(id), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return identity{}, err
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if err := preallocate(f, size); err != nil {
		return identity{}, err
	}
	if err := populate(f, size, d.align); err != nil {
		return identity{}, err
	}
	if err := f.Sync(); err != nil {
		return identity{}, err
	}
	return identify(f)
}

func (d *diskFiles) remove(id ID) error {
	if err := os.Remove(d.name(id)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (d *diskFiles) list() ([]ID, error) {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return nil, err
	}
	var ids []ID
	for _, e := range entries {
		text, ours := strings.CutPrefix(e.Name(), regionPrefix)
		if id, err := ParseID(text); ours && err == nil && e.Type().IsRegular() {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

func (d *diskFiles) identify(id ID) (identity, error) {
	f, err := d.open(id, false)
	if err != nil {
		return identity{}, err
	}
	found, err := identify(f)
	return found, errors.Join(err, f.Close())
}

// open opens a region's file, never through a link that somebody put in its place.
func (d *diskFiles) open(id ID, writable bool) (*os.File, error) {
	flag := os.O_RDONLY
	if writable {
		flag = os.O_RDWR
	}
	return os.OpenFile(d.name(id), flag|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
}

func (d *diskFiles) sync() error { return syncDirectory(d.path) }

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

func syncDirectory(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
