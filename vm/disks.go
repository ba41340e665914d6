package vm

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/qemu"
	"github.com/nv-hypervisor/nv-hypervisor/vm/record"
	"github.com/nv-hypervisor/nv-hypervisor/vm/saver"
)

// openDisks opens what the saver needs to examine each disk image after the guest
// has stopped. O_PATH: the image's own lock and contents are QEMU's business.
func openDisks(refs []qemu.DiskRef) ([]saver.Disk, error) {
	var disks []saver.Disk
	for _, ref := range refs {
		fd, err := unix.Open(ref.Path, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			closeDisks(disks)
			return nil, fmt.Errorf("open disk image %s: %w", ref.Path, err)
		}
		id, block, err := identify(fd, ref.Path)
		disks = append(disks, saver.Disk{FD: fd, BlockDevice: block, Identity: id})
		if err != nil {
			closeDisks(disks)
			return nil, err
		}
	}
	return disks, nil
}

func closeDisks(disks []saver.Disk) {
	for _, d := range disks {
		unix.Close(d.FD)
	}
}

// examineDisks identifies the images as they are now; one that cannot be
// examined is the zero identity, which matches nothing.
func examineDisks(refs []qemu.DiskRef) []record.DiskIdentity {
	ids := make([]record.DiskIdentity, len(refs))
	for i, ref := range refs {
		fd, err := unix.Open(ref.Path, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		if id, _, err := identify(fd, ref.Path); err == nil {
			ids[i] = id
		}
		unix.Close(fd)
	}
	return ids
}

// identify tells a disk image from another. A block device has no meaningful
// inode or mtime: it is known by its size in bytes and its path, which should be
// one below /dev/disk/by-id.
func identify(fd int, path string) (record.DiskIdentity, bool, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return record.DiskIdentity{}, false, fmt.Errorf("examine disk image %s: %w", path, err)
	}
	id := record.DiskIdentity{
		Device: st.Dev, Inode: st.Ino, Size: uint64(st.Size), MtimeNS: st.Mtim.Nano(), PathHash: record.HashPath(path),
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return id, false, nil
	}
	size, err := blockDeviceSize(path)
	return record.DiskIdentity{Size: size, PathHash: id.PathHash}, true, err
}

func blockDeviceSize(path string) (uint64, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open block device %s: %w", path, err)
	}
	defer unix.Close(fd)
	end, err := unix.Seek(fd, 0, unix.SEEK_END)
	if err != nil {
		return 0, fmt.Errorf("find the size of block device %s: %w", path, err)
	}
	return uint64(end), nil
}
