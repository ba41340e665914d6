package floor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/qemu"
)

// Names of the descriptor in QEMU, before and since it knows "file:".
const (
	fdName = "floor"
	fdSet  = "1"
)

// buffer is what QEMU dumps the volatile state into, as package saver makes it.
type buffer struct {
	fd     int // memfd
	writer int // the open file QEMU shares: its offset is the length of the dump
	mapped []byte
}

func (b *buffer) open(capacity int) (err error) {
	if b.fd, err = unix.MemfdCreate("floor", unix.MFD_CLOEXEC); err != nil {
		return fmt.Errorf("memfd_create: %w", err)
	}
	b.writer, err = unix.Open(fmt.Sprintf("/proc/self/fd/%d", b.fd), unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("reopen the state buffer: %w", err)
	}
	if err := unix.Fallocate(b.fd, 0, 0, int64(capacity)); err != nil {
		return fmt.Errorf("reserve the state buffer: %w", err)
	}
	b.mapped, err = unix.Mmap(b.fd, 0, capacity, unix.PROT_READ, unix.MAP_SHARED|unix.MAP_POPULATE)
	return err
}

// check makes sure that a whole stream was dumped: a loop that saves nothing is no floor.
func (b *buffer) check() error {
	length, err := unix.Seek(b.writer, 0, unix.SEEK_CUR)
	if err != nil {
		return err
	}
	if length > int64(len(b.mapped)) {
		return fmt.Errorf("the dump has %d bytes, its buffer %d", length, len(b.mapped))
	}
	return qemu.CheckStream(b.mapped[:length])
}

func (b *buffer) close() {
	if b.mapped != nil {
		unix.Munmap(b.mapped)
	}
	closeAll(&b.writer, &b.fd)
}

func closeAll(fds ...*int) {
	for _, fd := range fds {
		if *fd >= 0 {
			unix.Close(*fd)
			*fd = -1
		}
	}
}

// monitor is a connection to QEMU's emergency monitor with nothing around it.
type monitor struct {
	fd   int
	data []byte // received and not consumed
}

// answerLimit bounds every wait for QEMU.
const answerLimit = 10 * time.Second

func (m *monitor) dial(path string) (err error) {
	if m.fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	m.data = make([]byte, 0, 64<<10)
	limit := unix.NsecToTimeval(answerLimit.Nanoseconds())
	if err := unix.SetsockoptTimeval(m.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return err
	}
	if err := unix.Connect(m.fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return fmt.Errorf("connect to %s: %w", path, err)
	}
	if err := m.await([]byte(`"QMP"`)); err != nil {
		return err
	}
	return m.command(`{"execute":"qmp_capabilities","id":"hello"}`, "hello")
}

func (m *monitor) close() { closeAll(&m.fd) }

// command sends a line that carries an id and waits for its reply.
func (m *monitor) command(line, id string) error {
	if _, err := unix.Write(m.fd, []byte(line+"\n")); err != nil {
		return err
	}
	return m.await([]byte(`"id": "` + id + `"`))
}

// commandFile is command with a descriptor.
func (m *monitor) commandFile(line, id string, fd int) error {
	if err := unix.Sendmsg(m.fd, []byte(line), unix.UnixRights(fd), nil, 0); err != nil {
		return err
	}
	return m.await([]byte(`"id": "` + id + `"`))
}

// await reads until a line contains want, and forgets what came before and that line.
func (m *monitor) await(want []byte) error {
	for {
		for {
			line, rest, whole := bytes.Cut(m.data, []byte("\n"))
			if !whole {
				break
			}
			found, refused := bytes.Contains(line, want), bytes.Contains(line, []byte(`"error": {`))
			problem := string(line)
			m.data = append(m.data[:0], rest...)
			if found && refused {
				return fmt.Errorf("QEMU refused: %s", problem)
			}
			if found {
				return nil
			}
		}
		if err := m.receive(); err != nil {
			return err
		}
	}
}

// receive reads once.
func (m *monitor) receive() error {
	if len(m.data) == cap(m.data) {
		return errors.New("QEMU says more than expected")
	}
	n, err := read(m.fd, m.data[len(m.data):cap(m.data)])
	for err == unix.EINTR {
		n, err = read(m.fd, m.data[len(m.data):cap(m.data)])
	}
	switch {
	case err == unix.EAGAIN:
		return fmt.Errorf("QEMU did not answer within %v", answerLimit)
	case err != nil:
		return err
	case n == 0:
		return errors.New("QEMU closed the monitor")
	}
	m.data = m.data[:len(m.data)+n]
	return nil
}

// arm hands QEMU the descriptor of the next save, which uses it up.
func (v *VM) arm() error {
	if _, err := unix.Seek(v.state.writer, 0, unix.SEEK_SET); err != nil {
		return fmt.Errorf("rewind the state buffer: %w", err)
	}
	if !v.process.DumpsToFile() {
		return v.monitor.commandFile(`{"execute":"getfd","arguments":{"fdname":"`+fdName+`"},"id":"arm"}`, "arm", v.state.writer)
	}
	// Of an unknown set QEMU says so, and nothing is lost.
	if _, err := unix.Write(v.monitor.fd, []byte(`{"execute":"remove-fd","arguments":{"fdset-id":`+fdSet+`},"id":"unset"}`+"\n")); err != nil {
		return err
	}
	return v.monitor.commandFile(`{"execute":"add-fd","arguments":{"fdset-id":`+fdSet+`},"id":"arm"}`, "arm", v.state.writer)
}

// thread is one of QEMU's and the real-time priority the product would give it.
type thread struct{ id, priority int }

// The priorities of packages saver and vm: the loop itself, QEMU's threads, its vCPUs.
const (
	loopPriority = 20
	mainPriority = 10
	vcpuPriority = 5
)

func threadsOf(ctx context.Context, p *qemu.Process) ([]thread, error) {
	main, vcpus, others, err := p.Threads(ctx)
	if err != nil {
		return nil, err
	}
	threads := []thread{{main, mainPriority}}
	for _, id := range others {
		threads = append(threads, thread{id, mainPriority})
	}
	for _, id := range vcpus {
		threads = append(threads, thread{id, vcpuPriority})
	}
	return threads, nil
}

// setPriorities makes threads real-time or ordinary. One that has ended meanwhile is none.
func setPriorities(threads []thread, realtime bool) error {
	for _, t := range threads {
		attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL}
		if realtime {
			attr.Policy, attr.Priority = unix.SCHED_FIFO, uint32(t.priority)
		}
		if err := unix.SchedSetAttr(t.id, &attr, 0); err != nil && err != unix.ESRCH {
			return fmt.Errorf("set the priority of thread %d: %w", t.id, err)
		}
	}
	return nil
}
