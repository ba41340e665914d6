package qemu_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nv-hypervisor/nv-hypervisor/qemu"
	"github.com/nv-hypervisor/nv-hypervisor/qemu/qemutest"
)

// TestProbe fails when a QEMU that is new enough lacks a feature as much as when
// one that is too old has it: either way the probe is wrong.
func TestProbe(t *testing.T) {
	tests := []struct {
		binary  *qemu.Binary
		version string
		machine string
		newer   bool
	}{
		{qemutest.Installed(t), "7.2.", "pc-q35-7.2", false},
		{qemutest.Backports(t), "10.0.", "pc-q35-10.0", true},
	}
	for _, test := range tests {
		t.Run(test.version, func(t *testing.T) {
			b := test.binary
			if !strings.HasPrefix(b.Version, test.version) || !strings.Contains(b.Version, "(Debian ") {
				t.Errorf("version %q", b.Version)
			}
			if l := pin(t, b, small); !strings.HasPrefix(l.Machine, test.machine+",") || l.CPU != "max" {
				t.Errorf("machine %q, CPU %q", l.Machine, l.CPU)
			}
			if err := b.Has(qemu.FeatureIgnoreShared); err != nil {
				t.Error(err)
			}
			for _, f := range []qemu.Feature{qemu.FeatureOffset, qemu.FeatureFileURI, qemu.FeatureMappedRAM, qemu.FeatureRunWithUser} {
				err := b.Has(f)
				if test.newer && err != nil {
					t.Errorf("%v: %v", f, err)
				}
				if !test.newer && (!errors.Is(err, qemu.ErrNotSupported) || !strings.Contains(err.Error(), "install QEMU "+f.Since())) {
					t.Errorf("%v: %v, want ErrNotSupported and the version that has it", f, err)
				}
			}
		})
	}
}

func TestProbeIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "qemu")
	install := func(b *qemu.Binary) {
		must(t, os.WriteFile(path, []byte("#!/bin/sh\nexec "+b.Path+" \"$@\"\n"), 0o755))
	}
	install(qemutest.Installed(t))
	first, err := qemu.Probe(testContext(t), path)
	must(t, err)
	second, err := qemu.Probe(testContext(t), path)
	must(t, err)
	if first != second {
		t.Error("the same binary was probed twice")
	}
	install(qemutest.Backports(t))
	third, err := qemu.Probe(testContext(t), path)
	must(t, err)
	if third.Version == first.Version {
		t.Error("an upgraded binary was not probed again")
	}
}

func TestProbeRefuses(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "broken")
	must(t, os.WriteFile(script, []byte("#!/bin/sh\necho libfoo.so.1 is missing >&2; exit 127\n"), 0o755))
	plain := filepath.Join(dir, "plain")
	must(t, os.WriteFile(plain, nil, 0o644))
	tests := []struct{ path, reason string }{
		{filepath.Join(dir, "none"), "install qemu-system-x86"},
		{"qemu-nonesuch", "install qemu-system-x86"},
		{plain, "cannot be run"},
		{script, "libfoo.so.1 is missing"},
	}
	for _, test := range tests {
		_, err := qemu.Probe(testContext(t), test.path)
		wantError(t, err, test.reason)
	}
}
