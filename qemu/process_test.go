package qemu_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/qemu"
	"github.com/nv-hypervisor/nv-hypervisor/qemu/qemutest"
)

const testUUID = "6f1b2c3d-0000-4000-8000-00000000002a"

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// newRuntime makes a folder with short paths, and a RAM file in memory.
func newRuntime(t *testing.T, ram nvram.Bytes) qemu.Runtime {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "nvh-qemu-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	rt := qemu.Runtime{Dir: dir}
	if ram != 0 {
		rt.RAM = &qemu.Backing{Path: filepath.Join(dir, "ram")}
		f, err := os.Create(rt.RAM.Path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Truncate(int64(ram)); err != nil {
			t.Fatal(err)
		}
	}
	return rt
}

func pin(t *testing.T, b *qemu.Binary, g qemu.Guest) qemu.Launch {
	t.Helper()
	l, err := qemu.Pin(testContext(t), b, "test", testUUID, g)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func start(t *testing.T, l qemu.Launch, rt qemu.Runtime) *qemu.Process {
	t.Helper()
	p, err := qemu.Start(testContext(t), l, rt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func TestDumpKillLoadCont(t *testing.T) {
	for _, b := range qemutest.Binaries(t) {
		t.Run(b.Version, func(t *testing.T) { testDump(t, b) })
	}
}

func testDump(t *testing.T, b *qemu.Binary) {
	t.Logf("%+v", b)
	ctx := testContext(t)
	l := pin(t, b, qemu.Guest{Memory: 64 * nvram.MiB, CPUs: 2, Accel: "tcg"})
	rt := newRuntime(t, l.Memory)
	p := start(t, l, rt)
	bound, err := p.StateBound(ctx)
	if err != nil {
		t.Fatal(err)
	}
	state, err := os.Create(filepath.Join(rt.Dir, "state"))
	if err != nil {
		t.Fatal(err)
	}
	defer state.Close()
	if err := p.Dump(ctx, state); err != nil {
		t.Fatal(err)
	}
	st, _ := state.Stat()
	t.Logf("state %d of at most %d", st.Size(), bound)
	m, v, o, err := p.Threads(ctx)
	t.Log(m, v, o, err)
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	out, _ := os.ReadFile(filepath.Join(rt.Dir, "qemu.log"))
	t.Log(string(out))
	t.Log(p.ExitReason())
	rt.Incoming = true
	q := start(t, l, rt)
	if err := q.Load(ctx, state); err != nil {
		t.Fatal(err)
	}
	s, err := q.Status(ctx)
	t.Log(s, err)
	if err := q.Cont(ctx); err != nil {
		t.Fatal(err)
	}
	s, err = q.Status(ctx)
	t.Log(s, err)
	if err := q.Quit(ctx); err != nil {
		t.Fatal(err)
	}
	t.Log(q.ExitReason())
}
