package nvram

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// metadataFile holds the metadata of a pool in the directory layout.
const metadataFile = "nvram.meta"

// medium is the opened file or device that holds a pool's metadata, and in a single pool everything.
type medium struct {
	*os.File
	path   string // of the pool
	layout Layout
	device bool
	sysfs  string // of the device
	size   Bytes  // of the file or device
	align  Bytes  // of mappings
}

// openMedium opens what is there and takes no lock. Whether it is a pool is for recoverTable to say.
func openMedium(path string, writable bool) (*medium, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	m := &medium{path: path, layout: LayoutSingle, align: Bytes(pageSize)}
	file := path
	if info.IsDir() {
		m.layout, file = LayoutDirectory, filepath.Join(path, metadataFile)
	}
	flag := os.O_RDONLY
	if writable {
		flag = os.O_RDWR
	}
	if err := m.classify(info); err != nil {
		return nil, err
	}
	m.File, err = os.OpenFile(file, flag, 0)
	if m.layout == LayoutDirectory && errors.Is(err, fs.ErrNotExist) {
		return nil, &problem{ErrNotPool, "it has no file " + metadataFile, "initialise it with 'nvh nvram init'"}
	}
	if err != nil {
		return nil, err
	}
	if err := m.measure(); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// classify refuses what must not even be opened, such as a pipe, which blocks, or a watchdog, which starts.
func (m *medium) classify(info fs.FileInfo) error {
	switch mode := info.Mode(); {
	case mode.IsDir(), mode.IsRegular():
		return nil
	case mode&fs.ModeCharDevice != 0:
		m.device = true
		m.sysfs = sysfsDevice(info)
		target, err := os.Readlink(filepath.Join(m.sysfs, "subsystem"))
		if err == nil && filepath.Base(target) == "dax" {
			return nil
		}
		return &problem{ErrForeign, "not a DAX device", "give a device such as /dev/dax0.0; 'ndctl create-namespace -m devdax' makes one"}
	}
	return &problem{ErrForeign, "neither a directory, a regular file nor a DAX device", "give the path of one of these"}
}

func sysfsDevice(info fs.FileInfo) string {
	rdev := info.Sys().(*syscall.Stat_t).Rdev // what os.Stat gives on Linux
	return fmt.Sprintf("/sys/dev/char/%d:%d", unix.Major(rdev), unix.Minor(rdev))
}

func (m *medium) measure() error {
	if m.device {
		return m.measureDevice()
	}
	info, err := m.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return &problem{ErrForeign, m.Name() + " is not a regular file", "initialise the pool elsewhere"}
	}
	m.size = Bytes(info.Size())
	return m.measureFileSystem()
}

// measureFileSystem learns that hugetlbfs maps huge pages only.
func (m *medium) measureFileSystem() error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(m.Fd()), &st); err != nil {
		return fmt.Errorf("statfs: %w", err)
	}
	if int64(st.Type) == unix.HUGETLBFS_MAGIC {
		m.align = Bytes(st.Bsize)
	}
	return nil
}

// measureDevice reads what the kernel says of a DAX device, see Documentation/ABI/testing/sysfs-bus-dax in the Linux sources.
func (m *medium) measureDevice() (err error) {
	if m.size, err = readSysfsBytes(filepath.Join(m.sysfs, "size")); err != nil {
		return err
	}
	m.align, err = readSysfsBytes(filepath.Join(m.sysfs, "align"))
	return err
}

func readSysfsBytes(path string) (Bytes, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 0, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return Bytes(n), nil
}

// unit is what regions on this medium are multiples of.
func (m *medium) unit() Bytes { return max(Alignment, m.align) }

// mapMetadata maps the metadata. A file too short for it is never mapped, since to touch what is missing would raise SIGBUS.
func (m *medium) mapMetadata(kind Kind, writable bool) (*window, error) {
	if m.size >= metadataSize {
		return mapWindow(m.File, 0, metadataSize, m.align, writable, kind == KindFSDAX)
	}
	head := make([]byte, headSize)
	n, err := m.ReadAt(head, 0)
	switch {
	case m.size == 0:
		return nil, &problem{ErrNotPool, "it is empty", "initialise it with 'nvh nvram init'"}
	case err == nil && string(head[:len(headMagic)]) == headMagic:
		return nil, &problem{ErrTruncated, fmt.Sprintf("%v are left, the metadata alone takes %v", m.size, Bytes(metadataSize)),
			"restore the file, or initialise it again with --force if its content is lost"}
	case allZero(head[:n]):
		return nil, &problem{ErrNotPool, fmt.Sprintf("it is of %v and empty", m.size), "remove it and initialise the pool with 'nvh nvram init'"}
	}
	return nil, &problem{ErrForeign, "data that is not an NVRAM pool", "make sure that nobody needs it, then initialise with --force"}
}

// fits tells whether the medium is what the table was made for.
func (m *medium) fits(t *table) error {
	if t.layout != m.layout {
		return &problem{ErrCorrupt, fmt.Sprintf("its layout is %q, but the path is one of layout %q", t.layout, m.layout),
			"open it by the path it was initialised with"}
	}
	if t.layout == LayoutSingle && m.size < t.size {
		return &problem{ErrTruncated, fmt.Sprintf("%v are left of %v", m.size, t.size),
			"restore the file or device to its size; regions beyond its end are lost"}
	}
	return nil
}

// extent maps a part of a single pool, or tells that this much is not there.
func (m *medium) extent(offset, n Bytes, kind Kind, writable bool) (*window, error) {
	if err := m.reaches(offset + n); err != nil {
		return nil, err
	}
	return mapWindow(m.File, offset, n, m.align, writable, kind == KindFSDAX)
}

func (m *medium) reaches(end Bytes) error {
	if m.device {
		return nil
	}
	info, err := m.Stat()
	if err != nil {
		return err
	}
	if Bytes(info.Size()) < end {
		return &problem{ErrTruncated, fmt.Sprintf("%s ends at %v, the region at %v", m.Name(), Bytes(info.Size()), end), "its content is lost; free the region"}
	}
	return nil
}
