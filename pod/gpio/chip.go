package gpio

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// chips matches the character devices of all controllers.
const chips = "/dev/gpiochip*"

// Errors a caller decides on.
var (
	ErrNoLine = errors.New("no such GPIO line")
	ErrInUse  = errors.New("the GPIO line is in use")
)

// find returns a descriptor of the chip that has the line, and the line's offset there.
func find(c Config) (chip int, offset uint32, err error) {
	paths := []string{c.Chip}
	if !strings.Contains(c.Chip, "/") {
		if paths, err = filepath.Glob(chips); err != nil {
			return -1, 0, err
		}
	}
	type place struct {
		path   string
		offset uint32
	}
	var found []place
	for _, path := range paths {
		offsets, err := search(path, c)
		if err != nil && path == c.Chip {
			return -1, 0, err
		}
		for _, offset := range offsets {
			found = append(found, place{path, offset})
		}
	}
	switch len(found) {
	case 0:
		return -1, 0, fmt.Errorf("%w: looked at %d chips: gpioinfo lists the lines; the controller's driver must be loaded", ErrNoLine, len(paths))
	case 1:
		chip, err = open(found[0].path)
		return chip, found[0].offset, err
	}
	return -1, 0, fmt.Errorf("%w: the name is that of %d lines, such as %s %d and %s %d: give chip and number", ErrNoLine,
		len(found), found[0].path, found[0].offset, found[1].path, found[1].offset)
}

// search returns which lines of a chip a configuration can mean; none if the chip has another name.
func search(path string, c Config) ([]uint32, error) {
	chip, err := open(path)
	if err != nil {
		return nil, err
	}
	defer unix.Close(chip)
	var info chipInfo
	if err := ioctl(chip, ioctlChipInfo, unsafe.Pointer(&info)); err != nil {
		return nil, fmt.Errorf("%s is not a GPIO chip: %w", path, err)
	}
	if c.Chip != "" && c.Chip != path && c.Chip != text(info.name) && c.Chip != text(info.label) {
		return nil, nil
	}
	if n, err := strconv.ParseUint(c.Line, 10, 32); err == nil {
		if c.Chip == "" {
			return nil, nil // every chip has such a number
		}
		if n >= uint64(info.lines) {
			return nil, fmt.Errorf("%w: %s has %d lines, the first is 0", ErrNoLine, path, info.lines)
		}
		return []uint32{uint32(n)}, nil
	}
	var found []uint32
	for offset := range info.lines {
		line := lineInfo{offset: offset}
		if err := ioctl(chip, ioctlLineInfo, unsafe.Pointer(&line)); err != nil {
			return nil, fmt.Errorf("%s: line %d: %w", path, offset, err)
		}
		if text(line.name) == c.Line {
			found = append(found, offset)
		}
	}
	return found, nil
}

func open(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return -1, fmt.Errorf("%w: open %s: %w: ls %s shows the chips", ErrNoLine, path, err, chips)
	}
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", path, err)
	}
	return fd, nil
}

// line is a requested line. The kernel gives it back when the descriptor is closed.
type line struct {
	fd    int
	seqno uint32 // of the last edge; they begin with 1
}

// request finds the line and takes it.
func request(c Config) (*line, error) {
	chip, offset, err := find(c)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.name(), err)
	}
	defer unix.Close(chip)
	r := lineRequest{numLines: 1, eventBufferSize: queued}
	r.offsets[0] = offset
	copy(r.consumer[:], consumer)
	r.config.flags = flagInput | flagEdgeRising | flagEdgeFalling | biases[c.Bias]
	if c.ActiveLow {
		r.config.flags |= flagActiveLow
	}
	if c.Debounce > 0 {
		a := configAttribute{attr: lineAttribute{id: attrDebounce}, mask: 1}
		binary.NativeEndian.PutUint32(a.attr.value[:], uint32(c.Debounce.Microseconds()))
		r.config.attrs[0], r.config.numAttrs = a, 1
	}
	err = ioctl(chip, ioctlGetLine, unsafe.Pointer(&r))
	switch {
	case err == unix.EBUSY:
		info := lineInfo{offset: offset}
		ioctl(chip, ioctlLineInfo, unsafe.Pointer(&info)) // for the name alone
		return nil, fmt.Errorf("%s: %w by %q: end that program or driver", c.name(), ErrInUse, text(info.consumer))
	case err != nil:
		return nil, fmt.Errorf("%s: request the line with both edges: %w: it needs interrupts on both edges, and the bias that is configured", c.name(), err)
	}
	l := &line{fd: int(r.fd)}
	if err := unix.SetNonblock(l.fd, true); err != nil {
		unix.Close(l.fd)
		return nil, fmt.Errorf("%s: %w", c.name(), err)
	}
	return l, nil
}

// active reads the line.
func (l *line) active() (bool, error) {
	v := lineValues{mask: 1}
	if err := ioctl(l.fd, ioctlGetValues, unsafe.Pointer(&v)); err != nil {
		return false, err
	}
	return v.bits&1 != 0, nil
}

// text is a name as the kernel ends it, shown as printable characters.
func text(name [nameSize]byte) string {
	end := slices.Index(name[:], 0)
	if end < 0 {
		end = nameSize
	}
	return string(bytes.ToValidUTF8(name[:end], []byte("?")))
}

// ioctl returns bare error numbers: wrapping them would allocate.
func ioctl(fd int, request uint, arg unsafe.Pointer) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(arg))
		if errno == 0 {
			return nil
		}
		if errno != unix.EINTR {
			return errno
		}
	}
}
