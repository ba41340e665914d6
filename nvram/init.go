package nvram

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// InitOptions says what pool to make.
type InitOptions struct {
	Path   string // a directory, a file or a DAX device; a directory or file that is not there is made
	Kind   Kind   // by default devdax on a device and shm on tmpfs and hugetlbfs; elsewhere it must be given
	Layout Layout // of a path that is not there; by default a directory
	Size   Bytes  // capacity, or quota of a directory; by default what is there
	Force  bool   // overwrite a pool, or whatever is there
}

// Init makes a pool. Without Force it refuses, with ErrExists or ErrForeign or what is wrong with the pool, to touch anything but emptiness. With Force,
// a sound pool becomes empty in one commit: a power cut leaves the old pool or the new one.
func Init(o InitOptions) error {
	path, err := filepath.Abs(o.Path)
	if err != nil {
		return err
	}
	o.Path = path
	i := initialisation{InitOptions: o}
	err = i.run()
	if i.medium != nil {
		err = errors.Join(err, i.medium.Close())
	}
	if err != nil {
		err = errors.Join(err, i.undo())
	}
	return inPool(path, err)
}

// initialisation is an Init under way.
type initialisation struct {
	InitOptions
	medium *medium
	made   []string // what this Init created, to be removed if it fails
	old    *table   // the sound pool that Force replaces
}

func (i *initialisation) run() error {
	for _, step := range []func() error{i.create, i.open, i.resolveKind, i.examine, i.resolveSize, i.reserve, i.write} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (i *initialisation) undo() error {
	var err error
	for n := len(i.made) - 1; n >= 0; n-- {
		err = errors.Join(err, os.Remove(i.made[n]))
	}
	return err
}

// create makes the directory or file if there is none, and the metadata file of a directory.
func (i *initialisation) create() error {
	info, err := os.Stat(i.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := i.createPath(); err != nil {
			return err
		}
	case err != nil:
		return err
	case info.IsDir() && i.Layout == LayoutSingle:
		return fmt.Errorf("a directory cannot have the layout %q; give a file or a DAX device", LayoutSingle)
	case !info.IsDir() && i.Layout == LayoutDirectory:
		return fmt.Errorf("a file or device cannot have the layout %q; give a directory", LayoutDirectory)
	}
	if info, err = os.Stat(i.Path); err != nil || !info.IsDir() {
		return err
	}
	return i.createMetadata()
}

func (i *initialisation) createPath() error {
	if i.Kind == KindDevDAX || filepath.Dir(i.Path) == "/dev" {
		return errors.New("there is no such device; 'ndctl create-namespace -m devdax' makes one")
	}
	if i.Layout == LayoutSingle {
		return i.createFile(i.Path)
	}
	// Others must be able to pass through to the regions that are given to them, but need not list them.
	if err := os.Mkdir(i.Path, 0o711); err != nil {
		return err
	}
	i.made = append(i.made, i.Path)
	return syncDirectory(filepath.Dir(i.Path))
}

func (i *initialisation) createFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	i.made = append(i.made, path)
	return f.Close()
}

func (i *initialisation) createMetadata() error {
	file := filepath.Join(i.Path, metadataFile)
	if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	entries, err := os.ReadDir(i.Path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != "lost+found" && !i.Force {
			return &problem{ErrForeign, fmt.Sprintf("the directory holds %q", e.Name()), "give a new or empty directory, or --force to share this one"}
		}
	}
	return i.createFile(file)
}

func (i *initialisation) open() (err error) {
	if i.medium, err = openMedium(i.Path, true); err != nil {
		return err
	}
	return i.medium.lock()
}

func (i *initialisation) resolveKind() error {
	if i.Kind == "" {
		var st unix.Statfs_t
		if err := unix.Fstatfs(int(i.medium.Fd()), &st); err != nil {
			return err
		}
		switch {
		case i.medium.device:
			i.Kind = KindDevDAX
		case int64(st.Type) == unix.TMPFS_MAGIC, int64(st.Type) == unix.HUGETLBFS_MAGIC:
			i.Kind = KindShm
		}
	}
	switch {
	case i.Kind == "":
		return errors.New("its kind cannot be told; give fsdax for a file system mounted with -o dax, file for any other")
	case kindCodes[i.Kind] == 0:
		_, err := ParseKind(string(i.Kind))
		return err
	case i.medium.device != (i.Kind == KindDevDAX):
		return fmt.Errorf("kind %q does not fit; devdax is for DAX devices, the other kinds are for directories and files", i.Kind)
	case i.medium.unit() > Alignment && !i.medium.device:
		return fmt.Errorf("huge pages of %v are not supported; mount hugetlbfs with pagesize=2M", i.medium.align)
	}
	return nil
}

