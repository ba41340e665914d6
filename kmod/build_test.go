package kmod_test

import (
	"bytes"
	"debug/elf"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/nv-hypervisor/nv-hypervisor/kmod"
	"github.com/nv-hypervisor/nv-hypervisor/lab/kernel"
)

// release is the name of today's kernel of a series.
func release(t *testing.T, series kernel.Series) string {
	t.Helper()
	k, err := kernel.Fetch(t.Context(), cacheDir(t), series, nil)
	if err != nil {
		t.Fatal(err)
	}
	return k.Release
}

// modinfo reads the strings that modinfo(8) shows.
func modinfo(t *testing.T, path string) map[string]string {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if section == nil {
		t.Fatalf("%s has no .modinfo", path)
	}
	data, err := section.Data()
	if err != nil {
		t.Fatal(err)
	}
	info := map[string]string{}
	for entry := range strings.SplitSeq(string(data), "\x00") {
		name, value, _ := strings.Cut(entry, "=")
		info[name] = value
	}
	return info
}

func TestModuleIsOfItsKernelAndOfTheVersionOfDKMS(t *testing.T) {
	dkms, err := os.ReadFile("nvh_pod/dkms.conf")
	if err != nil {
		t.Fatal(err)
	}
	for _, series := range []kernel.Series{kernel.V6_1, kernel.V6_12} {
		name := release(t, series)
		path, err := kmod.Build(t.Context(), cacheDir(t), name)
		if err != nil {
			t.Fatal(err)
		}
		info := modinfo(t, path)
		if !strings.HasPrefix(info["vermagic"], name+" ") || info["license"] != "GPL" || info["name"] != "nvh_pod" {
			t.Errorf("%s: %v", name, info)
		}
		if !strings.Contains(string(dkms), `PACKAGE_VERSION="`+info["version"]+`"`) {
			t.Errorf("the module's version is %s, dkms.conf has another", info["version"])
		}
	}
}

func TestBuiltModuleNeedsNoProgram(t *testing.T) {
	name := release(t, kernel.V6_1)
	first, err := kmod.Build(t.Context(), cacheDir(t), name)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", t.TempDir())
	if again, err := kmod.Build(t.Context(), cacheDir(t), name); err != nil || again != first {
		t.Errorf("%s, %v: want %s", again, err, first)
	}
}

// lendHeaders makes a cache that has the headers of a kernel, and nothing else.
func lendHeaders(t *testing.T, name string) string {
	t.Helper()
	if _, err := kmod.Build(t.Context(), cacheDir(t), name); err != nil { // fetches them
		t.Fatal(err)
	}
	cache := t.TempDir()
	headers := "linux-headers-" + name
	if err := os.Symlink(filepath.Join(cacheDir(t), headers), filepath.Join(cache, headers)); err != nil {
		t.Fatal(err)
	}
	return cache
}

// Two builders in one fresh cache end with one module, equal to the one in the real cache, even below a make with
// ideas of its own.
func TestBuildersAgree(t *testing.T) {
	name := release(t, kernel.V6_1)
	cache := lendHeaders(t, name)
	t.Setenv("MAKEFLAGS", "n")
	t.Setenv("ARCH", "arm64")
	paths := make([]string, 2)
	var both sync.WaitGroup
	for i := range paths {
		both.Go(func() {
			var err error
			if paths[i], err = kmod.Build(t.Context(), cache, name); err != nil {
				t.Error(err)
			}
		})
	}
	both.Wait()
	if t.Failed() || paths[0] != paths[1] {
		t.Fatalf("%q", paths)
	}
	real, err := kmod.Build(t.Context(), cacheDir(t), name)
	if err != nil {
		t.Fatal(err)
	}
	want, err1 := os.ReadFile(real)
	got, err2 := os.ReadFile(paths[0])
	if err := errors.Join(err1, err2); err != nil || !bytes.Equal(want, got) {
		t.Errorf("the module is not a function of its inputs: %d and %d bytes, %v", len(want), len(got), err)
	}
	if left, _ := filepath.Glob(filepath.Join(cache, "nvh_pod", "*")); len(left) != 2 { // the folder and the lock
		t.Errorf("left behind: %v", left)
	}
}

func TestFailedBuildSaysWhyAndLeavesNothing(t *testing.T) {
	name := release(t, kernel.V6_1)
	cache := lendHeaders(t, name)
	t.Setenv("KCPPFLAGS", "-DNVH_POD_RING=0") // contradicts the header: a warning, and so an error
	_, err := kmod.Build(t.Context(), cache, name)
	if err == nil || !strings.Contains(err.Error(), `"NVH_POD_RING" redefined`) || !strings.Contains(err.Error(), name) {
		t.Errorf("a warning of the compiler: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(cache, "nvh_pod", "*")); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}

func TestUnknownKernelIsNamed(t *testing.T) {
	const unknown = "0.1.0-no-such-kernel"
	t.Cleanup(func() { os.RemoveAll(filepath.Join(cacheDir(t), "linux-headers-"+unknown)) }) // holds a lock file
	for _, name := range []string{"", "../../etc", "6.1 amd64", unknown} {
		if _, err := kmod.Build(t.Context(), cacheDir(t), name); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%q: %v", name, err)
		}
	}
}
