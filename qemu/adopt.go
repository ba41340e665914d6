package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrGone is returned by Adopt when the process to adopt no longer exists.
var ErrGone = errors.New("the QEMU process has ended")

// Find names the QEMU that was started with rt, for a daemon that has started one but died before it could write
// down which. It is known by its arguments, which it has long before it answers. When there is none the
// error is ErrGone; a process that is just being forked has no arguments of its own yet, see InUse.
func Find(rt Runtime) (pid int, startTime uint64, err error) {
	own := "\x00" + socketChardev(qmpID, rt.qmpPath()) + "\x00"
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0, 0, err
	}
	for _, file := range files {
		argv, err := os.ReadFile(file)
		if err != nil || !strings.Contains(string(argv), own) {
			continue // what has ended meanwhile is none
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			continue
		}
		startTime, err := processStartTime(pid)
		return pid, startTime, err
	}
	return 0, 0, fmt.Errorf("find the QEMU at %s: %w", rt.qmpPath(), ErrGone)
}

// Adopt takes charge of a QEMU that an earlier run of this program has started,
// named by its pid and start time. It never touches another process that has got
// the same pid since. When the process is gone the error is ErrGone.
func Adopt(ctx context.Context, rt Runtime, pid int, startTime uint64) (*Process, error) {
	p, err := adopt(ctx, rt, pid, startTime)
	if err != nil {
		return nil, fmt.Errorf("adopt QEMU (pid %d): %w", pid, err)
	}
	return p, nil
}

func adopt(ctx context.Context, rt Runtime, pid int, startTime uint64) (*Process, error) {
	if pid <= 0 {
		return nil, fmt.Errorf("not a process id: %w", ErrGone)
	}
	mark := logMark{path: rt.logPath()}
	if st, err := os.Stat(mark.path); err == nil {
		mark.start = st.Size()
	}
	p, err := attach(pid, nil, rt, mark)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, os.ErrNotExist) {
		return nil, ErrGone
	}
	if err != nil {
		return nil, err
	}
	if p.startTime != startTime {
		close(p.events)
		p.abandon()
		return nil, fmt.Errorf("the pid belongs to a process started at tick %d, not %d: %w", p.startTime, startTime, ErrGone)
	}
	if err := p.awaitMonitor(ctx); err != nil {
		p.abandon()
		if p.hasEnded() {
			return nil, fmt.Errorf("%w: %w", ErrGone, err)
		}
		return nil, err
	}
	p.binary = &Binary{Version: versionOf(p.client.Greeting())}
	if p.binary.Path, err = os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err != nil {
		p.binary.Path = "QEMU"
	}
	if err := p.binary.probeFeatures(ctx, p.client); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// abandon stops watching a process that there is no connection to.
func (p *Process) abandon() {
	p.pidfd.Close()
	<-p.watching
}

func (p *Process) hasEnded() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// KillPID ends a QEMU that nothing is known of but its pid, and waits until it is
// gone.
func KillPID(pid int) error {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("kill QEMU (pid %d): %w", pid, err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill QEMU (pid %d): %w", pid, err)
	}
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if n, err := unix.Poll(fds, int(killGrace.Milliseconds())); err != nil || n == 0 {
		return fmt.Errorf("kill QEMU (pid %d): still there after %v", pid, killGrace)
	}
	return nil
}
