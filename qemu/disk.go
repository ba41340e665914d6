package qemu

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// cacheMode is what a mode means to QEMU's block layer and to the virtual disk.
type cacheMode struct {
	direct     bool // bypasses the host's page cache
	noFlush    bool // ignores the guest's flushes
	writeCache bool // the guest sees a volatile write cache, which it has to flush
	safe       bool // what the guest was told is on the disk is there after a power cut
}

// cacheModes has the modes of QEMU's -drive cache=. A guest that resumes believes
// that what the disk acknowledged is on the disk. The modes that keep completed
// writes in the host's page cache break that.
var cacheModes = map[string]cacheMode{
	"none":         {direct: true, writeCache: true, safe: true},
	"directsync":   {direct: true, safe: true},
	"writethrough": {},
	"writeback":    {writeCache: true},
	"unsafe":       {noFlush: true, writeCache: true},
}

// DefaultCache is the cache mode of a Disk that names none.
const DefaultCache = "none"

func (d Disk) cache() string {
	if d.Cache == "" {
		return DefaultCache
	}
	return d.Cache
}

func (d Disk) format() string {
	if d.Format == "" {
		return "raw"
	}
	return d.Format
}

func (l *Launch) pinDisks(g Guest) error {
	var faults []error
	writable := make(map[string]bool)
	for i, d := range g.Disks {
		if err := d.check(); err != nil {
			faults = append(faults, fmt.Errorf("disk %d: %w", i, err))
		}
		if before, used := writable[d.Path]; used && (before || !d.ReadOnly) {
			faults = append(faults, fmt.Errorf("disk %d: %s is used twice: give each disk its own image", i, d.Path))
		}
		writable[d.Path] = writable[d.Path] || !d.ReadOnly
		ref := DiskRef{Path: d.Path, Format: d.format(), ReadOnly: d.ReadOnly}
		if g.Raw == nil {
			ref.NodeName = diskNode(i)
		}
		l.Disks = append(l.Disks, ref)
	}
	return errors.Join(faults...)
}

// check finds out whether QEMU will be able to use the image as it is defined.
func (d Disk) check() error {
	if !strings.HasPrefix(d.Path, "/") {
		return fmt.Errorf("path %q: give an absolute path", d.Path)
	}
	mode, ok := cacheModes[d.cache()]
	if !ok {
		return fmt.Errorf("%s: cache %q: use none or directsync", d.Path, d.Cache)
	}
	if !mode.safe && !d.ReadOnly && !d.Force {
		return fmt.Errorf("%s: cache %s can lose completed writes in a power cut, and the resumed guest would not know: "+
			"use none or directsync, or set force_unsafe_cache", d.Path, d.Cache)
	}
	st, err := os.Stat(d.Path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("no disk image at %s: make one with qemu-img create: %w", d.Path, err)
	case err != nil:
		return fmt.Errorf("disk image cannot be examined: %w", err)
	case !st.Mode().IsRegular() && !isBlock(st):
		return fmt.Errorf("%s is neither a file nor a block device", d.Path)
	}
	if err := d.checkFormat(); err != nil {
		return err
	}
	return d.checkAccess(mode)
}

// checkAccess opens the image once as QEMU will.
func (d Disk) checkAccess(mode cacheMode) error {
	flags := os.O_RDWR
	if d.ReadOnly {
		flags = os.O_RDONLY
	}
	f, err := os.OpenFile(d.Path, flags, 0)
	if err != nil {
		return fmt.Errorf("disk image cannot be opened: %w", err)
	}
	f.Close()
	if !mode.direct {
		return nil
	}
	f, err = os.OpenFile(d.Path, flags|unix.O_DIRECT, 0)
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("%s: its file system has no direct I/O, which cache %s needs: move the image, "+
			"or set cache = \"writethrough\" and force_unsafe_cache", d.Path, d.cache())
	}
	if err != nil {
		return fmt.Errorf("disk image cannot be opened for direct I/O: %w", err)
	}
	return f.Close()
}

// qcow2Magic begins every qcow2 image (QEMU's docs/interop/qcow2.txt).
const qcow2Magic = "QFI\xfb"

func (d Disk) checkFormat() error {
	f, err := os.Open(d.Path)
	if err != nil {
		return fmt.Errorf("disk image cannot be opened: %w", err)
	}
	defer f.Close()
	magic := make([]byte, len(qcow2Magic))
	if _, err := io.ReadFull(f, magic); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("disk image cannot be read: %w", err)
	}
	isQcow2 := string(magic) == qcow2Magic
	switch d.format() {
	case "raw":
		// A guest may write the magic on a raw disk, so an explicit "raw" is believed.
		if isQcow2 && d.Format == "" {
			return fmt.Errorf("%s is a qcow2 image: set format = \"qcow2\", or \"raw\" if the guest shall see its container", d.Path)
		}
	case "qcow2":
		if !isQcow2 {
			return fmt.Errorf("%s is not a qcow2 image: set format = \"raw\"", d.Path)
		}
	default:
		return fmt.Errorf("%s: format %q: use raw or qcow2", d.Path, d.Format)
	}
	return nil
}

func isBlock(st os.FileInfo) bool {
	return st.Mode()&os.ModeDevice != 0 && st.Mode()&os.ModeCharDevice == 0
}

func isBlockDevice(path string) bool {
	st, err := os.Stat(path)
	return err == nil && isBlock(st)
}

func diskNode(i int) string { return fmt.Sprintf("disk%d", i) }

// diskArgs is one virtio-blk disk. The protocol node inherits the cache mode and
// read-only from the format node, whose child it is.
func diskArgs(i int, d Disk, block bool) []string {
	mode := cacheModes[d.cache()]
	driver := "file"
	if block {
		driver = "host_device"
	}
	node := fmt.Sprintf("driver=%s,node-name=%s,read-only=%s,cache.direct=%s,cache.no-flush=%s,file.driver=%s,file.filename=%s",
		d.format(), diskNode(i), onOff(d.ReadOnly), onOff(mode.direct), onOff(mode.noFlush), driver, escape(d.Path))
	device := fmt.Sprintf("virtio-blk-pci,id=virtio-%[1]s,drive=%[1]s,serial=%[1]s,bootindex=%[2]d,write-cache=%[3]s",
		diskNode(i), i+1, onOff(mode.writeCache))
	return []string{"-blockdev", node, "-device", device}
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}
