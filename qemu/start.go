package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/qmp"
)

// ErrVersion is returned by Start when the installed QEMU is not the pinned one.
var ErrVersion = errors.New("the installed QEMU is not the one this VM is pinned to")

// startTimeout bounds the time from fork to the first answer over QMP, which is
// 0.13 s on an idle machine; it is long because a host that recovers from an
// outage starts many at once.
const startTimeout = 2 * time.Minute

// Start starts the machine l as a process of its own and returns once QEMU
// answers and is prepared for saving. The guest runs, unless rt.Paused is set:
// then it waits for Cont; or rt.Incoming: then the process waits for Load. The
// process outlives this program.
func Start(ctx context.Context, l Launch, rt Runtime) (*Process, error) {
	p, err := start(ctx, l, rt)
	if err != nil {
		return nil, fmt.Errorf("start QEMU for %s: %w", l.Name, err)
	}
	return p, nil
}

func start(ctx context.Context, l Launch, rt Runtime) (*Process, error) {
	if err := rt.Check(); err != nil {
		return nil, err
	}
	b, err := Probe(ctx, l.QEMU)
	if err != nil {
		return nil, err
	}
	if b.Version != l.Version {
		return nil, fmt.Errorf("%s is %s, the VM needs %s: %w", b.Path, b.Version, l.Version, ErrVersion)
	}
	ram, err := l.takeRAM(b, rt)
	if err != nil {
		return nil, err
	}
	p, err := spawn(ctx, l.Command(rt), rt, ram)
	if ram != nil {
		ram.Close() // QEMU holds it now
	}
	if err != nil {
		return nil, err
	}
	p.binary = b
	if err := p.SetMigrationCapabilities(ctx); err != nil {
		return nil, errors.Join(err, p.Kill())
	}
	return p, nil
}

// spawn runs argv and connects to its monitor. The process inherits ram, unless it
// is nil. On an error nothing is left running.
func spawn(ctx context.Context, argv []string, rt Runtime, ram *os.File) (*Process, error) {
	if err := refuseLiveMonitor(rt.qmpPath()); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(rt.logPath(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return nil, fmt.Errorf("open QEMU's log: %w", err)
	}
	defer log.Close()
	mark := logMark{path: rt.logPath()}
	if st, err := log.Stat(); err == nil {
		mark.start = st.Size()
	}
	child, err := fork(argv, log, ram, rt.leashed)
	if err != nil {
		return nil, fmt.Errorf("run %s: %w", argv[0], err)
	}
	p, err := attach(child.Pid, child, rt, mark)
	if err != nil {
		_ = child.Kill()
		_, _ = child.Wait()
		return nil, err
	}
	protectFromOOM(child.Pid)
	if err := p.awaitMonitor(ctx); err != nil {
		return nil, errors.Join(err, p.Kill())
	}
	return p, nil
}

// refuseLiveMonitor fails when a QEMU already listens at path. QEMU would
// silently take the path over, and the other one could not be reached any more.
func refuseLiveMonitor(path string) error {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return nil
	}
	conn.Close()
	return fmt.Errorf("another QEMU already answers at %s: stop it first, or use another runtime_dir", path)
}

// fork starts argv in a session of its own, so that neither a signal to this
// program's group nor its end reaches it, with no file of ours but the log and
// the RAM that it locks.
//
// A child inherits the scheduling class of the thread that forks it. This
// program's threads may be real-time, and a guest's must not be until its owner
// says so: the fork happens on a thread that is made an ordinary one first and
// that is thrown away afterwards, which it is because it stays locked.
//
// A leashed child is killed when this program ends, whatever ends it.
func fork(argv []string, log, ram *os.File, leashed bool) (*os.Process, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	attr := &os.ProcAttr{
		Dir:   "/",
		Env:   environment(),
		Files: []*os.File{null, log, log},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	}
	if ram != nil {
		attr.Files = append(attr.Files, ram)
	}
	if leashed {
		attr.Sys.Pdeathsig = unix.SIGKILL
	}
	type result struct {
		child *os.Process
		err   error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread()
		if err := becomeOrdinary(); err != nil {
			done <- result{nil, fmt.Errorf("leave the real-time class: %w", err)}
			return
		}
		child, err := os.StartProcess(argv[0], argv, attr)
		done <- result{child, err}
		if err == nil && leashed {
			outlive(child.Pid)
		}
	}()
	r := <-done
	return r.child, r.err
}

