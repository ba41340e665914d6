package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Frozen is how long no thread of a host ran. Its clock goes on meanwhile.
type Frozen struct {
	At  time.Time
	For time.Duration
}

// CutCopy makes a host, in another folder, whose power was cut at this instant, while this one goes on. Every
// thread of the outer QEMU is stopped while the NVDIMMs and the disk are copied, so that the copy is what a
// real cut at this instant would have left. The host that goes on sees its clock jump by the time it was frozen.
//
// The folder may be that of an earlier copy whose power is off. Its images are overwritten, which takes a tenth of the time
// that new ones take.
func (h *Host) CutCopy(ctx context.Context, folder string) (*Host, Frozen, error) {
	folder, err := h.prepareCopy(folder)
	if err != nil {
		return nil, Frozen{}, err
	}
	frozen, err := h.whileFrozen(ctx, func() error { return h.copyTo(folder, h.images()) })
	if err == nil {
		err = h.copyTo(folder, []string{hostFile, initramfsFile})
	}
	if err != nil {
		return nil, Frozen{}, errors.Join(fmt.Errorf("copy a power cut: %w", err), os.RemoveAll(folder))
	}
	return &Host{folder: folder, config: h.config, tied: h.tied}, frozen, nil
}

// whileFrozen does something while every thread of the outer QEMU is stopped.
func (h *Host) whileFrozen(ctx context.Context, do func() error) (Frozen, error) {
	at := time.Now()
	thaw, err := h.freeze(ctx)
	if err != nil {
		return Frozen{}, err
	}
	err = errors.Join(do(), thaw())
	return Frozen{At: at, For: time.Since(at)}, err
}

// Duplicate copies what survives power cuts, of a host whose power is off, to a host in another folder, as CutCopy does.
func (h *Host) Duplicate(folder string) (*Host, error) {
	if h.On() {
		return nil, fmt.Errorf("copy %s: %w", h.folder, ErrOn)
	}
	folder, err := h.prepareCopy(folder)
	if err == nil {
		err = h.copyTo(folder, append(h.images(), hostFile, initramfsFile))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("copy %s: %w", h.folder, err), os.RemoveAll(folder))
	}
	return &Host{folder: folder, config: h.config, tied: h.tied}, nil
}

// prepareCopy makes the folder of a copy, or removes what an earlier one has left there but its images.
func (h *Host) prepareCopy(folder string) (string, error) {
	folder, err := filepath.Abs(folder)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", err
	}
	earlier := &Host{folder: folder}
	if earlier.On() {
		return "", fmt.Errorf("copy to %s: %w", folder, ErrOn)
	}
	entries, err := os.ReadDir(folder)
	for _, e := range entries {
		if !slices.Contains(h.images(), e.Name()) {
			err = errors.Join(err, os.Remove(filepath.Join(folder, e.Name())))
		}
	}
	return folder, err
}

// Keep copies all files of a host whose power is off to another folder, where its power-on.sh works, too, with the programs that
// are under test now.
func (h *Host) Keep(ctx context.Context, folder string) error {
	if h.On() {
		return ErrOn
	}
	names := append(h.images(), hostFile, initramfsFile)
	for _, name := range []string{QEMULog, ConsoleLog, DaemonLog} {
		if _, err := os.Stat(h.path(name)); err == nil {
			names = append(names, name)
		}
	}
	kept := &Host{folder: folder, config: h.config}
	return errors.Join(h.copyTo(folder, names), kept.installProduct(ctx), kept.writeCommand())
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

// copySparse copies a file without its holes, over one that may be there.
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
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, info.Mode().Perm())
	if err != nil {
		return err
	}
	err = errors.Join(out.Truncate(info.Size()), copyData(out, in, info.Size()))
	return errors.Join(err, out.Close())
}

func copyData(out, in *os.File, size int64) error {
	for at := int64(0); at < size; {
		data, err := unix.Seek(int(in.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // nothing but a hole is left
			data, err = size, nil
		}
		if err == nil && data > at {
			err = unix.Fallocate(int(out.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, data-at)
		}
		if err != nil || data == size {
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
