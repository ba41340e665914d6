package qemu_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/qemu"
	"github.com/nv-hypervisor/nv-hypervisor/qemu/qemutest"
)

func TestStartQuit(t *testing.T) {
	onEach(t, func(t *testing.T, b *qemu.Binary) {
		ctx := testContext(t)
		rt := newRuntime(t, small.Memory)
		p := start(t, pin(t, b, small), rt)
		wantStatus(t, p, "running")
		must(t, p.Stop(ctx))
		wantStatus(t, p, "paused")
		must(t, p.Cont(ctx))
		must(t, p.SystemPowerdown(ctx)) // the firmware does not react
		wantStatus(t, p, "running")
		if got := p.ExitReason(); got != "still running" {
			t.Errorf("exit reason %q of a running process", got)
		}
		if id, err := unix.Getsid(p.PID()); err != nil || id != p.PID() {
			t.Errorf("session %d (%v), want its own, %d", id, err, p.PID())
		}
		for fd, want := range []string{os.DevNull, rt.Dir + "/qemu.log", rt.Dir + "/qemu.log"} {
			if got, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", p.PID(), fd)); got != want {
				t.Errorf("descriptor %d is %s (%v), want %s", fd, got, err, want)
			}
		}
		must(t, p.Quit(ctx))
		if got := waitExit(t, p); got != "QEMU was told to quit" {
			t.Errorf("exit reason %q", got)
		}
		must(t, p.Kill()) // of a process that is gone
	})
}

func TestQuitKillsAStuckProcess(t *testing.T) {
	b := qemutest.Installed(t)
	p := start(t, pin(t, b, small), newRuntime(t, small.Memory))
	must(t, unix.Kill(p.PID(), unix.SIGSTOP))
	ctx, cancel := context.WithTimeout(testContext(t), 200*time.Millisecond)
	defer cancel()
	must(t, p.Quit(ctx))
	wantError(t, errors.New(waitExit(t, p)), "signal: killed")
}

func TestExitReasonOfSignal(t *testing.T) {
	b := qemutest.Installed(t)
	p := start(t, pin(t, b, small), newRuntime(t, small.Memory))
	must(t, unix.Kill(p.PID(), unix.SIGTERM))
	if got := waitExit(t, p); got != "QEMU was ended by a signal" {
		t.Errorf("exit reason %q", got)
	}
}

func TestAdopt(t *testing.T) {
	onEach(t, func(t *testing.T, b *qemu.Binary) {
		ctx := testContext(t)
		l, rt := pin(t, b, small), newRuntime(t, small.Memory)
		p, err := qemu.Start(ctx, l, rt)
		must(t, err)
		pid, began := p.PID(), p.StartTime()
		reaped := false // until then the pid cannot be another process's
		t.Cleanup(func() {
			if !reaped {
				unix.Kill(pid, unix.SIGKILL)
			}
		})
		must(t, p.Close()) // the daemon ends; the process stays
		select {
		case <-p.Exited():
			t.Fatal("closing has ended the process")
		default:
		}

		if _, err := qemu.Adopt(ctx, rt, pid, began+1); !errors.Is(err, qemu.ErrGone) {
			t.Errorf("adopting a recycled pid: %v, want ErrGone", err)
		}
		if p, s, err := qemu.Find(rt); p != pid || s != began || err != nil {
			t.Errorf("found pid %d, started at %d (%v), want %d, %d", p, s, err, pid, began)
		}
		q, err := qemu.Adopt(ctx, rt, pid, began)
		must(t, err)
		wantStatus(t, q, "running")
		must(t, q.Dump(ctx, newFile(t, rt, "state")))
		must(t, q.Cont(ctx))
		must(t, q.Kill())
		wantError(t, errors.New(waitExit(t, q)), "QEMU ended")
		var status unix.WaitStatus
		if _, err := unix.Wait4(pid, &status, 0, nil); err != nil { // it is our child after all
			t.Fatal(err)
		}
		reaped = true
		if _, err := qemu.Adopt(ctx, rt, pid, began); !errors.Is(err, qemu.ErrGone) {
			t.Errorf("adopting a dead process: %v, want ErrGone", err)
		}
		if _, _, err := qemu.Find(rt); !errors.Is(err, qemu.ErrGone) {
			t.Errorf("finding a dead process: %v, want ErrGone", err)
		}
	})
}

