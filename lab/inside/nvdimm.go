package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/lab/plan"
)

// markers is a folder of empty files, one for each thing that is done once in the life of a host.
const markers = "/var/lib/nvh-lab"

// setUpNVDIMMs gives each NVDIMM its mode, and one in fsdax mode its file system, at the first boot; at later ones it mounts.
func (h *host) setUpNVDIMMs() error {
	for n, d := range h.plan.NVDIMMs {
		if err := setMode(n, d.Mode); err != nil {
			return fmt.Errorf("NVDIMM %d: %w", n, err)
		}
		if d.Mode != plan.FSDAX {
			continue
		}
		device := fmt.Sprintf("/dev/pmem%d", n)
		if err := makeFileSystem(device); err != nil {
			return fmt.Errorf("NVDIMM %d: %w", n, err)
		}
		err := mount(device, h.plan.PoolPath(n), "ext4", 0, "dax=always")
		if errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) { // an NVDIMM that is not armed; noload: no journal is replayed on it
			err = mount(device, h.plan.PoolPath(n), "ext4", unix.MS_RDONLY, "dax=always,noload")
		}
		if err != nil {
			return fmt.Errorf("NVDIMM %d: %w", n, err)
		}
	}
	return nil
}

// sysfsModes are ndctl's words for what the kernel calls memory and dax, see drivers/nvdimm/namespace_devs.c in the
// Linux sources. A new NVDIMM is raw.
var sysfsModes = map[plan.Mode]string{plan.FSDAX: "memory", plan.DevDAX: "dax"}

func setMode(n int, mode plan.Mode) error {
	namespace := fmt.Sprintf("namespace%d.0", n)
	current, err := os.ReadFile(filepath.Join("/sys/bus/nd/devices", namespace, "mode"))
	if err != nil {
		return err
	}
	if strings.TrimSpace(string(current)) == sysfsModes[mode] {
		return nil
	}
	return run("ndctl", "create-namespace", "--force", "--reconfig="+namespace, "--mode="+string(mode), "--map=mem")
}

// makeFileSystem makes an ext4 where there is none. The stride lets it place large files so that they can be mapped
// by 2 MiB pages.
func makeFileSystem(device string) error {
	f, err := os.Open(device)
	if err != nil {
		return err
	}
	defer f.Close()
	magic := make([]byte, 2)
	if _, err := f.ReadAt(magic, ext4MagicOffset); err != nil {
		return err
	}
	if binary.LittleEndian.Uint16(magic) == unix.EXT4_SUPER_MAGIC {
		return nil
	}
	return run("mkfs.ext4", "-q", "-F", "-b", "4096", "-E", "stride=512,stripe_width=512,nodiscard", "-m", "0", device)
}

// ext4MagicOffset: the superblock lies at 1024, s_magic at 0x38 in it (Documentation/filesystems/ext4/super.rst).
const ext4MagicOffset = 1024 + 0x38

// makePools initialises the pools at the first boot. A pool that is there, be it from another host, is left as it is.
func (h *host) makePools() error {
	for n, d := range h.plan.NVDIMMs {
		marker := filepath.Join(markers, "pool-"+d.Pool)
		if _, err := os.Stat(marker); err == nil {
			continue
		}
		path := h.plan.PoolPath(n)
		if err := run("nvh", "nvram", "check", path); err != nil {
			if err := run("nvh", "nvram", "init", path, "--kind", string(d.Mode)); err != nil {
				return err
			}
		}
		if err := os.WriteFile(marker, nil, 0o644); err != nil {
			return err
		}
		syscall.Sync()
	}
	return nil
}

func run(name string, args ...string) error {
	cmd := exec.Command(name, args...)
	var text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, &text
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(text.String()))
	}
	return err
}
