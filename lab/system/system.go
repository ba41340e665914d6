// Package system builds what an emulated host boots: Debian's kernel, an initramfs with its modules and the first
// process (lab/inside), and a read-only root image with QEMU 7.2 and 10, ndctl, mkfs.ext4, busybox and the test guest.
//
// Everything comes from Debian packages that are unpacked in the cache, except QEMU 7.2 and the libraries that
// programs share, which are the installed ones: the host runs exactly the QEMU of the machine. An image is made
// once for its inputs, appears whole or not at all, and several processes may ask at once.
package system

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/nv-hypervisor/nv-hypervisor/lab/debian"
	"github.com/nv-hypervisor/nv-hypervisor/lab/emulator"
	"github.com/nv-hypervisor/nv-hypervisor/lab/guest"
	"github.com/nv-hypervisor/nv-hypervisor/lab/kernel"
)

// System is what a host boots. Paths are absolute.
type System struct {
	Kernel kernel.Kernel
	Root   string // the root image, an ext4, for the host's first disk
	Guest  guest.Image
}

// modules are those a host needs, beside what they depend on, in the order they are loaded.
var modules = []string{
	"virtio_pci", "virtio_blk", "virtio_console", // disks and ports
	"crc32c_generic", "ext4",
	"kvm-amd",                                             // TCG emulates SVM
	"nfit", "nd_btt", "nd_pmem", "dax_pmem", "device_dax", // NVDIMMs
	"virtio-rng", "button", "evdev",
}

// Build returns the system with a kernel, making what is missing in the cache. The first call downloads about 120 MB.
func Build(ctx context.Context, cache string, series kernel.Series) (System, error) {
	s := System{}
	var err error
	if s.Kernel, err = kernel.Fetch(ctx, cache, series, modules); err != nil {
		return s, fmt.Errorf("host system: %w", err)
	}
	if s.Guest, err = guest.Build(ctx, cache); err != nil {
		return s, fmt.Errorf("host system: %w", err)
	}
	if s.Root, err = buildRoot(ctx, cache, s.Guest); err != nil {
		return s, fmt.Errorf("host system: %w", err)
	}
	return s, nil
}

func buildRoot(ctx context.Context, cache string, image guest.Image) (string, error) {
	tools, err := debian.Tree(ctx, cache, "host-tools", func(ctx context.Context, apt *debian.Apt, dir string) (string, error) {
		if err := apt.UnpackWithDependencies(ctx, dir, debian.Bookworm, "ndctl", "busybox-static"); err != nil {
			return "", err
		}
		return apt.Version(ctx, "ndctl", debian.Bookworm)
	})
	if err != nil {
		return "", err
	}
	old, err := emulator.Installed(ctx)
	if err != nil {
		return "", err
	}
	newer, err := emulator.Backports(ctx, cache)
	if err != nil {
		return "", err
	}
	t := newTree()
	if err := errors.Join(t.base(tools), t.qemu7(ctx, old.Path), t.qemu10(ctx, filepath.Dir(filepath.Dir(newer.Path))),
		t.programs(ctx, tools), t.guest(image)); err != nil {
		return "", err
	}
	return t.image(ctx, filepath.Join(cache, "host-root"))
}

// image returns the tree as an ext4 image in folder, making it if it is not there.
func (t *tree) image(ctx context.Context, folder string) (string, error) {
	key, err := t.key()
	if err != nil {
		return "", err
	}
	path := filepath.Join(folder, "root-"+key+".img")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	unlock, err := debian.Lock(ctx, filepath.Join(folder, "lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return path, err
	}
	work, err := os.MkdirTemp(folder, "unfinished-*")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)
	root := filepath.Join(work, "root")
	if err := t.copyTo(root); err != nil {
		return "", err
	}
	unfinished := filepath.Join(work, "image")
	if err := MakeImage(ctx, unfinished, root, (t.contents+t.contents/8+16<<20)&^(1<<20-1)); err != nil {
		return "", err
	}
	return path, os.Rename(unfinished, path)
}

// MakeImage makes a file of a size in bytes that holds an ext4 with a folder's content; an empty folder name is an
// empty file system. The file is sparse.
func MakeImage(ctx context.Context, path, folder string, size int64) error {
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		return err
	}
	if err := os.Truncate(path, size); err != nil {
		return err
	}
	args := []string{"-q", "-F", "-t", "ext4", "-m", "0", "-E", "root_owner=0:0,lazy_itable_init=1,nodiscard"}
	if folder != "" {
		args = append(args, "-O", "^has_journal", "-d", folder)
	}
	program, err := exec.LookPath("mke2fs")
	if err != nil {
		program = "/usr/sbin/mke2fs" // not in everybody's PATH
	}
	if out, err := exec.CommandContext(ctx, program, append(args, path)...).CombinedOutput(); err != nil {
		return fmt.Errorf("make the disk image %s: %w: %s: install e2fsprogs with make deps", path, err, out)
	}
	return nil
}
