// Package emulator finds the two versions of QEMU that the integration tests run on, side by side: the one that
// Debian 12 installs (7.2) and the one from its backports (10.0), which is unpacked in the cache and not installed.
//
// Both are started by their path like any qemu-system-x86_64; the process that a caller starts
// becomes QEMU itself, so its process id is QEMU's.
package emulator

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"

	"github.com/nv-hypervisor/nv-hypervisor/lab/debian"
)

// Program is the file name of the emulator.
const Program = "qemu-system-x86_64"

// Emulator is one version of QEMU.
type Emulator struct {
	Path    string // absolute
	Version string // as in "7.2.22"
	Machine string // its newest versioned machine type, as in "pc-q35-7.2"
}

// All returns the installed version and the one from backports, in this order, fetching the latter when it is
// not in the cache yet.
func All(ctx context.Context, cache string) ([]Emulator, error) {
	old, err := Installed(ctx)
	if err != nil {
		return nil, err
	}
	newer, err := Backports(ctx, cache)
	if err != nil {
		return nil, err
	}
	return []Emulator{old, newer}, nil
}

// Installed returns the emulator on PATH.
func Installed(ctx context.Context) (Emulator, error) {
	path, err := exec.LookPath(Program)
	if err != nil {
		return Emulator{}, fmt.Errorf("find QEMU: %w: run make deps", err)
	}
	if path, err = filepath.Abs(path); err != nil {
		return Emulator{}, fmt.Errorf("find QEMU: %w", err)
	}
	return identify(ctx, path)
}

// Backports returns the emulator from bookworm-backports.
func Backports(ctx context.Context, cache string) (Emulator, error) {
	dir, err := debian.Tree(ctx, cache, "qemu-backports", fill)
	if err != nil {
		return Emulator{}, err
	}
	return identify(ctx, filepath.Join(dir, "bin", Program))
}

func fill(ctx context.Context, apt *debian.Apt, dir string) (string, error) {
	version, err := apt.Version(ctx, "qemu-system-x86", debian.Backports)
	if err != nil {
		return "", err
	}
	err = apt.UnpackWithDependencies(ctx, dir, debian.Backports,
		"qemu-system-x86", "qemu-system-common", "qemu-system-data", "seabios", "ipxe-qemu")
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o755); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "bin", Program), []byte(launcher), 0o755); err != nil {
		return "", err
	}
	return version, nil
}

// launcher makes the unpacked emulator use its own libraries, modules and firmware, whose paths are compiled in as
// those of an installed one. Its folders come after the caller's -L, which thereby wins.
const launcher = `#!/bin/sh
set -eu
root=$(cd "${0%/*}/.." && pwd)
libraries=$root/usr/lib/x86_64-linux-gnu:$root/lib/x86_64-linux-gnu
export LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export QEMU_MODULE_DIR="$root/usr/lib/x86_64-linux-gnu/qemu"
exec "$root/usr/bin/qemu-system-x86_64" "$@" \
	-L "$root/usr/share/qemu" -L "$root/usr/share/seabios" -L "$root/usr/lib/ipxe/qemu"
`

var versionLine = regexp.MustCompile(`^QEMU emulator version ((\d+\.\d+)\.\d+)`)

func identify(ctx context.Context, path string) (Emulator, error) {
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		return Emulator{}, fmt.Errorf("ask %s for its version: %w", path, err)
	}
	m := versionLine.FindSubmatch(out)
	if m == nil {
		return Emulator{}, fmt.Errorf("ask %s for its version: unexpected answer %q", path, out)
	}
	return Emulator{Path: path, Version: string(m[1]), Machine: "pc-q35-" + string(m[2])}, nil
}
