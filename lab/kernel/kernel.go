// Package kernel fetches Debian's Linux kernels, as they are, and finds out in which order their modules load.
//
// A kernel and the modules asked for are kept in the cache by their version; the rest of the package, a few
// hundred MB, is not. As with every tree of lab/debian, one is there whole or not at all.
package kernel

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/nv-hypervisor/nv-hypervisor/lab/debian"
)

// Series is a line of kernels that Debian 12 offers.
type Series string

// The two that matter: what Debian 12 installs, and the long-term kernel that its backports offer.
const (
	V6_1  Series = "6.1"
	V6_12 Series = "6.12"
)

// releases says where each series comes from.
var releases = map[Series]string{V6_1: debian.Bookworm, V6_12: debian.Backports}

// Kernel is a bootable kernel. Paths are absolute.
type Kernel struct {
	Series  Series
	Release string   // as uname -r prints it, "6.1.0-50-amd64"
	Package string   // name and version of Debian's package
	Image   string   // the file to boot
	Modules string   // folder of the modules, each by its name without a suffix
	Order   []string // the modules in the order they load
}

// Fetch returns the generic amd64 kernel of a series with modules and all they depend on, downloading what is
// missing in the cache: about 70 MB for 6.1 and 110 MB for 6.12.
func Fetch(ctx context.Context, cache string, series Series, modules []string) (Kernel, error) {
	release, ok := releases[series]
	if !ok {
		return Kernel{}, fmt.Errorf("kernel %q is unknown: know %s, %s", series, V6_1, V6_12)
	}
	// A tree with other modules is another tree.
	hash := sha256.Sum256([]byte(strings.Join(modules, " ")))
	name := fmt.Sprintf("kernel-%s-%s", series, hex.EncodeToString(hash[:4]))
	dir, err := debian.Tree(ctx, cache, name, func(ctx context.Context, apt *debian.Apt, dir string) (string, error) {
		return fill(ctx, apt, dir, release, modules)
	})
	if err != nil {
		return Kernel{}, fmt.Errorf("kernel %s: %w", series, err)
	}
	return open(dir, series)
}

const orderFile = "order"

func open(dir string, series Series) (Kernel, error) {
	order, err := os.ReadFile(filepath.Join(dir, orderFile))
	if err != nil {
		return Kernel{}, fmt.Errorf("kernel %s: %w: remove %s to fetch it again", series, err, dir)
	}
	pkg := filepath.Base(dir)
	name, _, _ := strings.Cut(pkg, "_")
	return Kernel{
		Series: series, Release: strings.TrimPrefix(name, "linux-image-"), Package: pkg,
		Image: filepath.Join(dir, "vmlinuz"), Modules: filepath.Join(dir, "modules"), Order: strings.Fields(string(order)),
	}, nil
}

func fill(ctx context.Context, apt *debian.Apt, dir, release string, wanted []string) (string, error) {
	pkg, err := apt.OnlyDependency(ctx, "linux-image-amd64", release)
	if err != nil {
		return "", err
	}
	version, err := apt.Version(ctx, pkg, release)
	if err != nil {
		return "", err
	}
	full := filepath.Join(dir, "unpacked")
	if err := os.Mkdir(full, 0o755); err != nil {
		return "", err
	}
	if err := apt.Unpack(ctx, full, release, pkg); err != nil {
		return "", err
	}
	if err := keep(full, dir, wanted); err != nil {
		return "", err
	}
	return pkg + "_" + version, os.RemoveAll(full)
}

// keep moves the kernel and the wanted modules out of the unpacked package.
func keep(full, dir string, wanted []string) error {
	images, err := filepath.Glob(filepath.Join(full, "boot/vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return fmt.Errorf("the package has %d kernels: want one", len(images))
	}
	if err := os.Rename(images[0], filepath.Join(dir, "vmlinuz")); err != nil {
		return err
	}
	found, err := FindModules(filepath.Join(full, "lib/modules"))
	if err != nil {
		return err
	}
	var order []string
	for _, w := range wanted {
		if order, err = found.Order(order, w); err != nil {
			return err
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "modules"), 0o755); err != nil {
		return err
	}
	for _, name := range order {
		content, err := found.Read(name)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "modules", name), content, 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, orderFile), []byte(strings.Join(order, "\n")+"\n"), 0o644)
}
