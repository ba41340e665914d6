package saver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/vm/record"
)

// replyLimit bounds the wait for QEMU's answer to a preparation step. A cont may
// wait for QEMU to finish a migration, hence so long.
const replyLimit = 5 * time.Second

// Arm hands QEMU the descriptor of the next dump. A save uses it up, committed or
// not, so Arm comes before every Cont but one that follows a plain pause.
func (s *Saver) Arm(t *Target, threads []Thread) error {
	return s.await(t, func() error {
		if s.active && !t.opt.Adopted {
			return ErrOutage
		}
		t.commit, t.threads = nil, slices.Clone(threads)
		if t.opt.Volatile {
			return errSettled
		}
		return t.passDescriptor()
	}, patArmID)
}

// Mark makes durable that the VM runs from now on, which voids its image if it
// has one, and prepares the commit of its next save. It is called on the saver's
// thread.
type Mark func() (*record.Commit, error)

// Cont lets the guest run, after mark: there is no other way a guest gets to run,
// and no outage can come between the two. During an outage Cont fails with
// ErrOutage and mark is not called. A nil mark continues a VM that is armed
// still. With paused set the VM is marked and ready to be saved, but its vCPUs
// stay stopped. An adopted VM, whose guest runs already, becomes part of an outage
// in progress: it is stopped and saved at once.
func (s *Saver) Cont(t *Target, mark Mark, paused bool) error {
	return s.await(t, func() error {
		if s.active && !t.opt.Adopted {
			return ErrOutage
		}
		if mark != nil {
			commit, err := mark()
			if err != nil {
				return err
			}
			if !t.opt.Volatile && commit.Slot() < t.opt.Capacity {
				return fmt.Errorf("%s: slot smaller than the dump buffer", t.Name())
			}
			t.commit = commit
		}
		if !t.opt.Volatile && t.commit == nil {
			return fmt.Errorf("%s: %w", t.Name(), ErrUnarmed)
		}
		s.lower(t)
		t.live, t.phase = true, phaseRunning
		t.opt.Adopted = false
		t.released.Store(true)
		if s.active {
			s.trigger.armed, s.trigger.only = true, t
			return errSettled
		}
		if paused {
			return errSettled
		}
		return t.send(t.contLine)
	}, patContID)
}

// errSettled ends a call without waiting for QEMU.
var errSettled = errors.New("settled")

// await runs begin on the thread and waits for the reply line that contains id.
func (s *Saver) await(t *Target, begin func() error, id []byte) error {
	reply := make(chan error, 1)
	err := s.call(context.Background(), func() error {
		if !t.attached {
			return fmt.Errorf("%s: QEMU's emergency monitor is gone", t.Name())
		}
		if t.waiter != nil {
			return fmt.Errorf("%s: another preparation is under way", t.Name())
		}
		if err := begin(); err != nil {
			return err
		}
		t.waiter, t.waitFor = reply, id
		t.waitTill = monotonic() + int64(replyLimit)
		s.pending = append(s.pending, t)
		return nil
	})
	if errors.Is(err, errSettled) {
		return nil
	}
	if err != nil {
		return err
	}
	return <-reply
}

// settle ends a target's pending call.
func (s *Saver) settle(t *Target, err error) {
	if t.waiter == nil {
		return
	}
	if err == nil && len(t.refusal) > 0 {
		err = fmt.Errorf("%s: QEMU refused: %s", t.Name(), t.refusal)
	}
	t.waiter <- err
	t.waiter, t.waitFor, t.refusal = nil, nil, t.refusal[:0]
	s.pending = slices.DeleteFunc(s.pending, func(x *Target) bool { return x == t })
}

// settleAll ends the calls that QEMU has answered, be it during a save, and those
// it should have answered by now.
func (s *Saver) settleAll(now int64) {
	for _, t := range slices.Clone(s.pending) {
		switch {
		case t.waitFor == nil:
			s.settle(t, nil)
		case now > t.waitTill:
			s.settle(t, fmt.Errorf("%s: QEMU did not answer within %s", t.Name(), replyLimit))
		}
	}
}

// passDescriptor rewinds the dump buffer and hands it to QEMU. No newline ends the command, and nothing is sent before QEMU has
// answered it: see qmp.Client.ExecuteFile.
func (t *Target) passDescriptor() error {
	if _, err := unix.Seek(t.writer, 0, unix.SEEK_SET); err != nil {
		return fmt.Errorf("%s: rewind the state buffer: %w", t.Name(), err)
	}
	if !t.opt.FileURI {
		return t.sendWith(`{"execute":"getfd","arguments":{"fdname":"`+fdName+`"},"id":"`+idArm+`"}`, t.writer)
	}
	// The set may still hold a descriptor of an earlier connection; an unknown set
	// is refused, which does no harm and carries another id.
	if err := t.send([]byte(`{"execute":"remove-fd","arguments":{"fdset-id":` + fdSet + `},"id":"` + idUnset + `"}` + "\n")); err != nil {
		return err
	}
	return t.sendWith(`{"execute":"add-fd","arguments":{"fdset-id":`+fdSet+`},"id":"`+idArm+`"}`, t.writer)
}

func (t *Target) sendWith(line string, fd int) error {
	if err := unix.Sendmsg(t.conn, []byte(line), unix.UnixRights(fd), nil, 0); err != nil {
		return fmt.Errorf("%s: pass the state buffer to QEMU: %w", t.Name(), err)
	}
	return nil
}

// send writes one prepared command. The socket's buffer is far larger than all
// commands a QEMU can have outstanding, so a short write means a hung QEMU.
func (t *Target) send(line []byte) error {
	n, err := unix.Write(t.conn, line)
	if err == nil && n != len(line) {
		err = unix.EAGAIN
	}
	return err
}

// reply handles a line while t waits for a preparation step.
func (t *Target) reply(line []byte) {
	if t.waitFor == nil || !bytes.Contains(line, t.waitFor) {
		return
	}
	if bytes.Contains(line, patError) {
		t.refusal = append(t.refusal[:0], line[:min(len(line), detailSize)]...)
	}
	t.waitFor = nil
}