// outlive returns when the child has ended. The kernel takes the end of the thread that has forked it, not that of the
// program, for the death of its parent.
func outlive(pid int) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
		if n > 0 || !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// becomeOrdinary takes raised priority from the calling thread. Giving up
// priority needs no privilege.
func becomeOrdinary() error {
	attr, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		return err
	}
	switch {
	case attr.Policy == unix.SCHED_FIFO, attr.Policy == unix.SCHED_RR, attr.Policy == unix.SCHED_DEADLINE, attr.Nice < 0:
		return unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL}, 0)
	}
	return nil
}

// environment is ours without what the service manager meant for us alone.
func environment() []string {
	var env []string
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		switch name {
		case "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES":
		default:
			env = append(env, v)
		}
	}
	return env
}

// oomScore makes a guest, whose RAM cannot be won back by killing it when it lies
// in NVRAM, one of the last victims of the kernel, after the daemon's own -999.
const oomScore = -900

// protectFromOOM needs CAP_SYS_RESOURCE. Without it the process is as killable as
// any other; the daemon reports that once, for itself.
func protectFromOOM(pid int) {
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(strconv.Itoa(oomScore)), 0)
}

// attach begins to watch a process. The pidfd is taken before the start time is
// read, so both speak of one process.
func attach(pid int, child *os.Process, rt Runtime, log logMark) (*Process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch QEMU (pid %d): %w", pid, err)
	}
	pidfd := os.NewFile(uintptr(fd), "pidfd")
	startTime, err := processStartTime(pid)
	if err != nil {
		pidfd.Close()
		return nil, err
	}
	p := &Process{
		pid: pid, startTime: startTime, rt: rt, log: log, child: child, pidfd: pidfd,
		ended: make(chan struct{}), events: make(chan struct{}), exited: make(chan struct{}),
		watching: make(chan struct{}), armed: noFdset,
	}
	go p.watchExit()
	return p, nil
}

// dialInterval paces the attempts to reach a QEMU that has not bound its socket yet.
const dialInterval = 2 * time.Millisecond

// awaitMonitor connects to the ordinary monitor as soon as QEMU answers there.
func (p *Process) awaitMonitor(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		c, err := qmp.Dial(ctx, p.rt.qmpPath())
		if err == nil {
			p.client = c
			go p.recordShutdown(c.Subscribe())
			return nil
		}
		select {
		case <-p.ended:
			close(p.events)
			return p.log.earlyExit(p.status)
		case <-ctx.Done():
			close(p.events)
			return fmt.Errorf("wait for QEMU (pid %d) to answer: %w; it logged: %s", p.pid, err, p.log.lastWords())
		case <-time.After(dialInterval):
		}
	}
}

// processStartTime is field 22 of /proc/PID/stat, in clock ticks since boot.
func processStartTime(pid int) (uint64, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("read the start time of pid %d: %w", pid, err)
	}
	// The command name, field 2, may hold anything, even spaces and brackets.
	end := strings.LastIndexByte(string(stat), ')')
	fields := strings.Fields(string(stat[end+1:]))
	const startTime = 22 - 3 // the first field after the name is number 3
	if len(fields) <= startTime {
		return 0, fmt.Errorf("read the start time of pid %d: %q is not a stat line", pid, stat)
	}
	return strconv.ParseUint(fields[startTime], 10, 64)
}
