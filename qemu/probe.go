package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/qmp"
)

// DefaultBinary is the QEMU that is used when nobody names one.
const DefaultBinary = "qemu-system-x86_64"

// Binary is a QEMU on this host and what it told about itself.
type Binary struct {
	Path     string    // absolute
	Version  string    // "7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)"
	Machines []Machine // in QEMU's order
	CPUs     []string  // CPU models it knows

	features [featureCount]bool
}

// Machine is one machine type of a Binary.
type Machine struct {
	Name    string `json:"name"`            // "pc-q35-7.2"
	Alias   string `json:"alias,omitempty"` // "q35"
	Default bool   `json:"is-default,omitempty"`
	MaxCPUs int    `json:"cpu-max"`
}

// identity tells two states of a binary apart: an upgrade changes it.
type identity struct {
	path  string
	inode uint64
	mtime unix.Timespec
	size  int64
}

var probed struct {
	sync.Mutex // guards binaries; held while probing, so that one binary is probed once
	binaries   map[identity]*Binary
}

// Probe asks the QEMU at path (a name is looked up in $PATH; empty means
// DefaultBinary) for its version, machine types, CPU models and features. It
// starts that QEMU without a machine for a fraction of a second; the answer is
// kept for as long as the file does not change.
func Probe(ctx context.Context, path string) (*Binary, error) {
	path, err := locate(path)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nil, fmt.Errorf("examine QEMU %s: %w", path, err)
	}
	id := identity{path, st.Ino, st.Mtim, st.Size}

	probed.Lock()
	defer probed.Unlock()
	if b := probed.binaries[id]; b != nil {
		return b, nil
	}
	b, err := probe(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("probe QEMU %s: %w", path, err)
	}
	if probed.binaries == nil {
		probed.binaries = make(map[identity]*Binary)
	}
	probed.binaries[id] = b
	return b, nil
}

func locate(path string) (string, error) {
	if path == "" {
		path = DefaultBinary
	}
	found, err := exec.LookPath(path)
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("no QEMU at %q: install qemu-system-x86, or name another binary: %w", path, err)
	}
	if err != nil {
		return "", fmt.Errorf("QEMU %q cannot be run: %w", path, err)
	}
	return filepath.Abs(found)
}

// probeTimeout bounds one probe, which takes 0.2 s on an idle machine.
const probeTimeout = 30 * time.Second

func probe(ctx context.Context, path string) (*Binary, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	parent := os.TempDir()
	if len(parent) > socketPathMax/2 {
		parent = "/tmp" // a socket's path is short
	}
	dir, err := os.MkdirTemp(parent, "nvh-probe-")
	if err != nil {
		return nil, fmt.Errorf("make a folder for the probe's socket: %w", err)
	}
	defer os.RemoveAll(dir)

	rt := Runtime{Dir: dir, Log: filepath.Join(dir, "qemu.log"), leashed: true}
	argv := []string{path, "-machine", "none", "-nodefaults", "-no-user-config", "-display", "none"}
	argv = append(argv, monitorArgs("qmp", rt.qmpPath())...)
	p, err := spawn(ctx, argv, rt, nil)
	if err != nil {
		return nil, err
	}
	defer p.Kill()
	return interrogate(ctx, path, p.QMP())
}

func interrogate(ctx context.Context, path string, c *qmp.Client) (*Binary, error) {
	b := &Binary{Path: path, Version: versionOf(c.Greeting())}
	if err := c.Execute(ctx, "query-machines", nil, &b.Machines); err != nil {
		return nil, err
	}
	var models []struct {
		Name string `json:"name"`
	}
	if err := c.Execute(ctx, "query-cpu-definitions", nil, &models); err != nil {
		return nil, err
	}
	for _, m := range models {
		b.CPUs = append(b.CPUs, m.Name)
	}
	if err := b.probeFeatures(ctx, c); err != nil {
		return nil, err
	}
	if err := b.Has(FeatureIgnoreShared); err != nil {
		return nil, err
	}
	return b, nil
}

// versionOf writes a greeting's version as "7.2.22 (Debian 1:7.2+dfsg-7)".
func versionOf(g qmp.Greeting) string {
	v := fmt.Sprintf("%d.%d.%d", g.Version.Major, g.Version.Minor, g.Version.Micro)
	if g.Version.Package != "" {
		v += " (" + g.Version.Package + ")"
	}
	return v
}

func (b *Binary) probeFeatures(ctx context.Context, c *qmp.Client) error {
	var s schema
	if err := s.query(ctx, c); err != nil {
		return err
	}
	capabilities := s.enumOf("migrate-set-capabilities", "capabilities", "capability")
	b.features[FeatureIgnoreShared] = capabilities["x-ignore-shared"]
	b.features[FeatureMappedRAM] = capabilities["mapped-ram"]
	b.features[FeatureFileURI] = s.enumOf("migrate", "channels", "addr", "transport")["file"]

	var properties []struct {
		Name string `json:"name"`
	}
	err := c.Execute(ctx, "qom-list-properties", map[string]string{"typename": "memory-backend-file"}, &properties)
	if err != nil {
		return err
	}
	for _, p := range properties {
		if p.Name == "offset" {
			b.features[FeatureOffset] = true
		}
	}
	b.features[FeatureRunWithUser], err = hasOption(ctx, c, "run-with", "user")
	return err
}

// hasOption tells whether a command line option exists and takes a parameter.
func hasOption(ctx context.Context, c *qmp.Client, option, parameter string) (bool, error) {
	var options []struct {
		Option     string `json:"option"`
		Parameters []struct {
			Name string `json:"name"`
		} `json:"parameters"`
	}
	if err := c.Execute(ctx, "query-command-line-options", nil, &options); err != nil {
		return false, err
	}
	for _, o := range options {
		if o.Option != option {
			continue
		}
		for _, p := range o.Parameters {
			if p.Name == parameter {
				return true, nil
			}
		}
	}
	return false, nil
}

// machine finds a machine type by name or alias.
func (b *Binary) machine(name string) (Machine, error) {
	var known []string
	for _, m := range b.Machines {
		if m.Name == name || m.Alias == name {
			return m, nil
		}
		if m.Alias != "" {
			known = append(known, m.Alias+" ("+m.Name+")")
		}
	}
	return Machine{}, fmt.Errorf("machine type %q is unknown to QEMU %s: use one of %s, or see %s -machine help",
		name, b.Version, strings.Join(known, ", "), b.Path)
}
