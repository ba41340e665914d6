// Package qemutest gives tests the QEMU binaries that the project supports: the
// installed one of Debian 12 (7.2) and the one from its backports (10.0). A
// binary that is missing fails the test; nothing is ever left untested silently.
package qemutest

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/qemu"
)

// Binaries returns every supported QEMU, the oldest first.
func Binaries(t testing.TB) []*qemu.Binary {
	t.Helper()
	return []*qemu.Binary{Installed(t), Backports(t)}
}

// Installed returns the QEMU in $PATH.
func Installed(t testing.TB) *qemu.Binary {
	t.Helper()
	return probe(t, "")
}

// Backports returns the QEMU that `make deps` has unpacked in the cache.
func Backports(t testing.TB) *qemu.Binary {
	t.Helper()
	path := filepath.Join(cache(t), "qemu-backports", "current", "bin", qemu.DefaultBinary)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("no QEMU from backports: %v: run make deps", err)
	}
	return probe(t, path)
}

// cache is the folder of downloads: $NVH_CACHE, or nvh in the user's cache folder.
func cache(t testing.TB) string {
	t.Helper()
	if dir := os.Getenv("NVH_CACHE"); dir != "" {
		return dir
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		t.Fatalf("find the cache folder: %v: set NVH_CACHE", err)
	}
	return filepath.Join(dir, "nvh")
}

func probe(t testing.TB, path string) *qemu.Binary {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	b, err := qemu.Probe(ctx, path)
	if err != nil {
		t.Fatalf("%v: run make deps", err)
	}
	return b
}
