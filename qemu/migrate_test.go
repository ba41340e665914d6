package qemu_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/qemu"
	"github.com/nv-hypervisor/nv-hypervisor/qemu/qemutest"
	"github.com/nv-hypervisor/nv-hypervisor/qmp"
)

func TestDumpKillLoadCont(t *testing.T) {
	onEach(t, func(t *testing.T, b *qemu.Binary) {
		ctx := testContext(t)
		image := filepath.Join(t.TempDir(), "disk")
		newImage(t, image, 4<<20)
		g := small
		g.Disks = []qemu.Disk{{Path: image}, {Path: image + "2", Cache: "directsync"}}
		newImage(t, image+"2", 4<<20)
		g.Nets = []qemu.Net{{Type: "user"}}
		l, rt := pin(t, b, g), newRuntime(t, g.Memory)
		p := start(t, l, rt)
		bound, err := p.StateBound(ctx)
		must(t, err)
		state := newFile(t, rt, "state")
		must(t, p.Dump(ctx, state))
		wantStatus(t, p, "postmigrate")
		size := checkState(t, state)
		if size > int64(bound) {
			t.Errorf("the state has %d bytes, bound %v", size, bound)
		}

		// Power is back: the guest goes on in place, and can be saved again.
		must(t, p.Cont(ctx))
		wantStatus(t, p, "running")
		must(t, p.Dump(ctx, state))
		must(t, p.Kill())

		rt.Incoming = true
		q := start(t, l, rt)
		wantStatus(t, q, "inmigrate")
		must(t, q.Load(ctx, state))
		wantStatus(t, q, "paused")
		must(t, q.Cont(ctx))
		wantStatus(t, q, "running")

		// A resumed guest can be reset and saved like any other.
		resets := q.QMP().Subscribe()
		defer resets.Close()
		must(t, q.QMP().Execute(ctx, "system_reset", nil, nil))
		for event := qmp.Event(nil); event == nil || event.EventName() != "RESET"; {
			event, err = resets.Next(ctx)
			must(t, err)
		}
		wantStatus(t, q, "running")
		must(t, q.Dump(ctx, state))
		checkState(t, state)
	})
}

// checkState wants a whole stream in f and returns its length.
func checkState(t *testing.T, f *os.File) int64 {
	t.Helper()
	content, err := os.ReadFile(f.Name())
	must(t, err)
	must(t, qemu.CheckStream(content))
	return int64(len(content))
}

// TestPreparedSave does what an outage does: the file was handed over before, and
// both commands go out on the emergency connection without waiting between them.
func TestPreparedSave(t *testing.T) {
	onEach(t, func(t *testing.T, b *qemu.Binary) {
		ctx := testContext(t)
		l, rt := pin(t, b, small), newRuntime(t, small.Memory)
		p := start(t, l, rt)
		emergency, err := qmp.Dial(ctx, p.EmergencyPath())
		must(t, err)
		defer emergency.Close()
		state := memfd(t)
		for range 3 {
			_, err := p.ArmFile(ctx, emergency, state)
			must(t, err)
			uri, err := p.ArmFile(ctx, emergency, state) // replaces the first
			must(t, err)
			events := emergency.Subscribe()
			stop := send(t, ctx, emergency, "stop", nil)
			migrate := send(t, ctx, emergency, "migrate", map[string]string{"uri": uri})
			must(t, stop.Wait(ctx, nil))
			must(t, migrate.Wait(ctx, nil))
			awaitCompleted(t, ctx, events)
			events.Close()
			content, err := io.ReadAll(io.NewSectionReader(state, 0, 16<<20))
			must(t, err)
			must(t, qemu.CheckStream(content))
			awaitPostmigrate(t, p)
			must(t, p.Cont(ctx))
		}
		must(t, p.Stop(ctx))
		_, err = p.ArmFile(ctx, emergency, state)
		must(t, err)
		must(t, p.Dump(ctx, state))
		must(t, p.Kill())

		rt.Incoming = true
		q := start(t, l, rt)
		must(t, q.Load(ctx, state))
		must(t, q.Cont(ctx))
	})
}

func send(t testing.TB, ctx context.Context, c *qmp.Client, command string, args any) *qmp.Call {
	t.Helper()
	prepared, err := c.Prepare(command, args)
	must(t, err)
	call, err := prepared.Send(ctx)
	must(t, err)
	return call
}

func awaitCompleted(t testing.TB, ctx context.Context, events *qmp.Subscription) {
	t.Helper()
	for {
		event, err := events.Next(ctx)
		must(t, err)
		if m, ok := event.(qmp.Migration); ok && m.Status == "completed" {
			return
		}
	}
}

// memfd is the kind of file that a real save goes to.
func memfd(t testing.TB) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("state", unix.MFD_CLOEXEC)
	must(t, err)
	f := os.NewFile(uintptr(fd), "state")
	t.Cleanup(func() { f.Close() })
	return f
}

// TestResumeKeepsRAM proves that guest and RAM file are one: what the guest's RAM
// holds at the dump is there after the load, and the load itself changes nothing.
func TestResumeKeepsRAM(t *testing.T) {
	onEach(t, func(t *testing.T, b *qemu.Binary) {
		ctx := testContext(t)
		l, rt := pin(t, b, small), newRuntime(t, small.Memory)
		p := start(t, l, rt)
		state := newFile(t, rt, "state")
		must(t, p.Dump(ctx, state))
		before := readRAM(t, rt)
		if bytes.Count(before, []byte{0}) == len(before) {
			t.Fatal("the firmware has left no trace in the RAM file")
		}
		must(t, p.Kill())
		rt.Incoming = true
		q := start(t, l, rt)
		must(t, q.Load(ctx, state))
		if !bytes.Equal(before, readRAM(t, rt)) {
			t.Error("loading has changed the RAM")
		}
	})
}

