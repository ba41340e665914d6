// Package terminal joins the user's terminal with a serial console.
package terminal

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// rawTerminal switches f, if it is a terminal, to raw mode, in which every key
// goes to the guest. restore gives it its old mode back.
func rawTerminal(f *os.File) (restore func(), err error) {
	fd := int(f.Fd())
	old, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if errors.Is(err, unix.ENOTTY) {
		return func() {}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the terminal's mode: %w", err)
	}
	raw := *old // as cfmakeraw(3) does
	raw.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	raw.Oflag &^= unix.OPOST
	raw.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	raw.Cflag = raw.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &raw); err != nil {
		return nil, fmt.Errorf("set the terminal's mode: %w", err)
	}
	return func() { unix.IoctlSetTermios(fd, unix.TCSETS, old) }, nil
}

// keyboard reads a file that may be a terminal, so that Read can be ended from
// outside: read(2) on a terminal cannot.
type keyboard struct {
	file       *os.File
	wake, stop *os.File // a pipe: closing stop ends Read
}

func openKeyboard(f *os.File) (*keyboard, error) {
	wake, stop, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	return &keyboard{f, wake, stop}, nil
}

// Read waits for input. After Stop, and at the end of the file, it gives io.EOF.
func (k *keyboard) Read(p []byte) (int, error) {
	fds := []unix.PollFd{
		{Fd: int32(k.file.Fd()), Events: unix.POLLIN},
		{Fd: int32(k.wake.Fd()), Events: unix.POLLIN},
	}
	for {
		_, err := unix.Poll(fds, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("wait for input: %w", err)
		}
		if fds[1].Revents != 0 {
			return 0, io.EOF
		}
		return k.file.Read(p)
	}
}

// Stop ends a Read in progress and all later ones.
func (k *keyboard) Stop() { k.stop.Close() }

// Close releases the pipe, after the last Read has returned.
func (k *keyboard) Close() { k.wake.Close() }
