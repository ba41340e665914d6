// Package kmod builds the kernel module nvh_pod, and others that tests need, for Debian's kernels without installing
// anything.
//
// Headers and build programs come from Debian's archive through lab/debian and stay in the cache; the machine
// must have make, gcc-12 and libelf (scripts/deps.sh). A module is a pure function of its sources and of the
// kernel's headers and is built once: its folder is named by them, it appears whole or not at all, and several
// processes may build at once.
//
// This is for tests and for the lab. On a host that runs the module, DKMS builds it (kmod/nvh_pod/README.md).
package kmod

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/lab/debian"
)

// Module is the file name of the module.
const Module = "nvh_pod.ko"

// sources is what the module is compiled from.
//
//go:embed nvh_pod/Makefile nvh_pod/Kbuild nvh_pod/*.c nvh_pod/*.h
var sources embed.FS

// Build returns the path of the module for a kernel, named as `uname -r` does and as Debian's package
// linux-image-NAME is, for instance 6.1.0-50-amd64, making what is missing in cacheDir. Warnings of the compiler
// are errors. The first call for a kernel downloads about 13 MB and takes some ten seconds.
func Build(ctx context.Context, cacheDir, kernel string) (string, error) {
	return BuildFrom(ctx, cacheDir, kernel, "nvh_pod", sources)
}

// BuildFrom is Build for the module of another name. Its sources, whose folders do not matter, have a Makefile that takes
// the kernel's build folder as KDIR and makes NAME.ko.
func BuildFrom(ctx context.Context, cacheDir, kernel, name string, sources fs.FS) (string, error) {
	path, err := build(ctx, cacheDir, kernel, module{name, sources})
	if err != nil {
		return "", fmt.Errorf("kernel module %s for %s: %w", name, kernel, err)
	}
	return path, nil
}

// module is what is built.
type module struct {
	name    string
	sources fs.FS
}

func (m module) file() string { return m.name + ".ko" }

func build(ctx context.Context, cacheDir, kernel string, m module) (string, error) {
	if kernel == "" || strings.ContainsAny(kernel, "/ ") {
		return "", errors.New("not the name of a kernel: want one as 6.1.0-50-amd64")
	}
	cacheDir, err := filepath.Abs(cacheDir)
	if err != nil {
		return "", err
	}
	tree, err := debian.Tree(ctx, cacheDir, "linux-headers-"+kernel, func(ctx context.Context, apt *debian.Apt, dir string) (string, error) {
		return fetchHeaders(ctx, apt, dir, kernel)
	})
	if err != nil {
		return "", err
	}
	key, err := m.hashInputs(tree)
	if err != nil {
		return "", err
	}
	base := filepath.Join(cacheDir, m.name)
	dir := filepath.Join(base, kernel+"-"+key)
	path := filepath.Join(dir, m.file())
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	unlock, err := debian.Lock(ctx, filepath.Join(base, "lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	return path, m.compile(ctx, headers(tree, kernel), dir)
}

// variables of make. Debug information would hold the name of a temporary folder, and BTF needs pahole.
var variables = []string{"W=1", "KCFLAGS=-Werror", "CONFIG_DEBUG_INFO=", "CONFIG_DEBUG_INFO_BTF_MODULES="}

// compile makes the folder dir with the module in it: under another name first, so that dir never holds half of one.
func (m module) compile(ctx context.Context, headers, dir string) error {
	work, err := os.MkdirTemp(filepath.Dir(dir), "unfinished-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if err := m.writeSources(work); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "make", append([]string{"-C", work, "KDIR=" + headers}, variables...)...)
	cmd.WaitDelay = 5 * time.Second
	cmd.Env = append(slices.DeleteFunc(os.Environ(), ofMake), "LC_ALL=C")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: run make deps if a program is missing:\n%s", err, bytes.TrimSpace(out))
	}
	finished, err := os.MkdirTemp(filepath.Dir(dir), "unfinished-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(finished)
	if err := os.Chmod(finished, 0o755); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(work, m.file()), filepath.Join(finished, m.file())); err != nil {
		return err
	}
	return os.Rename(finished, dir)
}

// ofMake: a make above us, as in `make test`, must not rule the one below.
func ofMake(variable string) bool {
	name, _, _ := strings.Cut(variable, "=")
	return slices.Contains([]string{"MAKEFLAGS", "MFLAGS", "GNUMAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "KERNELRELEASE", "ARCH", "CROSS_COMPILE", "LC_ALL"}, name)
}

func (m module) writeSources(dir string) error {
	return m.eachSource(func(name string, content []byte) error {
		return os.WriteFile(filepath.Join(dir, name), content, 0o644)
	})
}

// hashInputs names a build: sources, flags, and the tree, whose name holds the kernel's version.
func (m module) hashInputs(tree string) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, filepath.Base(tree), variables)
	err := m.eachSource(func(name string, content []byte) error {
		fmt.Fprintln(h, name, len(content))
		_, err := h.Write(content)
		return err
	})
	return hex.EncodeToString(h.Sum(nil))[:16], err
}

func (m module) eachSource(do func(name string, content []byte) error) error {
	return fs.WalkDir(m.sources, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := fs.ReadFile(m.sources, path)
		if err != nil {
			return err
		}
		return do(filepath.Base(path), content)
	})
}
