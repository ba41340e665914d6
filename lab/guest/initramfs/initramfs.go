// Package initramfs writes the cpio archive that a Linux kernel unpacks as its first root file system.
//
// The format is "newc" (SVR4 with no CRC), the only one the kernel reads, described in the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst. Output depends on the input alone: no
// times, owners or inode numbers of the building machine reach the archive, so equal input gives equal bytes.
package initramfs

import (
	"fmt"
	"io"
)

// Linux file type bits of the mode field (include/uapi/linux/stat.h).
const (
	typeDirectory = 0o040000
	typeRegular   = 0o100000
	typeSymlink   = 0o120000
	typeCharDev   = 0o020000
)

const trailerName = "TRAILER!!!"

// Writer writes one archive. It is not safe for concurrent use. After the first error every call returns it.
type Writer struct {
	w     io.Writer
	inode uint32
	off   int64
	err   error
}

// NewWriter returns a Writer on w. Call Close to write the end mark; w itself is left open.
func NewWriter(w io.Writer) *Writer {
	return &Writer{w: w}
}

// Dir adds a directory. The kernel does not make missing parents, so add those first. Names are relative.
func (w *Writer) Dir(name string, perm uint32) error {
	return w.entry(name, typeDirectory|perm, 2, 0, 0, nil)
}

// File adds a regular file.
func (w *Writer) File(name string, perm uint32, content []byte) error {
	return w.entry(name, typeRegular|perm, 1, 0, 0, content)
}

// Symlink adds a symbolic link to target.
func (w *Writer) Symlink(name, target string) error {
	return w.entry(name, typeSymlink|0o777, 1, 0, 0, []byte(target))
}

// CharDevice adds a character device node, for /dev/console, which the kernel opens before it starts init.
func (w *Writer) CharDevice(name string, perm, major, minor uint32) error {
	return w.entry(name, typeCharDev|perm, 1, major, minor, nil)
}

// Close writes the end mark. An archive without it is refused by the kernel.
func (w *Writer) Close() error {
	w.inode = 0
	return w.entry(trailerName, 0, 1, 0, 0, nil)
}

func (w *Writer) entry(name string, mode, links, major, minor uint32, content []byte) error {
	if w.err != nil {
		return w.err
	}
	if name == "" || name[0] == '/' {
		w.err = fmt.Errorf("initramfs entry %q: the name must be relative and not empty", name)
		return w.err
	}
	inode := w.inode
	w.inode++
	// magic, inode, mode, uid, gid, links, mtime, size, dev major and minor, rdev major and minor, name size, check.
	header := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		inode, mode, 0, 0, links, 0, len(content), 0, 0, major, minor, len(name)+1, 0)
	w.put([]byte(header))
	w.put([]byte(name + "\x00"))
	w.pad()
	w.put(content)
	w.pad()
	return w.err
}

func (w *Writer) put(b []byte) {
	if w.err != nil {
		return
	}
	n, err := w.w.Write(b)
	w.off += int64(n)
	if err != nil {
		w.err = fmt.Errorf("write initramfs: %w", err)
	}
}

// pad brings the offset to a multiple of four, where the format wants each name's end and each content's end.
func (w *Writer) pad() {
	if n := w.off % 4; n != 0 {
		w.put(make([]byte, 4-n))
	}
}
