//go:build !race

// The race detector's instrumentation allocates where the program does not.

package saver

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/qmp/qmptest"
	"github.com/nv-hypervisor/nv-hypervisor/vm/record"
)

// mute is a fake QEMU that does not allocate while it is saved, as qmptest does,
// so that what is counted is the saver's.
type mute struct {
	listener *net.UnixListener
	volatile bool // gets no descriptor
	stream   []byte
	end      chan struct{}
	served   sync.WaitGroup
}

func startMute(t *testing.T, volatile bool) *mute {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "m"), Net: "unix"})
	check(t, err)
	m := &mute{listener: l, volatile: volatile, stream: qmptest.Stream(4096), end: make(chan struct{})}
	m.served.Go(m.serve)
	t.Cleanup(func() {
		close(m.end)
		l.Close()
		m.served.Wait()
	})
	return m
}

var (
	muteHello   = []byte("{\"return\": {}, \"id\": \"" + idHello + "\"}\r\n")
	muteArmed   = []byte("{\"return\": {}, \"id\": \"" + idArm + "\"}\r\n")
	muteCont    = []byte("{\"return\": {}, \"id\": \"" + idCont + "\"}\r\n")
	muteStopped = []byte("{\"event\": \"STOP\"}\r\n{\"return\": {}, \"id\": \"" + idStop + "\"}\r\n")
	muteDumped  = []byte("{\"event\": \"MIGRATION\", \"data\": {\"status\": \"setup\"}}\r\n" +
		"{\"return\": {}, \"id\": \"" + idDump + "\"}\r\n{\"event\": \"MIGRATION\", \"data\": {\"status\": \"completed\"}}\r\n")
)

func (m *mute) serve() {
	conn, err := m.listener.AcceptUnix()
	if err != nil {
		return
	}
	defer conn.Close()
	file, err := conn.File() // blocking system calls below
	if err != nil {
		return
	}
	defer file.Close()
	m.served.Go(func() {
		<-m.end
		conn.CloseRead() // ends a blocked read
	})
	fd := int(file.Fd())
	unix.SetNonblock(fd, false)
	unix.Write(fd, []byte("{\"QMP\": {}}\r\n"))
	dump := -1
	in, rights := make([]byte, 4096), make([]byte, syscall.CmsgSpace(4))
	for {
		var n int
		if dump < 0 && !m.volatile {
			var got int
			n, got, _, _, err = unix.Recvmsg(fd, in, rights, unix.MSG_CMSG_CLOEXEC)
			if messages, _ := unix.ParseSocketControlMessage(rights[:got]); len(messages) == 1 {
				fds, _ := unix.ParseUnixRights(&messages[0])
				dump = fds[0]
				defer unix.Close(dump)
			}
		} else {
			n, err = unix.Read(fd, in)
		}
		if n <= 0 || err != nil {
			return
		}
		for _, step := range []struct{ command, answer []byte }{
			{[]byte("qmp_capabilities"), muteHello}, {[]byte("getfd"), muteArmed}, {[]byte(`"cont"`), muteCont}, {[]byte(`"stop"`), muteStopped},
		} {
			if bytes.Contains(in[:n], step.command) {
				unix.Write(fd, step.answer)
			}
		}
		if bytes.Contains(in[:n], []byte("migrate")) {
			unix.Write(dump, m.stream)
			unix.Write(fd, muteDumped)
		}
	}
}

// A save of several VMs, from the trigger to the last commit and its result's raw
// form, allocates nothing.
func TestSaveDoesNotAllocate(t *testing.T) {
	r := newRig(t, Config{InFlight: 1})
	var targets []*Target
	for _, name := range []string{"a", "b", "c"} {
		target, err := Connect(testContext(t), Options{Name: name, Socket: startMute(t, false).listener.Addr().String(), Capacity: testSlot})
		check(t, err)
		check(t, r.saver.Attach(target))
		targets = append(targets, target)
	}
	volatile, err := Connect(testContext(t), Options{Name: "v", Socket: startMute(t, true).listener.Addr().String(), Volatile: true})
	check(t, err)
	check(t, r.saver.Attach(volatile))
	check(t, r.saver.Cont(volatile, func() (*record.Commit, error) { return nil, nil }, false))

	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	least := ^uint64(0)
	for round := range 5 { // whatever else the process does, it does not do each time
		for _, target := range targets {
			area := r.area(fmt.Sprint(target.Name(), round))
			ref, err := area.WriteLaunch([]byte("launch"))
			check(t, err)
			check(t, r.saver.Arm(target, nil))
			check(t, r.saver.Cont(target, func() (*record.Commit, error) {
				if _, err := area.MarkRunning(ref); err != nil {
					return nil, err
				}
				return area.Prepare(record.Arming{})
			}, false))
		}
		var before, after runtime.MemStats
		check(t, r.saver.call(context.Background(), func() error {
			s := r.saver
			runtime.ReadMemStats(&before)
			s.trigger.announce(-1, 0)
			s.run()
			runtime.ReadMemStats(&after)
			s.decode(s.result) // for people, and not in the hot path
			s.active = false
			return nil
		}))
		if n := len(r.saver.result.VMs); n != 4 {
			t.Fatalf("%d VMs were saved", n)
		}
		for _, v := range r.saver.result.VMs {
			if v.Err != nil || !v.Committed && !v.Paused {
				t.Fatalf("%+v", v)
			}
		}
		least = min(least, after.Mallocs-before.Mallocs)
	}
	if least != 0 {
		t.Errorf("a save allocates %d times", least)
	}
}
