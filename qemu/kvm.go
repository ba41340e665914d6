package qemu

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// From include/uapi/linux/kvm.h: _IO(0xAE, 0x00), and the only version there has
// been since Linux 2.6.22.
const (
	kvmGetAPIVersion = 0xAE00
	kvmAPIVersion    = 12
)

// KVM returns nil when /dev/kvm exists, may be opened and answers, and otherwise
// why hardware virtualisation is not available.
func KVM() error {
	return kvmAt("/dev/kvm")
}

func kvmAt(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%s is missing: load kvm_intel or kvm_amd, or enable virtualisation in the firmware: %w", path, err)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%s may not be opened: run as root or join the group kvm: %w", path, err)
	case err != nil:
		return fmt.Errorf("open %s: %w", path, err)
	}
	defer f.Close()
	version, err := unix.IoctlRetInt(int(f.Fd()), kvmGetAPIVersion)
	if err != nil {
		return fmt.Errorf("%s does not answer as KVM: %w", path, err)
	}
	if version != kvmAPIVersion {
		return fmt.Errorf("%s has API version %d, QEMU needs %d", path, version, kvmAPIVersion)
	}
	return nil
}
