package kmod_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/kmod"
	"github.com/nv-hypervisor/nv-hypervisor/lab/debian"
	"github.com/nv-hypervisor/nv-hypervisor/lab/emulator"
	"github.com/nv-hypervisor/nv-hypervisor/lab/guest/initramfs"
	"github.com/nv-hypervisor/nv-hypervisor/lab/kernel"
	"github.com/nv-hypervisor/nv-hypervisor/qmp"
)

// patience is how long a machine may take for all its checks; they take half a minute on an idle host.
const patience = 4 * time.Minute

// cmdline keeps the console quiet, for an emulated serial port is slow, and makes the detectors of stalls impatient.
const cmdline = "console=ttyS0 quiet panic=-1 nokaslr cryptomgr.notests rcupdate.rcu_cpu_stall_timeout=3 "

// machine is one emulated machine, two CPUs, whose init is modulecheck.
type machine struct {
	t      *testing.T
	cmd    *exec.Cmd
	dir    string
	lines  []string // of the console
	checks int      // that held
}

// run boots a kernel with the module and serves modulecheck until its end. Every FAIL is an error of the test.
func run(t *testing.T, series kernel.Series, parameters string, devices ...func(dir string) []string) *machine {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	k, err := kernel.Fetch(ctx, cacheDir(t), series, nil)
	if err != nil {
		t.Fatal(err)
	}
	qemu, err := emulator.Installed(ctx)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "nvh-kmod-") // short: a socket is in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	m := &machine{t: t, dir: dir}
	args := []string{
		"-machine", qemu.Machine, "-cpu", "max", "-accel", "tcg,thread=multi", "-smp", "2", "-m", "512M",
		"-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio", "-qmp", "unix:" + m.path("qmp") + ",server=on,wait=off",
		"-kernel", k.Image, "-initrd", m.buildInitrd(ctx, k.Release), "-append", cmdline + parameters,
	}
	for _, device := range devices {
		args = append(args, device(dir)...)
	}
	m.cmd = exec.CommandContext(ctx, qemu.Path, args...)
	m.serve(ctx)
	return m
}

func (m *machine) path(name string) string { return filepath.Join(m.dir, name) }

func (m *machine) buildInitrd(ctx context.Context, release string) string {
	m.t.Helper()
	module, err := kmod.Build(ctx, cacheDir(m.t), release)
	if err != nil {
		m.t.Fatal(err)
	}
	compile := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", m.path("init"), "./modulecheck")
	compile.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := compile.CombinedOutput(); err != nil {
		m.t.Fatalf("compile modulecheck: %v\n%s", err, out)
	}
	var packed bytes.Buffer
	zip, err := gzip.NewWriterLevel(&packed, gzip.BestSpeed)
	if err != nil {
		m.t.Fatal(err)
	}
	archive := initramfs.NewWriter(zip)
	for _, dir := range []string{"dev", "proc", "sys"} {
		archive.Dir(dir, 0o755)
	}
	archive.CharDevice("dev/console", 0o600, 5, 1)
	for name, from := range map[string]string{"init": m.path("init"), kmod.Module: module} {
		content, err := os.ReadFile(from)
		if err != nil {
			m.t.Fatal(err)
		}
		archive.File(name, 0o755, content)
	}
	// The writer keeps its first error.
	if err := archive.Close(); err != nil {
		m.t.Fatal(err)
	}
	if err := zip.Close(); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(m.path("initrd"), packed.Bytes(), 0o644); err != nil {
		m.t.Fatal(err)
	}
	return m.path("initrd")
}

// serve reads the console to its end, sends the NMIs that it asks for, and reports what failed.
func (m *machine) serve(ctx context.Context) {
	m.t.Helper()
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	m.cmd.Stderr = os.Stderr
	if err := m.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	monitor, err := dial(ctx, m.path("qmp"))
	if err != nil {
		m.t.Error(err)
		m.cmd.Process.Kill()
	} else {
		defer monitor.Close()
	}
	var nmis sync.WaitGroup
	ended := false
	for lines := bufio.NewScanner(out); lines.Scan(); {
		line := strings.TrimRight(lines.Text(), "\r")
		m.lines = append(m.lines, line)
		_, said, ok := strings.Cut(line, "modulecheck: ")
		if !ok {
			continue
		}
		what, rest, _ := strings.Cut(said, " ")
		switch what {
		case "want-nmi":
			after, err := time.ParseDuration(rest)
			if err != nil {
				m.t.Error(err)
			}
			nmis.Go(func() { m.sendNMI(ctx, monitor, after) })
		case "ok":
			m.checks++
		case "FAIL":
			m.t.Error(rest)
		case "figure":
			m.t.Logf("%s (emulated)", rest)
		case "end":
			ended = true
		}
	}
	nmis.Wait()
	err = m.cmd.Wait()
	if err != nil || !ended {
		m.t.Errorf("the machine did not come to its end: %v", err)
	}
	if m.t.Failed() {
		m.t.Logf("command: %s\nconsole:\n%s", strings.Join(m.cmd.Args, " "), strings.Join(m.lines, "\n"))
	}
}

func (m *machine) sendNMI(ctx context.Context, monitor *qmp.Client, after time.Duration) {
	select {
	case <-time.After(after):
	case <-ctx.Done():
		return
	}
	if err := monitor.Execute(ctx, "inject-nmi", nil, nil); err != nil {
		m.t.Errorf("inject an NMI: %v", err)
	}
}

// dial waits for a QEMU that has just been started.
func dial(ctx context.Context, path string) (*qmp.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		client, err := qmp.Dial(ctx, path)
		if err == nil || ctx.Err() != nil {
			return client, err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func cacheDir(t *testing.T) string {
	t.Helper()
	cache, err := debian.DefaultCache()
	if err != nil {
		t.Fatal(err)
	}
	return cache
}