func readRAM(t testing.TB, rt qemu.Runtime) []byte {
	t.Helper()
	content, err := os.ReadFile(rt.RAM.Path)
	must(t, err)
	return content
}

// TestLoadRefused: whatever is wrong with the state, the error says so, and the
// RAM is as it was, so that a good state can still be loaded.
func TestLoadRefused(t *testing.T) {
	onEach(t, func(t *testing.T, b *qemu.Binary) {
		ctx := testContext(t)
		l, rt := pin(t, b, small), newRuntime(t, small.Memory)
		p := start(t, l, rt)
		good := newFile(t, rt, "good")
		must(t, p.Dump(ctx, good))
		must(t, p.Kill())
		content, err := os.ReadFile(good.Name())
		must(t, err)
		ram := readRAM(t, rt)
		rt.Incoming = true

		tests := []struct {
			name  string
			state []byte
		}{
			{"empty", nil},
			{"garbage", bytes.Repeat([]byte("garbage"), 1000)},
			{"cut short", content[:len(content)/2]},
			{"other machine", bytes.Replace(content, []byte("pc-q35"), []byte("pc-q34"), 1)},
		}
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				bad := newFile(t, rt, "bad")
				must(t, os.WriteFile(bad.Name(), test.state, 0o600))
				q := start(t, l, rt)
				began := time.Now()
				err := q.Load(ctx, bad)
				if !errors.Is(err, qemu.ErrLoad) {
					t.Errorf("error %v is not ErrLoad", err)
				}
				t.Logf("after %v: %v", time.Since(began), err)
				must(t, q.Kill())
				if !bytes.Equal(ram, readRAM(t, rt)) {
					t.Error("the RAM has changed")
				}
			})
		}
		q := start(t, l, rt)
		must(t, q.Load(ctx, good))
		must(t, q.Cont(ctx))
	})
}

// TestPoolFile keeps the RAM of two VMs in one file, as a device pool does.
func TestPoolFile(t *testing.T) {
	b := qemutest.Backports(t)
	ctx := testContext(t)
	l, rt := pin(t, b, small), newRuntime(t, 3*small.Memory)
	other := newRuntime(t, 0)
	other.RAM = &qemu.Backing{Path: rt.RAM.Path, Offset: 2 * small.Memory}
	p, q := start(t, l, rt), start(t, l, other)
	state := newFile(t, other, "state")
	must(t, p.Stop(ctx))
	must(t, q.Dump(ctx, state))
	content := readRAM(t, rt)
	for i, want := range []bool{true, false, true} {
		part := content[i*int(small.Memory) : (i+1)*int(small.Memory)]
		if used := bytes.Count(part, []byte{0}) != len(part); used != want {
			t.Errorf("part %d of the file in use: %v, want %v", i, used, want)
		}
	}
	must(t, q.Kill())
	other.Incoming = true
	r := start(t, l, other)
	must(t, r.Load(ctx, state))
	must(t, r.Cont(ctx))
}

// TestAlignment: huge pages take an address in QEMU that is aligned to them, and a DAX device takes no other.
func TestAlignment(t *testing.T) {
	onEach(t, func(t *testing.T, b *qemu.Binary) {
		rt := newRuntime(t, small.Memory)
		rt.RAM.Align = 2 * nvram.MiB
		p := start(t, pin(t, b, small), rt)
		maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", p.PID()))
		must(t, err)
		for line := range strings.Lines(string(maps)) {
			if !strings.HasSuffix(line, rt.RAM.Path+"\n") {
				continue
			}
			from, _, _ := strings.Cut(line, "-")
			address, err := strconv.ParseUint(from, 16, 64)
			must(t, err)
			if address%uint64(rt.RAM.Align) != 0 {
				t.Errorf("the RAM is mapped at %#x", address)
			}
			return
		}
		t.Errorf("the RAM is not mapped:\n%s", maps)
	})
}

func TestCheckStream(t *testing.T) {
	head := "QEVM\x00\x00\x00\x03"
	tests := []struct {
		state string
		want  error
	}{
		{"", qemu.ErrStreamEmpty},
		{"QEVM", qemu.ErrStreamHead},
		{head, qemu.ErrStreamHead},
		{"QEVM\x00\x00\x00\x02\x00\x00", qemu.ErrStreamHead},
		{head + "\x07", qemu.ErrStreamEnd},
		{head + "\x07\x00", nil},
	}
	for _, test := range tests {
		if err := qemu.CheckStream([]byte(test.state)); err != test.want {
			t.Errorf("%q: %v, want %v", test.state, err, test.want)
		}
	}
	state := []byte(head + "\x07\x00")
	if n := testing.AllocsPerRun(100, func() { _ = qemu.CheckStream(state) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestVolatile(t *testing.T) {
	onEach(t, func(t *testing.T, b *qemu.Binary) {
		g := small
		g.Memory = 32 * nvram.MiB
		p := start(t, pin(t, b, g), newRuntime(t, 0))
		must(t, p.Stop(testContext(t)))
		wantStatus(t, p, "paused")
		must(t, p.Cont(testContext(t)))
	})
}
