package guest

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/lab/guest/initramfs"
)

const workloadPackage = "github.com/nv-hypervisor/nv-hypervisor/lab/guest/workload"

// buildInitrd writes the initramfs to path: under another name first, so that path never holds half of one.
func buildInitrd(ctx context.Context, system, path string) error {
	work, err := os.MkdirTemp(filepath.Dir(path), "unfinished-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	workload := filepath.Join(work, "workload")
	if err := compile(ctx, workload); err != nil {
		return err
	}
	var packed bytes.Buffer
	zip := gzip.NewWriter(&packed)
	if err := fillInitrd(initramfs.NewWriter(zip), system, workload); err != nil {
		return err
	}
	if err := zip.Close(); err != nil {
		return err
	}
	unfinished := filepath.Join(work, "initrd")
	if err := os.WriteFile(unfinished, packed.Bytes(), 0o644); err != nil {
		return err
	}
	return os.Rename(unfinished, path)
}

// compile builds the workload as a static program. It needs the module's sources around it, as tests and the demo have.
func compile(ctx context.Context, out string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, workloadPackage)
	cmd.WaitDelay = 5 * time.Second
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOFLAGS=-buildvcs=false")
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("compile the guest workload: %w: run inside the module's source tree: %s", err, bytes.TrimSpace(text))
	}
	return nil
}

func fillInitrd(w *initramfs.Writer, system, workload string) error {
	for _, dir := range []string{"dev", "proc", "sys", "bin", "modules"} {
		if err := w.Dir(dir, 0o755); err != nil {
			return err
		}
	}
	// The kernel opens it for init before devtmpfs is mounted.
	if err := w.CharDevice("dev/console", 0o600, 5, 1); err != nil {
		return err
	}
	if err := addFile(w, "init", 0o755, workload); err != nil {
		return err
	}
	if err := addFile(w, "bin/busybox", 0o755, filepath.Join(system, "busybox")); err != nil {
		return err
	}
	modules, err := os.ReadDir(filepath.Join(system, "modules"))
	if err != nil {
		return err
	}
	for _, m := range modules {
		if err := addFile(w, "modules/"+m.Name(), 0o644, filepath.Join(system, "modules", m.Name())); err != nil {
			return err
		}
	}
	return w.Close()
}

func addFile(w *initramfs.Writer, name string, perm uint32, from string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return w.File(name, perm, content)
}
