package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/lab/plan"
)

// steps are the boot from the point where the agent answers, so that a step that fails can be looked into.
func (h *host) steps() []struct {
	name string
	do   func() error
} {
	return []struct {
		name string
		do   func() error
	}{
		{"system", h.enterSystem},
		{"product", h.mountProduct},
		{plan.StandbyStep, h.standBy},
		{"disk", h.mountDisk},
		{"NVDIMMs", h.setUpNVDIMMs},
		{"configuration", h.configure},
		{"pools", h.makePools},
		{"outage detector", h.loadDetector},
		{"nvhd", h.startDaemon},
	}
}

// The disks, in the order in which the outside attaches them.
const (
	systemDisk  = "/dev/vda" // read-only: QEMU, ndctl and the rest
	productDisk = "/dev/vdb" // read-only: what is under test
	stateDisk   = "/dev/vdc" // survives power cuts
)

func mount(device, at, kind string, flags uintptr, options string) error {
	if err := os.MkdirAll(at, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := unix.Mount(device, at, kind, flags, options); err != nil {
		return fmt.Errorf("mount %s at %s: %w", device, at, err)
	}
	return nil
}

func (h *host) mountKernel() error {
	for _, m := range []struct{ kind, at string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := mount(m.kind, m.at, m.kind, 0, ""); err != nil {
			return err
		}
	}
	return nil
}

// loadModules loads the modules of the initramfs in the order its builder found.
func (h *host) loadModules() error {
	order, err := os.ReadFile("/modules/order")
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(string(order)) {
		if err := loadModule("/modules/" + name); err != nil {
			return err
		}
	}
	return nil
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("kernel module: %w", err)
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("kernel module %s: %w: see dmesg", filepath.Base(path), err)
	}
	return nil
}

// enterSystem makes the system image the root of this process and of all it starts.
func (h *host) enterSystem() error {
	const root = "/system"
	if err := mount(systemDisk, root, "ext4", unix.MS_RDONLY, ""); err != nil {
		return err
	}
	for _, at := range []string{"/dev", "/proc", "/sys"} {
		if err := unix.Mount(at, root+at, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", at, err)
		}
	}
	if err := unix.Chroot(root); err != nil {
		return fmt.Errorf("chroot: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	for _, m := range []struct{ kind, at string }{
		{"tmpfs", "/run"}, {"tmpfs", "/tmp"}, {"tmpfs", plan.NVRAM}, {"tmpfs", "/dev/shm"}, {"devpts", "/dev/pts"},
	} {
		if err := mount(m.kind, m.at, m.kind, 0, ""); err != nil {
			return err
		}
	}
	return nil
}

func (h *host) mountProduct() (err error) {
	if err := mount(productDisk, plan.Product, "ext4", unix.MS_RDONLY, ""); err != nil {
		return err
	}
	h.plan, err = plan.Read(filepath.Join(plan.Product, plan.File))
	return err
}

// standBy waits for the outside, in a host that is put to sleep here and woken up with other contents of its NVDIMMs and its disk.
// What the drivers have read of the old ones when they found the devices is forgotten.
func (h *host) standBy() error {
	if !h.plan.Standby {
		return nil
	}
	for {
		_, err := os.Stat(plan.Go)
		if err == nil {
			return os.WriteFile("/proc/sys/vm/drop_caches", []byte("1"), 0)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (h *host) mountDisk() error {
	if err := mount(stateDisk, "/var", "ext4", 0, ""); err != nil {
		return err
	}
	for _, dir := range []string{plan.State, "/var/etc/nvh", markers} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// configure writes the daemon's configuration at the first boot; from then on it is the operator's.
func (h *host) configure() error {
	if _, err := os.Stat(plan.Config); err == nil {
		return nil
	}
	if err := os.WriteFile(plan.Config, []byte(h.plan.Daemon), 0o644); err != nil {
		return err
	}
	syscall.Sync() // the power may go at any time
	return nil
}

// loadDetector loads the kernel module of the outage detector, if the plan wants one.
func (h *host) loadDetector() error {
	if !h.plan.POD {
		return nil
	}
	return loadModule(filepath.Join(plan.Product, plan.Module))
}
