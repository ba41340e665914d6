package host

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/internal/blockdev"
	"github.com/nv-hypervisor/nv-hypervisor/qemu"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

// checkDisks: a guest that resumes believes that its completed writes are on its disks.
func (h *Host) checkDisks(info vm.Info) []Check {
	if info.Volatile {
		return nil // it boots anew after an outage, as after any power cut
	}
	var checks []Check
	for _, d := range info.Definition.Disks {
		checks = append(checks, checkDisk(string(h.config.system), fmt.Sprintf("vm %s: disk %s", info.Name, d.Path), d))
	}
	return checks
}

func checkDisk(root, name string, d qemu.Disk) Check {
	mode := d.Cache
	if mode == "" {
		mode = qemu.DefaultCache
	}
	switch {
	case d.ReadOnly:
		return ok(name, "read-only")
	case d.Force:
		return warned(name, fmt.Sprintf("forced to cache %q: a resumed guest may miss writes it believes are on disk", mode),
			"Use cache none, or directsync if the disk has no power-loss protection.")
	}
	on, dev, err := diskNumber(d.Path)
	if err != nil {
		return failed(name, err.Error(), "Restore the image: the VM cannot be resumed without it.")
	}
	devices, err := blockdev.Below(root, dev)
	if errors.Is(err, blockdev.ErrNoDevice) {
		return checkDiskless(root, name, on, dev)
	}
	if err != nil {
		return warned(name, fmt.Sprintf("cache %s; what it lies on cannot be told: %v", mode, err), "Make sure that its storage has power-loss protection.")
	}
	return checkWriteCaches(name, mode, devices)
}

// diskNumber is the number of the device that holds an image: the file system's, or the image itself.
func diskNumber(path string) (on string, dev uint64, err error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", 0, fmt.Errorf("disk image %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		return "a block device", st.Rdev, nil
	}
	return "a file", st.Dev, nil
}

// checkDiskless is for images on file systems without a device of this machine.
func checkDiskless(root, name, on string, dev uint64) Check {
	mount, err := blockdev.MountOf(root, dev)
	switch {
	case err != nil:
		return warned(name, on+" on an unknown file system", "Make sure that its storage has power-loss protection.")
	case mount.Type == "tmpfs":
		return failed(name, on+" in memory (tmpfs), which an outage empties while the guest keeps its own", "Move the image to a disk.")
	}
	return warned(name, fmt.Sprintf("%s on %s: whether its writes survive an outage is for its server to say", on, mount.Type),
		"Make sure that the server survives the outage or writes synchronously.")
}

// checkWriteCaches looks at the disks' own caches, which QEMU has to flush in every save. A disk with power-loss
// protection reports none.
func checkWriteCaches(name, mode string, devices []blockdev.Device) Check {
	var volatile, all []string
	for _, d := range devices {
		all = append(all, d.Name)
		cached, err := d.VolatileCache()
		if err != nil {
			return warned(name, fmt.Sprintf("cache %s on %s; %v", mode, d.Name, err), "Make sure that the disk has power-loss protection.")
		}
		if cached {
			volatile = append(volatile, d.Name)
		}
	}
	switch {
	case len(volatile) == 0:
		return ok(name, "cache %s on %s, without a volatile write cache", mode, strings.Join(all, ", "))
	case mode == "directsync":
		return ok(name, "cache %s on %s, whose volatile write cache is flushed at every write", mode, strings.Join(volatile, ", "))
	}
	return warned(name, fmt.Sprintf("cache %s on %s with a volatile write cache: its flush is part of every save and may outlast the window", mode, strings.Join(volatile, ", ")),
		"Use cache directsync, or a disk with power-loss protection.")
}
