// Package guest builds a small real Linux guest: Debian's cloud kernel, unmodified, with an initramfs whose
// init is the workload (lab/guest/workload). The demo, the integration tests and the benchmarks run it.
//
// The kernel and busybox come from Debian's archive through lab/debian and stay in the cache; the workload is
// compiled by the Go tool. An image is a pure function of these inputs and is made once: its name
// is their hash, it appears whole or not at all, and several processes may build at once.
package guest

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/nv-hypervisor/nv-hypervisor/lab/debian"
	"github.com/nv-hypervisor/nv-hypervisor/lab/guest/console"
	"github.com/nv-hypervisor/nv-hypervisor/lab/guest/journal"
)

// Image is a bootable guest. Paths are absolute.
type Image struct {
	Kernel  string
	Initrd  string
	Cmdline string // kernel command line for a serial console; add nvh.* parameters of the workload to it
}

// Tick is one line of the workload on its console.
type Tick = console.Tick

// Report is what VerifyDisk found.
type Report = journal.Report

// ErrDiskDamaged is wrapped by the error of VerifyDisk when records are missing or wrong.
var ErrDiskDamaged = journal.ErrDamaged

// What a tick says of the guest's disk: every acknowledged record is there, or one was lost.
const (
	DiskOK  = console.DiskOK
	DiskBad = console.DiskBad
)

// ParseLine reads one console line. It reports false for anything that is not one whole tick.
func ParseLine(line string) (Tick, bool) { return console.Parse(line) }

// VerifyDisk checks the workload's journal on a raw disk image, on the host. See journal.Verify.
func VerifyDisk(path string) (Report, error) { return journal.Verify(path) }

// cmdline has quiet because each kernel message costs milliseconds on an emulated serial port, nokaslr because
// moving the kernel costs half a second of a two-second boot under binary translation, and lastbus=0 because the
// search for PCI buses that the firmware does not tell of is 16,000 port accesses, each an exit under KVM. A panic
// reboots, so that a broken guest shows a new boot id and not an endless silence.
const cmdline = "console=ttyS0 quiet panic=-1 nokaslr cryptomgr.notests pci=lastbus=0"

// sources is what the workload is compiled from. The files of this package are in it because they write the initramfs.
//
//go:embed *.go workload console journal pattern initramfs
var sources embed.FS

// Build returns the image, making what is missing in cacheDir. The first call in a fresh cache downloads about 40 MB.
func Build(ctx context.Context, cacheDir string) (Image, error) {
	cacheDir, err := filepath.Abs(cacheDir)
	if err != nil {
		return Image{}, fmt.Errorf("guest image: %w", err)
	}
	system, err := debian.Tree(ctx, cacheDir, systemName(), fetchSystem)
	if err != nil {
		return Image{}, fmt.Errorf("guest image: %w", err)
	}
	key, err := hashInputs(system)
	if err != nil {
		return Image{}, fmt.Errorf("guest image: %w", err)
	}
	image := Image{
		Kernel:  filepath.Join(system, "vmlinuz"),
		Initrd:  filepath.Join(cacheDir, "guest", "initrd-"+key),
		Cmdline: cmdline,
	}
	if _, err := os.Stat(image.Initrd); err == nil {
		return image, nil
	}
	unlock, err := debian.Lock(ctx, filepath.Join(cacheDir, "guest", "lock"))
	if err != nil {
		return Image{}, fmt.Errorf("guest image: %w", err)
	}
	defer unlock()
	if _, err := os.Stat(image.Initrd); errors.Is(err, os.ErrNotExist) {
		err := buildInitrd(ctx, system, image.Initrd)
		if err != nil {
			return Image{}, fmt.Errorf("guest image: %w", err)
		}
	}
	return image, nil
}

// systemName makes a cached tree with other modules than today's a different tree.
func systemName() string {
	hash := sha256.Sum256(fmt.Append(nil, wanted, virtioTransport))
	return "guest-system-" + hex.EncodeToString(hash[:4])
}

// fetchSystem fills the cached tree: the kernel, its modules that a guest can need, and busybox, nothing else.
func fetchSystem(ctx context.Context, apt *debian.Apt, dir string) (string, error) {
	const meta = "linux-image-cloud-amd64"
	kernel, err := apt.OnlyDependency(ctx, meta, debian.Bookworm)
	if err != nil {
		return "", err
	}
	version, err := apt.Version(ctx, kernel, debian.Bookworm)
	if err != nil {
		return "", err
	}
	full := filepath.Join(dir, "unpacked")
	if err := os.Mkdir(full, 0o755); err != nil {
		return "", err
	}
	if err := apt.Unpack(ctx, full, debian.Bookworm, kernel, "busybox-static"); err != nil {
		return "", err
	}
	if err := keepNeeded(full, dir); err != nil {
		return "", err
	}
	return kernel + "_" + version, os.RemoveAll(full)
}

func keepNeeded(full, dir string) error {
	kernels, err := filepath.Glob(filepath.Join(full, "boot/vmlinuz-*"))
	if err != nil || len(kernels) != 1 {
		return fmt.Errorf("the kernel package has %d kernels: want one", len(kernels))
	}
	if err := os.Rename(kernels[0], filepath.Join(dir, "vmlinuz")); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(full, "bin/busybox"), filepath.Join(dir, "busybox")); err != nil {
		return err
	}
	modules := filepath.Join(dir, "modules")
	if err := os.Mkdir(modules, 0o755); err != nil {
		return err
	}
	return collectModules(filepath.Join(full, "lib/modules"), modules)
}

// hashInputs names the image: sources, compiler, and the tree, whose name holds the kernel's version.
func hashInputs(system string) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, runtime.Version(), filepath.Base(system))
	err := fs.WalkDir(sources, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(path, "_test.go") {
			return err
		}
		content, err := sources.ReadFile(path)
		if err != nil {
			return err
		}
		fmt.Fprintln(h, path, len(content))
		h.Write(content)
		return nil
	})
	return hex.EncodeToString(h.Sum(nil))[:16], err
}
