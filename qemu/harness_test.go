package qemu_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/qemu"
	"github.com/nv-hypervisor/nv-hypervisor/qemu/qemutest"
)

const testUUID = "6f1b2c3d-0000-4000-8000-00000000002a"

// small is a machine that runs its firmware and finds nothing to boot.
var small = qemu.Guest{Memory: 64 * nvram.MiB, CPUs: 2, Accel: "tcg"}

// onEach runs a test on every supported QEMU.
func onEach(t *testing.T, test func(t *testing.T, b *qemu.Binary)) {
	for _, b := range qemutest.Binaries(t) {
		version, _, _ := strings.Cut(b.Version, " ")
		t.Run(version, func(t *testing.T) { test(t, b) })
	}
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// newRuntime makes a folder with short paths in memory, and there, if ram is not
// 0, a file for the RAM.
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
		newImage(t, rt.RAM.Path, int64(ram))
	}
	return rt
}

func newImage(t *testing.T, path string, size int64) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
}

// newFile makes an empty file for a state.
func newFile(t *testing.T, rt qemu.Runtime, name string) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(rt.Dir, name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func pin(t *testing.T, b *qemu.Binary, g qemu.Guest) qemu.Launch {
	t.Helper()
	l, err := qemu.Pin(testContext(t), b, "test", testUUID, g)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// start starts a process that cannot outlive the test.
func start(t *testing.T, l qemu.Launch, rt qemu.Runtime) *qemu.Process {
	t.Helper()
	p, err := qemu.Start(testContext(t), l, rt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Kill(); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	return p
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantStatus(t *testing.T, p *qemu.Process, want string) {
	t.Helper()
	got, err := p.Status(testContext(t))
	must(t, err)
	if got != want {
		t.Fatalf("run state %q, want %q", got, want)
	}
}

func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("error %v, want one with %q", err, part)
		}
	}
}

func waitExit(t *testing.T, p *qemu.Process) string {
	t.Helper()
	select {
	case <-p.Exited():
	case <-time.After(30 * time.Second):
		t.Fatal("the process does not end")
	}
	return p.ExitReason()
}