// TestMemoryIsUsedOnce: the lock is QEMU's, whoever started it and wherever its
// sockets are, and ends with it.
func TestMemoryIsUsedOnce(t *testing.T) {
	onEach(t, func(t *testing.T, b *qemu.Binary) {
		ctx := testContext(t)
		l, rt := pin(t, b, small), newRuntime(t, small.Memory)
		inUse := func(want bool) {
			t.Helper()
			if used, err := qemu.InUse(*rt.RAM, small.Memory); used != want || err != nil {
				t.Errorf("memory in use: %v, %v, want %v", used, err, want)
			}
		}
		inUse(false)
		p := start(t, l, rt)
		inUse(true)
		other := newRuntime(t, 0)
		other.RAM = rt.RAM
		if _, err := qemu.Start(ctx, l, other); !errors.Is(err, qemu.ErrInUse) {
			t.Errorf("second QEMU on one memory: %v, want ErrInUse", err)
		}
		must(t, p.Kill())
		inUse(false)
		start(t, l, other)
	})
}

func TestThreads(t *testing.T) {
	onEach(t, func(t *testing.T, b *qemu.Binary) {
		p := start(t, pin(t, b, small), newRuntime(t, small.Memory))
		main, vcpus, others, err := p.Threads(testContext(t))
		must(t, err)
		if main != p.PID() || len(vcpus) != small.CPUs || slices.Contains(append(vcpus, others...), main) {
			t.Errorf("main %d, vCPUs %v, others %v of pid %d", main, vcpus, others, p.PID())
		}
		for _, id := range vcpus {
			comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/comm", p.PID(), id))
			must(t, err)
			if !strings.HasPrefix(string(comm), "CPU ") {
				t.Errorf("vCPU thread %d is called %q", id, comm)
			}
		}
	})
}

func TestStartRefuses(t *testing.T) {
	b := qemutest.Installed(t)
	l := pin(t, b, small)
	tests := []struct {
		name   string
		change func(l *qemu.Launch, rt *qemu.Runtime)
		parts  []string
		is     error
	}{
		{"long path", func(_ *qemu.Launch, rt *qemu.Runtime) { rt.Dir = "/run/" + strings.Repeat("x", 100) },
			[]string{"the kernel allows 107", "runtime_dir"}, nil},
		{"other version", func(l *qemu.Launch, _ *qemu.Runtime) { l.Version = "6.0.0" }, []string{"6.0.0"}, qemu.ErrVersion},
		{"no binary", func(l *qemu.Launch, _ *qemu.Runtime) { l.QEMU = "/nonexistent/qemu" }, []string{"install qemu-system-x86"}, os.ErrNotExist},
		{"no RAM file", func(_ *qemu.Launch, rt *qemu.Runtime) { rt.RAM.Path += "x" }, []string{"memory cannot be opened"}, os.ErrNotExist},
		{"short RAM file", func(_ *qemu.Launch, rt *qemu.Runtime) { os.Truncate(rt.RAM.Path, 1<<20) }, []string{"1048576 bytes where 16777216"}, nil},
		{"offset", func(_ *qemu.Launch, rt *qemu.Runtime) { rt.RAM.Offset = 2 * nvram.MiB }, []string{"8.1"}, qemu.ErrNotSupported},
		{"volatile incoming", func(_ *qemu.Launch, rt *qemu.Runtime) { rt.RAM, rt.Incoming = nil, true }, []string{"without persistent RAM"}, nil},
		{"unknown user", func(_ *qemu.Launch, rt *qemu.Runtime) { rt.User = "nobody-of-that-name" }, []string{"nobody-of-that-name"}, nil},
		{"unknown device", func(l *qemu.Launch, _ *qemu.Runtime) { l.Args = append(slices.Clone(l.Args), "-device", "nonesuch") },
			[]string{"nonesuch", "this QEMU lacks that device"}, nil},
		{"no folder", func(_ *qemu.Launch, rt *qemu.Runtime) { rt.Dir += "x" }, []string{"open QEMU's log"}, os.ErrNotExist},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l, rt := l, newRuntime(t, small.Memory)
			test.change(&l, &rt)
			p, err := qemu.Start(testContext(t), l, rt)
			if err == nil {
				t.Error(p.Kill())
			}
			wantError(t, err, append(test.parts, "start QEMU for test")...)
			if test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("error %v is not %v", err, test.is)
			}
		})
	}
}

