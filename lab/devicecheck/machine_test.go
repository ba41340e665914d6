package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/lab/debian"
	"github.com/nv-hypervisor/nv-hypervisor/lab/emulator"
	"github.com/nv-hypervisor/nv-hypervisor/lab/guest/initramfs"
	"github.com/nv-hypervisor/nv-hypervisor/lab/kernel"
	"github.com/nv-hypervisor/nv-hypervisor/lab/sham"
)

// patience of the host: all checks take half a minute on an idle one.
const machineTime = 4 * time.Minute

// All checks, on both of Debian's kernels.
func TestDetectorsOfDevices(t *testing.T) {
	for _, c := range []struct {
		series kernel.Series
		word   string
		last   []check
	}{
		{kernel.V6_1, "", unplugChecks},
		{kernel.V6_12, replugged, replugChecks},
	} {
		t.Run(string(c.series), func(t *testing.T) {
			want := len(supplyChecks) + len(gpioChecks) + len(c.last)
			if held := boot(t, c.series, c.word); held != want {
				t.Errorf("%d checks held: want %d", held, want)
			}
		})
	}
}

// boot runs one machine to its end, with a word on its command line, and returns how many checks held. Every FAIL is an error of the test.
func boot(t *testing.T, series kernel.Series, word string) (held int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), machineTime)
	defer cancel()
	cache, err := debian.DefaultCache()
	if err != nil {
		t.Fatal(err)
	}
	k, err := kernel.Fetch(ctx, cache, series, nil)
	if err != nil {
		t.Fatal(err)
	}
	qemu, err := emulator.Installed(ctx)
	if err != nil {
		t.Fatal(err)
	}
	machine := exec.CommandContext(ctx, qemu.Path,
		"-machine", qemu.Machine, "-cpu", "max", "-accel", "tcg,thread=multi", "-smp", "2", "-m", "512M",
		"-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio",
		"-kernel", k.Image, "-initrd", buildInitrd(t, ctx, cache, k.Release),
		"-append", "console=ttyS0 quiet panic=-1 nokaslr cryptomgr.notests pci=lastbus=0 panic_on_oops=1 "+word)
	machine.Stderr = os.Stderr
	console, err := machine.Output()
	if err != nil {
		t.Error(err)
	}
	ended := false
	for line := range strings.Lines(string(console)) {
		_, said, ok := strings.Cut(strings.TrimSpace(line), "devicecheck: ")
		if !ok {
			continue
		}
		switch what, rest, _ := strings.Cut(said, " "); what {
		case "ok":
			held++
		case "FAIL":
			t.Error(rest)
		case "figure":
			t.Log(rest)
		case "end":
			ended = true
		}
	}
	if !ended {
		t.Error("the machine did not come to its end")
	}
	if t.Failed() {
		t.Logf("command: %s\nconsole:\n%s", strings.Join(machine.Args, " "), console)
	}
	return held
}

func buildInitrd(t *testing.T, ctx context.Context, cache, release string) string {
	t.Helper()
	driver, err := sham.Build(ctx, cache, release)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	init := filepath.Join(dir, "init")
	compile := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", init, ".")
	compile.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := compile.CombinedOutput(); err != nil {
		t.Fatalf("compile devicecheck: %v\n%s", err, out)
	}
	var packed bytes.Buffer
	zip := gzip.NewWriter(&packed)
	archive := initramfs.NewWriter(zip)
	for _, dir := range []string{"dev", "proc", "sys"} {
		archive.Dir(dir, 0o755)
	}
	archive.CharDevice("dev/console", 0o600, 5, 1)
	for name, from := range map[string]string{"init": init, module[1:]: driver} {
		content, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		archive.File(name, 0o755, content)
	}
	// The writer keeps its first error.
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zip.Close(); err != nil {
		t.Fatal(err)
	}
	initrd := filepath.Join(dir, "initrd")
	if err := os.WriteFile(initrd, packed.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return initrd
}
