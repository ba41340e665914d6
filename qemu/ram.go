package qemu

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
)

// ErrInUse is returned by Start when another QEMU already runs on the VM's RAM.
var ErrInUse = errors.New("another QEMU runs on the VM's memory")

// takeRAM opens and locks the memory of a persistent VM; it returns nil for a
// volatile one. The lock belongs to the open file and not to this program: the
// QEMU that inherits the file holds it for as long as it lives, so two QEMUs never
// run on one memory, even if this program dies between starting a QEMU and
// writing down that it did.
//
// The memory is also looked at before QEMU does: QEMU would make a missing file
// anew, and the guest would find it empty.
func (l Launch) takeRAM(b *Binary, rt Runtime) (*os.File, error) {
	if rt.RAM == nil {
		if rt.Incoming {
			return nil, errors.New("the state of a VM without persistent RAM cannot be loaded")
		}
		return nil, nil
	}
	if rt.RAM.Offset != 0 {
		if err := b.Has(FeatureOffset); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(rt.RAM.Path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("the VM's memory cannot be opened: check its pool: %w", err)
	}
	if err := l.lockRAM(f, rt); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (l Launch) lockRAM(f *os.File, rt Runtime) error {
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("examine the VM's memory: %w", err)
	}
	if end := int64(rt.RAM.Offset + l.Memory); st.Mode().IsRegular() && st.Size() < end {
		return fmt.Errorf("the VM's memory %s has %d bytes where %d are needed: check its pool", rt.RAM.Path, st.Size(), end)
	}
	part := unix.Flock_t{Type: unix.F_WRLCK, Whence: int16(io.SeekStart), Start: int64(rt.RAM.Offset), Len: int64(l.Memory)}
	err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &part)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return fmt.Errorf("%s: %w: stop that one first", rt.RAM.Path, ErrInUse)
	}
	if err != nil {
		return fmt.Errorf("lock the VM's memory %s: %w", rt.RAM.Path, err)
	}
	return nil
}

// InUse tells whether a QEMU, or what is about to become one, holds this memory.
func InUse(b Backing, size nvram.Bytes) (bool, error) {
	f, err := os.OpenFile(b.Path, os.O_RDWR, 0)
	if err != nil {
		return false, err
	}
	defer f.Close()
	part := unix.Flock_t{Type: unix.F_WRLCK, Whence: int16(io.SeekStart), Start: int64(b.Offset), Len: int64(size)}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &part); err != nil {
		return false, fmt.Errorf("look who uses the VM's memory %s: %w", b.Path, err)
	}
	return part.Type != unix.F_UNLCK, nil
}