// examine looks at what is there. Nothing was written so far to anything that this Init did not create.
func (i *initialisation) examine() error {
	t, _, err := i.medium.snapshot()
	if err == nil {
		err = i.medium.fits(t)
	}
	var p *problem
	switch {
	case errors.Is(err, ErrNotPool):
		return nil
	case errors.As(err, &p):
		if i.Force {
			return nil
		}
		return err
	case err != nil:
		return err
	case !i.Force:
		return &problem{ErrExists, fmt.Sprintf("a pool with %d regions", len(t.entries)), "use it, or give --force to lose all of them"}
	}
	i.old = t
	return nil
}

func (i *initialisation) resolveSize() error {
	unit := i.medium.unit()
	least := unit
	if i.medium.layout == LayoutSingle {
		least += dataStart(unit)
	}
	if i.Size == 0 {
		i.Size = i.medium.size.roundDown(unit)
		if i.medium.layout == LayoutDirectory {
			i.Size = (i.medium.free() + i.oldUse()).roundDown(unit)
		}
	}
	i.Size = i.Size.roundUp(unit)
	if i.Size < least {
		return fmt.Errorf("size %v is too small; give at least %v", i.Size, least)
	}
	if i.medium.device && i.Size > i.medium.size {
		return fmt.Errorf("size %v is more than the device's %v; give less, or none to use all of it", i.Size, i.medium.size)
	}
	if total := i.medium.total(); !i.medium.device && i.Size > total {
		return &problem{ErrFull, fmt.Sprintf("size %v is more than the file system's %v", i.Size, total), "give a smaller size"}
	}
	return nil
}

func (i *initialisation) oldUse() Bytes {
	if i.old == nil {
		return 0
	}
	return i.old.used()
}

// reserve gives a regular file its blocks.
func (i *initialisation) reserve() error {
	if i.medium.device {
		return nil
	}
	size := i.Size
	if i.medium.layout == LayoutDirectory {
		size = i.medium.unit()
	}
	if err := preallocate(i.medium.File, size); err != nil {
		return err
	}
	i.medium.size = max(i.medium.size, size)
	if err := populate(i.medium.File, metadataSize, i.medium.align); err != nil {
		return err
	}
	return errors.Join(i.medium.Sync(), syncDirectory(filepath.Dir(i.medium.Name())))
}

func (i *initialisation) write() error {
	w, err := i.medium.mapMetadata(i.Kind, true)
	if err != nil {
		return err
	}
	mem := w.memory(i.Kind, true)
	t := &table{
		sequence: 1, id: newID(), kind: i.Kind, layout: i.medium.layout,
		size: i.Size, unit: i.medium.unit(), created: time.Now(),
	}
	if i.old == nil {
		err = format(mem, t)
	} else {
		err = i.replace(mem, t)
	}
	return errors.Join(err, w.close())
}

// replace empties a sound pool. The files of the old regions go afterwards, or when it is opened.
func (i *initialisation) replace(mem Memory, t *table) error {
	if err := replace(mem, i.old, t); err != nil {
		return err
	}
	if t.layout == LayoutSingle {
		return nil
	}
	return (&directory{&diskFiles{i.Path, i.medium.align}}).sweep(t)
}

func (m *medium) free() Bytes {
	var st unix.Statfs_t
	if unix.Fstatfs(int(m.Fd()), &st) != nil {
		return 0
	}
	return Bytes(st.Bavail) * Bytes(st.Bsize)
}

func (m *medium) total() Bytes {
	var st unix.Statfs_t
	if unix.Fstatfs(int(m.Fd()), &st) != nil {
		return 0
	}
	return Bytes(st.Blocks) * Bytes(st.Bsize)
}
