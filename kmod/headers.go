package kmod

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/nv-hypervisor/nv-hypervisor/lab/debian"
)

// headers is the build folder of a kernel in the tree that fetchHeaders made.
func headers(tree, kernel string) string {
	return filepath.Join(tree, "usr/src/linux-headers-"+kernel)
}

// fetchHeaders fills the cached tree with what a module of the kernel is built with, and returns its version.
func fetchHeaders(ctx context.Context, apt *debian.Apt, dir, kernel string) (string, error) {
	pkg := "linux-headers-" + kernel
	release, version, err := find(ctx, apt, pkg)
	if err != nil {
		return "", err
	}
	needs, err := apt.Depends(ctx, pkg, release)
	if err != nil {
		return "", err
	}
	packages := []string{pkg}
	for _, name := range needs {
		if strings.HasPrefix(name, "linux-headers-") || strings.HasPrefix(name, "linux-kbuild-") {
			packages = append(packages, name)
		}
	}
	if len(packages) != 3 {
		return "", fmt.Errorf("package %s depends on %v: want one linux-headers and one linux-kbuild", pkg, needs)
	}
	if err := apt.Unpack(ctx, dir, release, packages...); err != nil {
		return "", err
	}
	return version, makeRelocatable(filepath.Join(headers(dir, kernel), "Makefile"))
}

// find returns the release that has a package, and its version there.
func find(ctx context.Context, apt *debian.Apt, pkg string) (release, version string, err error) {
	var missing []error
	for _, release := range []string{debian.Bookworm, debian.Backports} {
		version, err := apt.Version(ctx, pkg, release)
		if err == nil {
			return release, version, nil
		}
		missing = append(missing, err)
	}
	return "", "", fmt.Errorf("no release has the package %s: %w: the archive keeps recent kernels only", pkg, errors.Join(missing...))
}

// makeRelocatable changes the one absolute path of the headers, where their Makefile includes that of the common
// ones, to a relative path.
func makeRelocatable(makefile string) error {
	content, err := os.ReadFile(makefile)
	if err != nil {
		return err
	}
	common, ok := strings.CutPrefix(strings.TrimSpace(string(content)), "include /usr/src/")
	if !ok || strings.ContainsAny(common, " \n") {
		return fmt.Errorf("%s is %q: want one include of /usr/src", makefile, content)
	}
	return os.WriteFile(makefile, []byte("include $(dir $(lastword $(MAKEFILE_LIST)))../"+common+"\n"), 0o644)
}
