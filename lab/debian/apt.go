// Package debian fetches Debian packages and unpacks them in a cache folder, installing nothing.
//
// It uses the machine's own apt: its mirror, proxy and keys, but a package index of its own in the
// cache, so that neither the system's sources nor its lists change, releases that the system does not list
// (backports) can be read, and no root is needed. Signatures are checked as apt always does.
// Several processes may use one cache at once.
package debian

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// The releases that packages are taken from.
const (
	Bookworm  = "bookworm"
	Backports = "bookworm-backports"
)

// Apt is a private view of the package archive, held by one process at a time.
type Apt struct {
	dir    string
	unlock func()
}

// aptConfig keeps apt inside a folder (%[1]s). The hooks and extra indexes that a system may have configured
// would act on the system, so they are cleared. Locks are ours: those of the system do not matter here.
const aptConfig = `#clear APT::Update;
#clear DPkg::Post-Invoke;
#clear DPkg::Pre-Install-Pkgs;
#clear Acquire::IndexTargets::deb;
Acquire::IndexTargets::deb::Packages {
  MetaKey "$(COMPONENT)/binary-$(ARCHITECTURE)/Packages";
  flatMetaKey "Packages";
  ShortDescription "Packages";
  Description "$(RELEASE)/$(COMPONENT) $(ARCHITECTURE) Packages";
  Optional "0";
};
Acquire::Languages "none";
Acquire::Retries "3";
Dir::Etc::sourcelist "%[1]s/archive.sources";
Dir::Etc::sourceparts "-";
Dir::Etc::preferences "-";
Dir::Etc::preferencesparts "-";
Dir::State::lists "%[1]s/lists";
Dir::Cache "%[1]s/cache";
APT::Sandbox::User "";
Debug::NoLocking "1";
`

// OpenApt waits for the cache's apt state, brings its index up to date and returns it. Close gives it back.
func OpenApt(ctx context.Context, cache string) (*Apt, error) {
	dir := filepath.Join(cache, "apt")
	unlock, err := Lock(ctx, filepath.Join(dir, "lock"))
	if err != nil {
		return nil, err
	}
	a := &Apt{dir: dir, unlock: unlock}
	if err := a.setUp(ctx); err != nil {
		a.Close()
		return nil, err
	}
	return a, nil
}

// Close lets the next process in.
func (a *Apt) Close() { a.unlock() }

func (a *Apt) setUp(ctx context.Context) error {
	src, err := findSource(ctx, Bookworm)
	if err != nil {
		return err
	}
	for _, d := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(a.dir, d), 0o755); err != nil {
			return fmt.Errorf("apt state: %w", err)
		}
	}
	stanza := fmt.Sprintf("Types: deb\nURIs: %s\nSuites: %s %s\nComponents: main\nArchitectures: amd64\n", src.uri, Bookworm, Backports)
	if src.signedBy != "" {
		stanza += "Signed-By: " + src.signedBy + "\n"
	}
	if err := os.WriteFile(filepath.Join(a.dir, "archive.sources"), []byte(stanza), 0o644); err != nil {
		return fmt.Errorf("apt state: %w", err)
	}
	if err := os.WriteFile(a.config(), fmt.Appendf(nil, aptConfig, a.dir), 0o644); err != nil {
		return fmt.Errorf("apt state: %w", err)
	}
	if _, err := a.run(ctx, a.dir, "apt-get", "update", "--error-on=any"); err != nil {
		return fmt.Errorf("read the package index: %w: check the network and apt's proxy", err)
	}
	return nil
}

func (a *Apt) config() string { return filepath.Join(a.dir, "apt.conf") }

// Version returns the version of a package in a release, without its epoch.
func (a *Apt) Version(ctx context.Context, pkg, release string) (string, error) {
	out, err := a.run(ctx, a.dir, "apt-cache", "show", "--no-all-versions", pkg+"/"+release)
	if err != nil {
		return "", err
	}
	v, ok := field(out, "Version")
	if !ok {
		return "", fmt.Errorf("package %s is not in %s", pkg, release)
	}
	if _, bare, hasEpoch := strings.Cut(v, ":"); hasEpoch {
		v = bare
	}
	return v, nil
}

// OnlyDependency resolves a metapackage: it returns the one package that pkg depends on.
func (a *Apt) OnlyDependency(ctx context.Context, pkg, release string) (string, error) {
	depends, err := a.Depends(ctx, pkg, release)
	if err != nil {
		return "", err
	}
	if len(depends) != 1 {
		return "", fmt.Errorf("package %s depends on %q: want one package", pkg, depends)
	}
	return depends[0], nil
}

// Depends returns the names of the packages that pkg depends on, of alternatives the first.
func (a *Apt) Depends(ctx context.Context, pkg, release string) ([]string, error) {
	out, err := a.run(ctx, a.dir, "apt-cache", "show", "--no-all-versions", pkg+"/"+release)
	if err != nil {
		return nil, err
	}
	depends, _ := field(out, "Depends")
	var names []string
	for _, relation := range strings.Split(depends, ",") {
		if words := strings.Fields(relation); len(words) > 0 {
			names = append(names, words[0])
		}
	}
	return names, nil
}

func field(stanza, name string) (string, bool) {
	for line := range strings.Lines(stanza) {
		if v, ok := strings.CutPrefix(line, name+": "); ok {
			return strings.TrimSpace(v), true
		}
	}
	return "", false
}

// Unpack downloads packages of a release and unpacks them into dir.
func (a *Apt) Unpack(ctx context.Context, dir, release string, pkgs ...string) error {
	args := []string{"download"}
	for _, p := range pkgs {
		args = append(args, p+"/"+release)
	}
	return a.unpack(ctx, dir, args...)
}

// UnpackWithDependencies unpacks pkgs, and of what they depend on that which the machine lacks.
func (a *Apt) UnpackWithDependencies(ctx context.Context, dir, release string, pkgs ...string) error {
	args := []string{"install", "--reinstall", "--yes", "--no-install-recommends", "--download-only", "--target-release", release}
	return a.unpack(ctx, dir, append(args, pkgs...)...)
}

func (a *Apt) unpack(ctx context.Context, dir string, aptGet ...string) error {
	debs, err := os.MkdirTemp(a.dir, "debs-*")
	if err != nil {
		return fmt.Errorf("apt state: %w", err)
	}
	defer os.RemoveAll(debs)
	if err := os.Mkdir(filepath.Join(debs, "partial"), 0o755); err != nil {
		return fmt.Errorf("apt state: %w", err)
	}
	if _, err := a.run(ctx, debs, "apt-get", append([]string{"-o", "Dir::Cache::archives=" + debs}, aptGet...)...); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil {
		return err
	}
	for _, f := range files {
		if _, err := a.run(ctx, debs, "dpkg", "--extract", f, dir); err != nil {
			return err
		}
	}
	return nil
}

// run starts a program with our configuration and returns what it printed.
func (a *Apt) run(ctx context.Context, dir, name string, args ...string) (string, error) {
	if name != "dpkg" {
		args = append([]string{"-c=" + a.config()}, args...)
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = 5 * time.Second
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(append([]string{name}, args...), " "), err, lastLines(stderr.String(), 3))
	}
	return stdout.String(), nil
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "; ")
}
