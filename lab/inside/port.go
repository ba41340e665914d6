package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// port is the inside of a virtio serial port, see drivers/char/virtio_console.c in the Linux sources: a read of 0
// bytes means that the outside is not connected, and a change of that wakes who waits.
type port struct {
	*os.File
	gone bool // the last read said that the client has gone
}

// openPort opens a port by its name. Not blocking, so that reads and writes wait in the runtime's poller and have deadlines.
func openPort(name string) (*port, error) {
	f, err := openDevice(name, os.O_RDWR|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	return &port{File: f}, nil
}

// portLimit is how long ports may take to appear: the driver hears of them one by one after it is loaded.
const portLimit = 30 * time.Second

func openDevice(name string, flag int) (*os.File, error) {
	for end := time.Now().Add(portLimit); ; time.Sleep(10 * time.Millisecond) {
		device, err := portDevice(name)
		if err == nil {
			var f *os.File
			if f, err = os.OpenFile(device, flag, 0); err == nil {
				return f, nil
			}
		}
		if !errors.Is(err, fs.ErrNotExist) || time.Now().After(end) {
			return nil, err
		}
	}
}

func portDevice(name string) (string, error) {
	names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return "", err
	}
	for _, path := range names {
		content, err := os.ReadFile(path)
		if err == nil && strings.TrimSpace(string(content)) == name {
			return "/dev/" + filepath.Base(filepath.Dir(path)), nil
		}
	}
	return "", fmt.Errorf("virtio serial port %s: %w", name, fs.ErrNotExist)
}

// settleTime is how long the outside must be away to be gone. The kernel hands over data at once, but the news that
// a client has gone and another has come from a work queue: what looks like a client that has gone, after its
// request was read, can be the forerunner of the one that sent the request.
const settleTime = 300 * time.Millisecond

// Read returns io.EOF once when the client goes; the read after that waits for the next client.
func (p *port) Read(b []byte) (int, error) {
	if p.gone {
		n, err := p.readNext(b)
		p.gone = err != nil
		return n, err
	}
	for {
		n, err := p.File.Read(b)
		if !errors.Is(err, io.EOF) {
			return n, err
		}
		if p.gone, err = p.staysAway(); err != nil {
			return 0, err
		}
		if p.gone {
			return 0, io.EOF
		}
	}
}

// staysAway waits until the outside is connected again, or long enough to be sure that it is not.
func (p *port) staysAway() (bool, error) {
	for end := time.Now().Add(settleTime); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		connected := false
		err := p.control(func(fd int) (err error) {
			state := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			_, err = unix.Poll(state, 0)
			connected = state[0].Revents&unix.POLLHUP == 0
			return err
		})
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || connected {
			return false, err
		}
	}
	return true, nil
}

func (p *port) control(do func(fd int) error) error {
	raw, err := p.SyscallConn()
	if err != nil {
		return err
	}
	var problem error
	err = raw.Control(func(fd uintptr) { problem = do(int(fd)) })
	return errors.Join(err, problem)
}

// readNext waits for the bytes of the next client.
func (p *port) readNext(b []byte) (int, error) {
	raw, err := p.SyscallConn()
	if err != nil {
		return 0, err
	}
	var n int
	var problem error
	err = raw.Read(func(fd uintptr) bool {
		n, problem = unix.Read(int(fd), b)
		return n > 0 || problem != nil && problem != unix.EAGAIN && problem != unix.EINTR
	})
	return max(n, 0), errors.Join(err, problem)
}
