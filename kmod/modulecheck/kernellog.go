package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// kernelLog reads what the kernel logs, from its opening on.
type kernelLog struct {
	fd    int
	lines []string
}

func openKernelLog() (*kernelLog, error) {
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("kernel log: %w", err)
	}
	if _, err := unix.Seek(fd, 0, unix.SEEK_END); err != nil {
		return nil, fmt.Errorf("kernel log: %w", err)
	}
	return &kernelLog{fd: fd}, nil
}

// read takes in what is new. A record reads "level,sequence,time,flags;text".
func (l *kernelLog) read() error {
	record := make([]byte, 8192)
	for {
		n, err := unix.Read(l.fd, record)
		if errors.Is(err, unix.EAGAIN) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("kernel log: %w", err)
		}
		_, text, _ := strings.Cut(string(record[:n]), ";")
		first, _, _ := strings.Cut(text, "\n")
		l.lines = append(l.lines, first)
	}
}

// mark returns the place of what comes next.
func (l *kernelLog) mark() (int, error) {
	err := l.read()
	return len(l.lines), err
}

// find returns the first line since the mark that contains one of the texts.
func (l *kernelLog) find(mark int, texts ...string) (string, error) {
	if err := l.read(); err != nil {
		return "", err
	}
	for _, line := range l.lines[mark:] {
		for _, text := range texts {
			if strings.Contains(line, text) {
				return line, nil
			}
		}
	}
	return "", nil
}

// expect waits for a line with the text.
func (l *kernelLog) expect(mark int, text string) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		line, err := l.find(mark, text)
		if err != nil || line != "" {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the kernel did not log %q", text)
		}
	}
}

// complaints are what the kernel says of a broken driver and of a machine that stood still. That a handler "took too
// long" is not one of them: the host may take the CPU of an emulated machine away in the middle of it.
var complaints = []string{"BUG", "WARNING", "Oops", "Call Trace", "lockup", "LOCKUP", "stall", "hung_task", "blocked for more", "scheduling while atomic"}

func (l *kernelLog) expectNoComplaint(mark int) error {
	line, err := l.find(mark, complaints...)
	if err == nil && line != "" {
		err = fmt.Errorf("the kernel complains: %s", line)
	}
	return err
}
