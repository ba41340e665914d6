package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/qmp"
)

// Process is one running QEMU, started or adopted by this program.
type Process struct {
	pid       int
	startTime uint64
	rt        Runtime
	binary    *Binary     // what this QEMU can do; nil while it is itself being probed
	log       logMark     // where this run begins in the log
	client    *qmp.Client // the ordinary monitor
	child     *os.Process // nil when adopted: somebody else reaps it
	pidfd     *os.File    // readable once the process has ended

	shutdown atomic.Pointer[qmp.Shutdown] // the latest SHUTDOWN event
	ended    chan struct{}                // closed when the process is gone
	status   string                       // how it ended, known of children only; written before ended is closed
	events   chan struct{}                // closed when no further event will come
	exited   chan struct{}                // closed after both
	reason   string                       // written before exited is closed
	watching chan struct{}                // closed when watchExit has returned

	arming sync.Mutex // guards armed
	armed  int64      // fdset of the file handed over by ArmFile, or noFdset
}

// ErrDied is a QEMU that ended without saying why, as one does that crashed or was killed.
var ErrDied = errors.New("QEMU ended")

// PID is the process id.
func (p *Process) PID() int { return p.pid }

// StartTime is when the process began, in clock ticks since the host's boot.
// Together with the pid it names a process for good.
func (p *Process) StartTime() uint64 { return p.startTime }

// QMP is the connection to the ordinary monitor.
func (p *Process) QMP() *qmp.Client { return p.client }

// EmergencyPath is the socket of the second monitor, which is kept for outages.
func (p *Process) EmergencyPath() string { return p.rt.emergencyPath() }

// ConsolePath is the socket of the guest's first serial port.
func (p *Process) ConsolePath() string { return p.rt.consolePath() }

// AgentPath is the socket of the guest agent's channel.
func (p *Process) AgentPath() string { return p.rt.agentPath() }

// Exited is closed when the process has ended, for whatever reason.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Released is closed when nobody watches the process any more: it has ended, or
// Close let go of it.
func (p *Process) Released() <-chan struct{} { return p.watching }

// DumpsToFile tells whether this QEMU migrates to a "file:" URI, where an older one
// takes a plain descriptor.
func (p *Process) DumpsToFile() bool { return p.binary.Has(FeatureFileURI) == nil }

// ExitReason says, once Exited is closed, why the process has ended: the guest
// powered off, it was killed, or QEMU's last words.
func (p *Process) ExitReason() string {
	select {
	case <-p.exited:
		return p.reason
	default:
		return "still running"
	}
}

// GuestPoweredOff tells whether the guest itself has asked for the power to go off.
func (p *Process) GuestPoweredOff() bool {
	s := p.shutdown.Load()
	return s != nil && s.Guest
}

// Close lets go of the process without ending it. Exited is not closed any more
// unless it already is.
func (p *Process) Close() error {
	err := p.client.Close()
	<-p.events
	// Closing the pidfd wakes watch.
	if e := p.pidfd.Close(); !errors.Is(e, os.ErrClosed) {
		err = errors.Join(err, e)
	}
	<-p.watching
	return err
}

// watchExit waits for the process to end, reaps it if it is our child, and then
// finds out why. It is the only one that closes ended and exited.
func (p *Process) watchExit() {
	defer close(p.watching)
	if !waitReadable(p.pidfd) {
		return // Close
	}
	if p.child != nil {
		if state, err := p.child.Wait(); err == nil {
			p.status = state.String()
		}
	}
	close(p.ended)
	<-p.events // the connection ends with the process; its last events explain the end
	p.reason = p.explainExit()
	p.pidfd.Close()
	close(p.exited)
}

// waitReadable parks until f is readable, and reports false when f was closed.
func waitReadable(f *os.File) bool {
	conn, err := f.SyscallConn()
	if err != nil {
		return false
	}
	err = conn.Read(func(fd uintptr) bool {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 0)
		return err == nil && n == 1
	})
	return err == nil
}

// recordShutdown keeps the latest SHUTDOWN event for ExitReason.
func (p *Process) recordShutdown(sub *qmp.Subscription) {
	defer close(p.events)
	defer sub.Close()
	for {
		event, err := sub.Next(context.Background())
		if err != nil {
			return
		}
		if s, ok := event.(qmp.Shutdown); ok {
			p.shutdown.Store(&s)
		}
	}
}

func (p *Process) explainExit() string {
	if s := p.shutdown.Load(); s != nil {
		if why, ok := shutdownReasons[s.Reason]; ok {
			return why
		}
		return "QEMU shut down: " + s.Reason
	}
	how := "QEMU ended"
	if p.status != "" {
		how += " (" + p.status + ")"
	}
	if words := p.log.lastWords(); words != "" {
		return how + ": " + words
	}
	return how + " without a word: it was killed, or it crashed"
}

// shutdownReasons translates ShutdownCause of QEMU's qapi/run-state.json.
var shutdownReasons = map[string]string{
	"guest-shutdown":        "the guest powered off",
	"guest-reset":           "the guest rebooted and QEMU was told not to",
	"guest-panic":           "the guest's kernel panicked",
	"host-qmp-quit":         "QEMU was told to quit",
	"host-signal":           "QEMU was ended by a signal",
	"host-error":            "QEMU met an error of the host",
	"host-qmp-system-reset": "QEMU was reset and told not to",
}

// killGrace bounds the wait for a killed process. SIGKILL takes effect at once
// unless the process is stuck in the kernel, as on a dead disk.
const killGrace = 10 * time.Second

// Kill ends the process with SIGKILL and returns when it is gone.
func (p *Process) Kill() error {
	if err := p.signal(unix.SIGKILL); err != nil {
		return err
	}
	select {
	case <-p.exited:
		return nil
	case <-p.watching:
		select {
		case <-p.exited:
			return nil
		default:
			return fmt.Errorf("kill QEMU (pid %d): it was let go of before it ended", p.pid)
		}
	case <-time.After(killGrace):
		return fmt.Errorf("kill QEMU (pid %d): still there after %v, probably waiting for a disk in the kernel", p.pid, killGrace)
	}
}

// signal cannot hit another process that got the same pid: it goes through the pidfd.
func (p *Process) signal(sig unix.Signal) error {
	conn, err := p.pidfd.SyscallConn()
	if err != nil {
		return nil // closed: the process is gone
	}
	var sent error
	err = conn.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), sig, nil, 0) })
	if err != nil || errors.Is(sent, unix.ESRCH) {
		return nil
	}
	if sent != nil {
		return fmt.Errorf("signal QEMU (pid %d): %w", p.pid, sent)
	}
	return nil
}

// quitGrace bounds the end of a QEMU that was told to quit. It has disks to flush.
const quitGrace = 30 * time.Second

// Quit asks QEMU to end without asking the guest, and kills it when it has not
// ended before ctx or quitGrace.
func (p *Process) Quit(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, quitGrace)
	defer cancel()
	// The reply races with QEMU's end, so only the end itself counts.
	asked := p.client.Execute(ctx, "quit", nil, nil)
	if asked == nil || p.client.Err() != nil {
		select {
		case <-p.exited:
			return nil
		case <-ctx.Done():
		}
	}
	return p.Kill()
}
