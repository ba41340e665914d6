package nvdimm

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// module answers ioctls as the kernel and a module's firmware do.
type module struct {
	t        *testing.T
	area     []byte
	transfer int
	status   uint32 // of the firmware
	errno    unix.Errno
	stuck    bool // takes writes and forgets them
	requests int
}

func (m *module) ioctl(_ uintptr, request uint, b []byte) error {
	m.requests++
	if m.errno != 0 {
		return m.errno
	}
	switch request {
	case ioctlGetConfigSize:
		word.PutUint32(b[0:], m.status)
		word.PutUint32(b[4:], uint32(len(m.area)))
		word.PutUint32(b[8:], uint32(m.transfer))
	case ioctlGetConfigData:
		offset, n := m.bounds(b, len(b)-getHeader)
		word.PutUint32(b[8:], m.status)
		copy(b[getHeader:], m.area[offset:][:n])
	case ioctlSetConfigData:
		offset, n := m.bounds(b, len(b)-setHeader-setTrailer)
		if !m.stuck && m.status == 0 {
			copy(m.area[offset:], b[setHeader:][:n])
		}
		word.PutUint32(b[setHeader+n:], m.status)
	default:
		m.t.Errorf("unknown request %#x", request)
	}
	return nil
}

func (m *module) bounds(b []byte, room int) (offset, n int) {
	offset, n = int(word.Uint32(b[0:])), int(word.Uint32(b[4:]))
	if n == 0 || n > m.transfer || n != room || offset+n > len(m.area) {
		m.t.Errorf("%d bytes at %d, with room for %d: at most %d may be transferred, the area has %d", n, offset, room, m.transfer, len(m.area))
	}
	return offset, n
}

func (m *module) open() (*Labels, error) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	m.t.Cleanup(func() { f.Close() })
	l := &Labels{file: f, dimm: "nmem0", ioctl: m.ioctl}
	return l, l.measure()
}

func opened(t *testing.T, size, transfer int) (*module, *Labels) {
	t.Helper()
	m := &module{t: t, area: make([]byte, size), transfer: transfer}
	for i := range m.area {
		m.area[i] = byte(i * 7)
	}
	l, err := m.open()
	if err != nil {
		t.Fatal(err)
	}
	return m, l
}

func TestReadLabels(t *testing.T) {
	m, l := opened(t, 1000, 96)
	for _, c := range []struct{ offset, n int }{{0, 1000}, {0, 1}, {95, 2}, {999, 1}, {1000, 0}, {96, 96}} {
		p := make([]byte, c.n)
		n, err := l.ReadAt(p, int64(c.offset))
		if n != c.n || err != nil || !bytes.Equal(p, m.area[c.offset:][:c.n]) {
			t.Errorf("%d bytes at %d: %d, %v", c.n, c.offset, n, err)
		}
	}
	if n, err := l.ReadAt(make([]byte, 20), 990); n != 10 || err != io.EOF {
		t.Errorf("beyond the end: %d, %v", n, err)
	}
	for _, offset := range []int64{-1, 1001} {
		if _, err := l.ReadAt(make([]byte, 1), offset); err == nil || err == io.EOF {
			t.Errorf("at %d: %v", offset, err)
		}
	}
	all, err := io.ReadAll(io.NewSectionReader(l, 0, int64(l.Size())))
	if err != nil || !bytes.Equal(all, m.area) {
		t.Errorf("read as a stream: %v", err)
	}
}

func TestWriteLabels(t *testing.T) {
	m, l := opened(t, 1000, 96)
	want := bytes.Clone(m.area)
	p := bytes.Repeat([]byte("label "), 50)
	copy(want[700:], p)
	if err := l.replace(p, 700); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(m.area, want) {
		t.Error("something else was written")
	}
	before := m.requests
	if _, err := l.WriteAt(p, 701); err == nil || m.requests != before {
		t.Errorf("300 bytes at 701 of 1000: %v, %d requests", err, m.requests-before)
	}
	m.stuck = true
	if err := l.replace([]byte("other"), 0); err == nil || !strings.Contains(err.Error(), "defective") {
		t.Errorf("a module that forgets: %v", err)
	}
}