func TestStartExplainsEarlyExit(t *testing.T) {
	onEach(t, func(t *testing.T, b *qemu.Binary) {
		image := filepath.Join(t.TempDir(), "disk")
		newImage(t, image, 1<<20)
		g := small
		g.Disks = []qemu.Disk{{Path: image}}
		g.Nets = []qemu.Net{{Type: "user", Forward: []string{"tcp:127.0.0.1:0-:22"}}}
		l := pin(t, b, g)
		first := newRuntime(t, g.Memory)
		start(t, l, first)

		_, err := qemu.Start(testContext(t), l, newRuntime(t, g.Memory))
		wantError(t, err, image, "another process uses this disk image")
		first.RAM = newRuntime(t, g.Memory).RAM
		_, err = qemu.Start(testContext(t), l, first)
		wantError(t, err, "another QEMU already answers")

		g.Disks = nil
		g.Nets = []qemu.Net{{Type: "user", Forward: []string{fmt.Sprintf("tcp:127.0.0.1:%d-:22", listen(t))}}}
		_, err = qemu.Start(testContext(t), pin(t, b, g), newRuntime(t, g.Memory))
		wantError(t, err, "the host port is in use")
	})
}

func TestStartReplacesStaleSockets(t *testing.T) {
	b := qemutest.Installed(t)
	l, rt := pin(t, b, small), newRuntime(t, small.Memory)
	p := start(t, l, rt)
	must(t, p.Kill())
	// The sockets are still there, but nobody listens: no reason to refuse.
	start(t, l, rt)
}

func TestUnprivilegedUser(t *testing.T) {
	onEach(t, func(t *testing.T, b *qemu.Binary) {
		ctx := testContext(t)
		l, rt := pin(t, b, small), newRuntime(t, small.Memory)
		rt.User = "nobody"
		p := start(t, l, rt)
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
		must(t, err)
		for _, want := range []string{"Uid:\t65534\t65534\t65534\t65534", "Seccomp:\t2"} {
			if !strings.Contains(string(status), want) {
				t.Errorf("%q is not in\n%s", want, status)
			}
		}
		state := newFile(t, rt, "state")
		must(t, p.Dump(ctx, state))
		must(t, p.Kill())
		rt.Incoming = true
		q := start(t, l, rt)
		must(t, q.Load(ctx, state))
		must(t, q.Cont(ctx))
		wantStatus(t, q, "running")
	})
}

// TestFindBeforeItAnswers: what was forked is found at once, or its memory shows that it exists.
func TestFindBeforeItAnswers(t *testing.T) {
	onEach(t, func(t *testing.T, b *qemu.Binary) {
		l, rt := pin(t, b, small), newRuntime(t, small.Memory)
		ctx, cancel := context.WithCancel(testContext(t))
		started := make(chan error, 1)
		go func() {
			_, err := qemu.Start(ctx, l, rt)
			started <- err
		}()
		for found := false; !found; {
			if used, err := qemu.InUse(*rt.RAM, small.Memory); err != nil || !used {
				must(t, err)
				continue
			}
			_, _, err := qemu.Find(rt)
			found = err == nil
		}
		if _, err := os.Stat(filepath.Join(rt.Dir, "qmp.sock")); err == nil {
			t.Error("it was found only once it had its monitor")
		}
		cancel()
		<-started
		if _, _, err := qemu.Find(rt); err == nil {
			t.Error("a start that was cancelled has left a QEMU")
		}
	})
}
