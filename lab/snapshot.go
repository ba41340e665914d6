package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// CutCopy makes a host, in another folder, whose power was cut at this instant, while this one goes on. Every
// thread of the outer QEMU is stopped while the NVDIMMs and the disk are copied, so that the copy is what a
// real cut at this instant would have left. The host that goes on sees its clock jump by that time, which is returned.
func (h *Host) CutCopy(ctx context.Context, folder string) (*Host, time.Duration, error) {
	folder, err := filepath.Abs(folder)
	if err != nil {
		return nil, 0, err
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, 0, err
	}
	thaw, err := h.freeze(ctx)
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("copy a power cut: %w", err), os.RemoveAll(folder))
	}
	start := time.Now()
	err = errors.Join(h.copyTo(folder, h.images()), thaw())
	frozen := time.Since(start)
	if err == nil {
		err = h.copyTo(folder, []string{hostFile, initramfsFile})
	}
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("copy a power cut: %w", err), os.RemoveAll(folder))
	}
	return &Host{folder: folder, config: h.config, tied: h.tied}, frozen, nil
}

// Keep copies all files of a host whose power is off to another folder, where its power-on.sh works, too.
func (h *Host) Keep(folder string) error {
	if h.On() {
		return ErrOn
	}
	names := append(h.images(), hostFile, initramfsFile, productFile)
	for _, name := range []string{QEMULog, ConsoleLog, DaemonLog} {
		if _, err := os.Stat(h.path(name)); err == nil {
			names = append(names, name)
		}
	}
	kept := &Host{folder: folder, config: h.config}
	return errors.Join(h.copyTo(folder, names), kept.writeCommand())
}

// images are the files that survive a power cut.
func (h *Host) images() []string {
	names := []string{diskFile}
	for n := range h.config.Options.NVDIMMs {
		names = append(names, NVDIMMFile(n))
	}
	return names
}

func (h *Host) copyTo(folder string, names []string) error {
	for _, name := range names {
		if err := copySparse(filepath.Join(folder, name), h.path(name)); err != nil {
			return err
		}
	}
	return nil
}

// freeze stops every thread of the outer QEMU and waits until all have stopped.
func (h *Host) freeze(ctx context.Context) (thaw func() error, err error) {
	o, err := h.running()
	if err != nil {
		return nil, err
	}
	if o == nil {
		return nil, ErrOff
	}
	if err := unix.Kill(o.PID, unix.SIGSTOP); err != nil {
		return nil, err
	}
	thaw = func() error { return unix.Kill(o.PID, unix.SIGCONT) }
	for {
		stopped, err := allStopped(o.PID)
		if stopped {
			return thaw, nil
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return nil, errors.Join(err, thaw())
		}
		time.Sleep(time.Millisecond)
	}
}

// allStopped: a thread in a system call stops when the call returns, so that no write is cut in two.
func allStopped(pid int) (bool, error) {
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(stats) == 0 {
		return false, fmt.Errorf("the outer QEMU is gone: %w", ErrOff)
	}
	for _, path := range stats {
		content, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // a worker that ended just now
		}
		if err != nil {
			return false, err
		}
		if state := statField(content, 3); state != "T" && state != "t" {
			return false, nil
		}
	}
	return true, nil
}

// copySparse copies a file without its holes.
func copySparse(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, info.Mode().Perm())
	if err != nil {
		return err
	}
	err = copyData(out, in, info.Size())
	return errors.Join(err, out.Truncate(info.Size()), out.Close())
}

func copyData(out, in *os.File, size int64) error {
	for at := int64(0); at < size; {
		data, err := unix.Seek(int(in.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // nothing but a hole is left
			return nil
		}
		if err != nil {
			return err
		}
		hole, err := unix.Seek(int(in.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.NewOffsetWriter(out, data), io.NewSectionReader(in, data, hole-data)); err != nil {
			return err
		}
		at = hole
	}
	return nil
}