func TestLabelErrors(t *testing.T) {
	m, l := opened(t, 1000, 96)
	m.status = 3
	if _, err := l.ReadAt(make([]byte, 8), 0); err == nil || !strings.Contains(err.Error(), "status 0x3") {
		t.Errorf("the firmware refuses to read: %v", err)
	}
	if _, err := l.WriteAt(make([]byte, 8), 0); err == nil || !strings.Contains(err.Error(), "status 0x3") {
		t.Errorf("the firmware refuses to write: %v", err)
	}
	m.status, m.errno = 0, unix.EBUSY
	if _, err := l.WriteAt(make([]byte, 8), 0); !errors.Is(err, ErrActive) {
		t.Errorf("the kernel is using it: %v", err)
	}
	for _, m := range []*module{
		{t: t, transfer: 96},
		{t: t, area: make([]byte, 10)},
		{t: t, errno: unix.ENOTTY},
	} {
		if _, err := m.open(); !errors.Is(err, ErrNoArea) {
			t.Errorf("%+v: %v", m, err)
		}
	}
	if _, err := (&module{t: t, errno: unix.EPERM}).open(); !errors.Is(err, unix.EPERM) {
		t.Errorf("not permitted: %v", err)
	}
}

// header is a C program that prints what this package states about linux/ndctl.h.
const header = `#include <stddef.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <linux/ndctl.h>
int main(void)
{
	printf("%lu %lu %lu\n", (unsigned long)ND_IOCTL_GET_CONFIG_SIZE, (unsigned long)ND_IOCTL_GET_CONFIG_DATA, (unsigned long)ND_IOCTL_SET_CONFIG_DATA);
	printf("%zu %zu %zu %zu\n", sizeof(struct nd_cmd_get_config_size), offsetof(struct nd_cmd_get_config_size, status),
		offsetof(struct nd_cmd_get_config_size, config_size), offsetof(struct nd_cmd_get_config_size, max_xfer));
	printf("%zu %zu %zu %zu %zu\n", sizeof(struct nd_cmd_get_config_data_hdr), offsetof(struct nd_cmd_get_config_data_hdr, in_offset),
		offsetof(struct nd_cmd_get_config_data_hdr, in_length), offsetof(struct nd_cmd_get_config_data_hdr, status),
		offsetof(struct nd_cmd_get_config_data_hdr, out_buf));
	printf("%zu %zu %zu %zu\n", sizeof(struct nd_cmd_set_config_hdr), offsetof(struct nd_cmd_set_config_hdr, in_offset),
		offsetof(struct nd_cmd_set_config_hdr, in_length), offsetof(struct nd_cmd_set_config_hdr, in_buf));
	return 0;
}
`

// The numbers and offsets are those of the kernel's header.
func TestHeaderFile(t *testing.T) {
	dir := t.TempDir()
	source, program := filepath.Join(dir, "header.c"), filepath.Join(dir, "header")
	if err := os.WriteFile(source, []byte(header), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("gcc", "-Wall", "-Werror", "-o", program, source).CombinedOutput(); err != nil {
		t.Fatalf("%v; run make deps\n%s", err, out)
	}
	got, err := exec.Command(program).Output()
	if err != nil {
		t.Fatal(err)
	}
	want := join(ioctlGetConfigSize, ioctlGetConfigData, ioctlSetConfigData) +
		join(sizeHeader, 0, 4, 8) + // measure
		join(getHeader, 0, 4, 8, getHeader) + // get
		join(setHeader, 0, 4, setHeader) // set
	if string(got) != want {
		t.Errorf("the header says\n%sthis package\n%s", got, want)
	}
}

func join(numbers ...uint) string {
	var b strings.Builder
	for i, n := range numbers {
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprint(&b, n)
	}
	return b.String() + "\n"
}
