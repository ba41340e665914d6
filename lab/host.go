// Package lab runs emulated hosts whose power can be cut: Debian's kernel with its NVDIMM driver and KVM, QEMU, and the
// unchanged product, on a machine that is a QEMU itself.
//
// A host lives in a folder. Its NVDIMMs and its disk are files there; its DRAM is memory of the outer QEMU. A
// cut is SIGKILL of that QEMU: the files stay as they were at that instant, and everything else is gone. Powering
// on starts the same command again.
//
// What is emulated and what is not: the instructions of the host run under binary translation, ten to twenty times
// slower than silicon. A store to an NVDIMM is in the file at once, so that the loss of unflushed CPU cache lines
// does not show here (package nvram/nvramtest enumerates it); what Linux says about the persistence domain is as on
// a real host. The disk is one with power-loss protection: what it has acknowledged is kept.
//
// A Host may be used by several processes at once, and by several goroutines. Its processes are found by the folder.
package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/nv-hypervisor/nv-hypervisor/internal/durable"
	"github.com/nv-hypervisor/nv-hypervisor/kmod"
	"github.com/nv-hypervisor/nv-hypervisor/lab/debian"
	"github.com/nv-hypervisor/nv-hypervisor/lab/system"
)

// Files in a host's folder.
const (
	hostFile      = "host.json"
	initramfsFile = "initramfs"
	productFile   = "product.img"
	diskFile      = "disk.img"
	pidFile       = "qemu.pid"
	lockFile      = "lock"
	commandFile   = "power-on.sh" // the command line of the outer QEMU

	// QEMULog is what the outer QEMU says.
	QEMULog = "qemu.log"
	// ConsoleLog is what the host's kernel and first process print on the serial port.
	ConsoleLog = "console.log"
	// DaemonLog is what nvhd logs, to the last line before a cut.
	DaemonLog = "nvhd.log"
)

// NVDIMMFile is the file with the content of the n-th NVDIMM: its memory, and 128 KiB of label storage behind.
func NVDIMMFile(n int) string { return fmt.Sprintf("nvdimm%d.img", n) }

// Host is an emulated host.
type Host struct {
	folder string
	config config
	tied   bool // see Tie

	standby bool // the next boot stops before it looks at the NVDIMMs and the disk
	waking  bool // the outer QEMU begins with a state that it is given; see Standby
}

// config is host.json.
type config struct {
	Options Options
	Kernel  string // the file to boot
	Root    string // the root image
	QEMU    string // the outer QEMU
	Module  string // the kernel module of the outage detector
}

// Folder is where the host lives.
func (h *Host) Folder() string { return h.folder }

// Options are what the host was made with, defaults filled in.
func (h *Host) Options() Options { return h.config.Options }

// Create makes a host, with its power off, in a folder that does not exist yet. What is missing in the cache is downloaded.
func Create(ctx context.Context, folder string, o Options) (_ *Host, err error) {
	if err := errors.Join(o.complete(), o.checkPrograms()); err != nil {
		return nil, fmt.Errorf("create a host: %w", err)
	}
	if folder, err = filepath.Abs(folder); err != nil {
		return nil, fmt.Errorf("create a host: %w", err)
	}
	h := &Host{folder: folder, config: config{Options: o}}
	if err := os.MkdirAll(filepath.Dir(folder), 0o755); err != nil {
		return nil, fmt.Errorf("create a host: %w", err)
	}
	if err := os.Mkdir(folder, 0o755); err != nil {
		if errors.Is(err, fs.ErrExist) {
			err = fmt.Errorf("%s: %w: power it on, or remove it first", folder, fs.ErrExist)
		}
		return nil, fmt.Errorf("create a host: %w", err)
	}
	if err := h.make(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("create a host: %w", err), os.RemoveAll(folder))
	}
	return h, nil
}

func (h *Host) make(ctx context.Context) error {
	cache, err := debian.DefaultCache()
	if err != nil {
		return err
	}
	s, err := system.Build(ctx, cache, h.config.Options.Kernel)
	if err != nil {
		return err
	}
	if err := s.WriteInitramfs(ctx, h.path(initramfsFile)); err != nil {
		return err
	}
	h.config.Kernel, h.config.Root = s.Kernel.Image, s.Root
	if h.config.QEMU, err = outerQEMU(ctx, cache); err != nil {
		return err
	}
	if h.config.Module, err = kmod.Build(ctx, cache, s.Kernel.Release); err != nil {
		return err
	}
	if err := system.MakeImage(ctx, h.path(diskFile), "", int64(h.config.Options.Disk)); err != nil {
		return err
	}
	for n, d := range h.config.Options.NVDIMMs {
		if err := makeNVDIMM(h.path(NVDIMMFile(n)), d); err != nil {
			return err
		}
	}
	return h.save()
}

func makeNVDIMM(path string, d NVDIMM) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(int64(d.Size+labelSize)), f.Close())
}

func (h *Host) save() error {
	content, err := json.MarshalIndent(h.config, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(h.path(hostFile), content, 0o644)
}

// Open finds a host that was created before, by whatever process.
func Open(folder string) (*Host, error) {
	folder, err := filepath.Abs(folder)
	if err != nil {
		return nil, err
	}
	h := &Host{folder: folder}
	content, err := os.ReadFile(h.path(hostFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no host in %s: %w", folder, fs.ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(content, &h.config); err != nil {
		return nil, fmt.Errorf("%s: %w", h.path(hostFile), err)
	}
	return h, nil
}

// Tie makes the outer QEMU end when this process does, however it ends. It counts from the next PowerOn.
func (h *Host) Tie() { h.tied = true }

// Remove cuts the power and removes the folder.
func (h *Host) Remove() error {
	return errors.Join(h.Cut(), os.RemoveAll(h.folder))
}

// SetDetector says whether the next boots load the kernel module of the outage detector.
func (h *Host) SetDetector(load bool) error {
	h.config.Options.NoDetector = !load
	return h.save()
}

// SetArmed says whether the NVDIMMs are healthy at the next boots. One that is not armed says so in its flags, and
// Linux makes it read-only.
func (h *Host) SetArmed(armed bool) error {
	h.config.Options.Unarmed = !armed
	return h.save()
}

func (h *Host) path(name string) string { return filepath.Join(h.folder, name) }
