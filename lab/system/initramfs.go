package system

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/lab/guest/initramfs"
)

const insidePackage = "github.com/nv-hypervisor/nv-hypervisor/lab/inside"

// WriteInitramfs writes the initramfs. It is not packed, since unpacking costs an emulated machine more than reading.
func (s System) WriteInitramfs(ctx context.Context, path string) error {
	work, err := os.MkdirTemp(filepath.Dir(path), "unfinished-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	inside := filepath.Join(work, "inside")
	if err := compile(ctx, inside); err != nil {
		return err
	}
	var content bytes.Buffer
	if err := s.fill(initramfs.NewWriter(&content), inside); err != nil {
		return err
	}
	unfinished := filepath.Join(work, "initramfs")
	if err := os.WriteFile(unfinished, content.Bytes(), 0o644); err != nil {
		return err
	}
	return os.Rename(unfinished, path)
}

// compile builds the first process. It needs the module's sources around it.
func compile(ctx context.Context, out string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, insidePackage)
	cmd.WaitDelay = 5 * time.Second
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOFLAGS=-buildvcs=false")
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("compile the host's first process: %w: run inside the module's source tree: %s", err, bytes.TrimSpace(text))
	}
	return nil
}

func (s System) fill(w *initramfs.Writer, inside string) error {
	for _, dir := range []string{"dev", "proc", "sys", "system", "modules"} {
		if err := w.Dir(dir, 0o755); err != nil {
			return err
		}
	}
	// The kernel opens it for init before devtmpfs is mounted.
	if err := w.CharDevice("dev/console", 0o600, 5, 1); err != nil {
		return err
	}
	if err := addFile(w, "init", 0o755, inside); err != nil {
		return err
	}
	if err := w.File("modules/order", 0o644, []byte(strings.Join(s.Kernel.Order, "\n"))); err != nil {
		return err
	}
	for _, m := range s.Kernel.Order {
		if err := addFile(w, "modules/"+m, 0o644, filepath.Join(s.Kernel.Modules, m)); err != nil {
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
