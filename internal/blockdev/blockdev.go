// Package blockdev finds out what a file lies on: its file system, and below that, through partitions, RAID and
// device mapper, the devices that hold the bytes.
//
// It reads sysfs and proc(5) below a root folder and opens no device, so it needs no privilege, and a copy of another machine's
// files answers for that machine.
package blockdev

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Device is a whole block device that has no other below it.
type Device struct {
	Name string // the kernel's: "sda", "nvme0n1", "pmem0"
	Dir  string // its folder in sysfs, without links
}

// ErrNoDevice is a file system that lies on no block device: tmpfs, overlay, one over the network.
var ErrNoDevice = errors.New("no block device below it")

// Below finds the devices that hold what is on the device with this number, in the order of their names. root is "/" or
// a folder that holds a copy of sys and proc. A file system with a number of its own, as btrfs, is found by its mount.
func Below(root string, dev uint64) ([]Device, error) {
	dir := filepath.Join(root, "sys/dev/block", number(dev))
	resolved, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return belowMount(root, dev)
	}
	if err != nil {
		return nil, fmt.Errorf("block device %s: %w", number(dev), err)
	}
	found := map[string]Device{}
	if err := descend(resolved, found, 0); err != nil {
		return nil, fmt.Errorf("block device %s: %w", number(dev), err)
	}
	var list []Device
	for _, d := range found {
		list = append(list, d)
	}
	slices.SortFunc(list, func(a, b Device) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// belowMount goes by the source that the mount names.
func belowMount(root string, dev uint64) ([]Device, error) {
	m, err := MountOf(root, dev)
	if err != nil {
		return nil, err
	}
	name, ok := strings.CutPrefix(m.Source, "/dev/")
	if !ok {
		return nil, fmt.Errorf("%s from %q: %w", m.Type, m.Source, ErrNoDevice)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(root, "dev", name), &st); err != nil {
		return nil, fmt.Errorf("source of %s: %s: %w", m.Path, m.Source, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK || st.Rdev == dev {
		return nil, fmt.Errorf("%s from %q: %w", m.Type, m.Source, ErrNoDevice)
	}
	return Below(root, st.Rdev)
}

func number(dev uint64) string { return fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev)) }

// deepest bounds the layers of device mapper and RAID, which nobody stacks so high.
const deepest = 32

// descend collects the devices at the bottom: those without slaves.
func descend(dir string, found map[string]Device, depth int) error {
	if depth > deepest {
		return fmt.Errorf("%s: more than %d layers of block devices", dir, deepest)
	}
	if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
		dir = filepath.Dir(dir)
	}
	slaves, err := os.ReadDir(filepath.Join(dir, "slaves"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(slaves) == 0 {
		found[dir] = Device{filepath.Base(dir), dir}
		return nil
	}
	for _, s := range slaves {
		below, err := filepath.EvalSymlinks(filepath.Join(dir, "slaves", s.Name()))
		if err != nil {
			return err
		}
		if err := descend(below, found, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// VolatileCache tells whether the device keeps completed writes in memory that it loses with the power until it is
// told to flush. The kernel learns this from the device ("write back" in queue/write_cache, sysfs-block(5)): a disk
// with power-loss protection reports no such cache.
func (d Device) VolatileCache() (bool, error) {
	text, err := os.ReadFile(filepath.Join(d.Dir, "queue/write_cache"))
	if err != nil {
		return false, fmt.Errorf("write cache of %s: %w", d.Name, err)
	}
	switch s := strings.TrimSpace(string(text)); s {
	case "write back":
		return true, nil
	case "write through":
		return false, nil
	default:
		return false, fmt.Errorf("write cache of %s: unknown mode %q", d.Name, s)
	}
}
