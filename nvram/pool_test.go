package nvram

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// poolCase is one way to lay out a pool that can be tested without NVRAM.
type poolCase struct {
	name   string
	kind   Kind
	layout Layout
}

var poolCases = []poolCase{
	{"directory of shm", KindShm, LayoutDirectory},
	{"directory of files", KindFile, LayoutDirectory},
	{"directory of fsdax without MAP_SYNC", KindFSDAX, LayoutDirectory},
	{"single shm", KindShm, LayoutSingle},
	{"single file", KindFile, LayoutSingle},
	{"single fsdax without MAP_SYNC", KindFSDAX, LayoutSingle},
}

// forEachCase runs the test on every kind and layout. The path does not exist yet. It is absolute and without links.
func forEachCase(t *testing.T, test func(t *testing.T, c poolCase, path string)) {
	for _, c := range poolCases {
		t.Run(c.name, func(t *testing.T) { test(t, c, c.path(t)) })
	}
}

// path is in tmpfs for pools of kind shm, and on a file system with a disk behind it, if the machine has one, for the others.
func (c poolCase) path(t *testing.T) string {
	if c.kind == KindShm {
		return filepath.Join(shmDir(t), "pool")
	}
	return filepath.Join(t.TempDir(), "pool")
}

// shmDir gives a temporary directory in tmpfs, where pools of kind shm belong.
func shmDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "nvram-test-")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	return dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (c poolCase) init(t *testing.T, path string, size Bytes) {
	t.Helper()
	must(t, Init(InitOptions{Path: path, Kind: c.kind, Layout: c.layout, Size: size}))
}

func mustOpen(t *testing.T, path string) *Pool {
	t.Helper()
	p, err := Open(path)
	must(t, err)
	t.Cleanup(func() { must(t, p.Close()) })
	return p
}

func mustAlloc(t *testing.T, p *Pool, reqs ...Request) []Region {
	t.Helper()
	regions, err := p.Alloc(reqs...)
	must(t, err)
	return regions
}

// mustCheck wants a pool at rest: without a single finding.
func mustCheck(t *testing.T, path string) {
	t.Helper()
	report, err := Check(path)
	must(t, err)
	if len(report.Findings) > 0 {
		t.Fatalf("check: %+v", report.Findings)
	}
}

// wantError checks the sentinel, and that the message names the pool and, behind a semicolon, a remedy.
func wantError(t *testing.T, err, want error, path string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v, want one that wraps %v", err, want)
	}
	if text := err.Error(); !strings.Contains(text, path) || !strings.Contains(text, "; ") {
		t.Fatalf("error %q lacks the path or a remedy", text)
	}
}

func TestContentSurvivesReopening(t *testing.T) {
	forEachCase(t, func(t *testing.T, c poolCase, path string) {
		c.init(t, path, 16*MiB)
		p := mustOpen(t, path)
		regions := mustAlloc(t, p, Request{"vm1-ram", 4 * MiB, UseRAM}, Request{"vm1-state", 1, UseState})
		if regions[1].Size != 2*MiB || regions[0].Size != 4*MiB {
			t.Fatalf("sizes are %v and %v", regions[0].Size, regions[1].Size)
		}
		m, err := p.Map("vm1-state")
		must(t, err)
		m.Store(5, []byte("stored"))
		m.Flush(5, 6)
		m.Copy(1000, bytes.Repeat([]byte("copied."), 1000))
		m.Store8(4096*3, 0x1122334455667788)
		m.Flush(4096*3, 8)
		must(t, m.Fence())
		must(t, m.Close())
		must(t, p.Close())
		mustCheck(t, path)

		p = mustOpen(t, path)
		if got := p.Regions(); len(got) != 2 || got[0].ID != regions[0].ID || !got[1].Created.Equal(regions[1].Created) || got[1].Path != regions[1].Path {
			t.Fatalf("regions are %+v, were %+v", got, regions)
		}
		m, err = p.Map("vm1-state")
		must(t, err)
		defer m.Close()
		want := make([]byte, 2*MiB)
		copy(want[5:], "stored")
		copy(want[1000:], bytes.Repeat([]byte("copied."), 1000))
		copy(want[4096*3:], []byte{0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11})
		if !bytes.Equal(m.Bytes(), want) {
			t.Fatal("content differs")
		}
		for _, r := range p.Regions() {
			must(t, p.Verify(r))
			// QEMU finds the region by path and offset alone.
			f, err := os.ReadFile(r.Path)
			must(t, err)
			if r.Name == "vm1-state" && !bytes.Equal(f[r.Offset:r.Offset+r.Size], want) {
				t.Fatal("content at path and offset differs")
			}
		}
	})
}
