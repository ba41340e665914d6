package nvdimm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// What WriteLabels and its callers decide on.
var (
	ErrActive = errors.New("the DIMM is in use by the kernel")   // a region with it is active
	ErrInUse  = errors.New("the memory is in use")               // something has mounted, mapped or opened it
	ErrNoArea = errors.New("the DIMM has no label storage area") // or the firmware gives no access
)

// The ioctls of linux/ndctl.h, and the layout of what they carry: headers of 32-bit words in the machine's order, and data
// behind the header. A test compares them with the header file.
const (
	ioctlGetConfigSize = 3<<30 | sizeHeader<<16 | 'N'<<8 | 4 // _IOWR('N', 4, struct nd_cmd_get_config_size)
	ioctlGetConfigData = 3<<30 | getHeader<<16 | 'N'<<8 | 5  // _IOWR('N', 5, struct nd_cmd_get_config_data_hdr)
	ioctlSetConfigData = 3<<30 | setHeader<<16 | 'N'<<8 | 6  // _IOWR('N', 6, struct nd_cmd_set_config_hdr)

	sizeHeader = 12 // status, config_size, max_xfer
	getHeader  = 12 // in_offset, in_length, status
	setHeader  = 8  // in_offset, in_length
	setTrailer = 4  // the status comes behind the data
)

// word is the order of the machine that the kernel runs on.
var word = binary.NativeEndian

// ioctl is ioctl(2) with a structure. Tests replace it by a module of their own.
type ioctl func(fd uintptr, request uint, structure []byte) error

// Labels is the label storage area of a DIMM: some KiB beside its memory, in which the kernel keeps the namespaces. It
// is an io.ReaderAt and an io.WriterAt. The kernel refuses writes, with ErrActive, while a region with the DIMM is active.
type Labels struct {
	file     *os.File
	dimm     string
	size     int
	transfer int // bytes that one ioctl carries at most
	ioctl    ioctl
}

// OpenLabels opens a DIMM's label storage area. It takes the rights to open /dev/nmemN for writing, even if only to read: the
// kernel takes the ioctls that read, by their numbers, for commands to the bus that change something (__nd_ioctl in
// drivers/nvdimm/bus.c), and refuses them on a file opened read-only.
func (s System) OpenLabels(dimm string) (*Labels, error) {
	if _, err := s.DIMM(dimm); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(s.path("dev", dimm), os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open the registers of %s: %w", dimm, err)
	}
	l := &Labels{file: f, dimm: dimm, ioctl: kernel}
	if err := l.measure(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return l, nil
}

// Size is the size of the area in bytes.
func (l *Labels) Size() int { return l.size }

// Transfer is how many bytes the firmware takes or gives at once.
func (l *Labels) Transfer() int { return l.transfer }

// Close closes the area.
func (l *Labels) Close() error { return l.file.Close() }

func (l *Labels) measure() error {
	var b [sizeHeader]byte
	err := l.ioctl(l.file.Fd(), ioctlGetConfigSize, b[:])
	if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("%s: %w", l.dimm, ErrNoArea)
	}
	if err := l.failed("ask for the size of the label storage area", err, word.Uint32(b[0:])); err != nil {
		return err
	}
	l.size, l.transfer = int(word.Uint32(b[4:])), int(word.Uint32(b[8:]))
	if l.size == 0 || l.transfer == 0 {
		return fmt.Errorf("%s: %w", l.dimm, ErrNoArea)
	}
	return nil
}

// failed tells how an ioctl ended, by the kernel and by the firmware.
func (l *Labels) failed(what string, err error, status uint32) error {
	switch {
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%s: %s: %w", l.dimm, what, ErrActive)
	case err != nil:
		return fmt.Errorf("%s: %s: %w", l.dimm, what, err)
	case status != 0:
		return fmt.Errorf("%s: %s: the firmware answers with status %#x", l.dimm, what, status)
	}
	return nil
}

// ReadAt reads the area. At its end the error is io.EOF.
func (l *Labels) ReadAt(p []byte, offset int64) (int, error) {
	if offset < 0 || offset > int64(l.size) {
		return 0, fmt.Errorf("%s: offset %d is outside the label storage area of %d bytes", l.dimm, offset, l.size)
	}
	wanted := len(p)
	p = p[:min(len(p), l.size-int(offset))]
	for at := 0; at < len(p); at += l.transfer {
		if err := l.get(p[at:min(at+l.transfer, len(p))], uint32(offset)+uint32(at)); err != nil {
			return at, err
		}
	}
	if len(p) < wanted {
		return len(p), io.EOF
	}
	return len(p), nil
}

func (l *Labels) get(p []byte, offset uint32) error {
	b := make([]byte, getHeader+len(p))
	word.PutUint32(b[0:], offset)
	word.PutUint32(b[4:], uint32(len(p)))
	err := l.ioctl(l.file.Fd(), ioctlGetConfigData, b)
	if err := l.failed("read the label storage area", err, word.Uint32(b[8:])); err != nil {
		return err
	}
	copy(p, b[getHeader:])
	return nil
}

// WriteAt writes the area. Nothing is written when p does not fit.
func (l *Labels) WriteAt(p []byte, offset int64) (int, error) {
	if offset < 0 || offset+int64(len(p)) > int64(l.size) {
		return 0, fmt.Errorf("%s: %d bytes at %d do not fit into the label storage area of %d bytes", l.dimm, len(p), offset, l.size)
	}
	for at := 0; at < len(p); at += l.transfer {
		if err := l.set(p[at:min(at+l.transfer, len(p))], uint32(offset)+uint32(at)); err != nil {
			return at, err
		}
	}
	return len(p), nil
}

func (l *Labels) set(p []byte, offset uint32) error {
	b := make([]byte, setHeader+len(p)+setTrailer)
	word.PutUint32(b[0:], offset)
	word.PutUint32(b[4:], uint32(len(p)))
	copy(b[setHeader:], p)
	err := l.ioctl(l.file.Fd(), ioctlSetConfigData, b)
	return l.failed("write the label storage area", err, word.Uint32(b[setHeader+len(p):]))
}
