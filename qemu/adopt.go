package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// ErrGone is returned by Adopt when the process to adopt no longer exists.
var ErrGone = errors.New("the QEMU process has ended")

// Find names the QEMU that answers at rt's monitor, for a daemon that has started
// one but died before it could write down which. When there is none the error is
// ErrGone.
func Find(rt Runtime) (pid int, startTime uint64, err error) {
	conn, err := net.Dial("unix", rt.qmpPath())
	if err != nil {
		return 0, 0, fmt.Errorf("find the QEMU at %s: %w: %w", rt.qmpPath(), ErrGone, err)
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, 0, fmt.Errorf("find the QEMU at %s: %w", rt.qmpPath(), err)
	}
	// The credentials are those of the process that listens.
	var peer *unix.Ucred
	var asked error
	err = raw.Control(func(fd uintptr) { peer, asked = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(err, asked); err != nil {
		return 0, 0, fmt.Errorf("find the QEMU at %s: %w", rt.qmpPath(), err)
	}
	startTime, err = processStartTime(int(peer.Pid))
	return int(peer.Pid), startTime, err
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
