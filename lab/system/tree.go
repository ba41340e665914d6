package system

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nv-hypervisor/nv-hypervisor/lab/guest"
	"github.com/nv-hypervisor/nv-hypervisor/lab/plan"
)

// tree is a root file system to be: what lies where, and from which file of this machine it is copied.
type tree struct {
	files    map[string]string // copied from
	texts    map[string]string // content
	links    map[string]string // target
	folders  []string
	contents int64 // bytes
}

func newTree() *tree {
	return &tree{files: map[string]string{}, texts: map[string]string{}, links: map[string]string{}}
}

const libraries = "/usr/lib/x86_64-linux-gnu"

// base is the skeleton, with busybox for all small commands.
func (t *tree) base(tools string) error {
	t.folders = []string{
		"/dev", "/proc", "/sys", "/run", "/tmp", "/var", "/root", "/etc", "/usr/sbin", "/usr/bin", libraries,
		plan.NVRAM, plan.Product, plan.Guest,
	}
	maps.Copy(t.links, map[string]string{
		"/bin": "usr/bin", "/sbin": "usr/sbin", "/lib": "usr/lib", "/lib64": "usr/lib/x86_64-linux-gnu",
		"/etc/nvh": "../var/etc/nvh", "/etc/mtab": "../proc/mounts",
		"/usr/bin/nvh": plan.Product + "/nvh", "/usr/bin/nvhd": plan.Product + "/nvhd",
	})
	t.texts["/etc/passwd"] = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
	t.texts["/etc/group"] = "root:x:0:\nkvm:x:106:\nnogroup:x:65534:\n"
	busybox := filepath.Join(tools, "bin/busybox")
	out, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		return fmt.Errorf("list the commands of busybox: %w", err)
	}
	for applet := range strings.FieldsSeq(string(out)) {
		t.links["/usr/bin/"+applet] = "busybox"
	}
	return t.file("/usr/bin/busybox", busybox)
}

// programs are ndctl and what makes file systems.
func (t *tree) programs(ctx context.Context, tools string) error {
	if err := t.program(ctx, "/usr/bin/ndctl", filepath.Join(tools, "usr/bin/ndctl"), tools); err != nil {
		return err
	}
	mkfs, err := exec.LookPath("mke2fs")
	if err != nil {
		mkfs = "/usr/sbin/mke2fs"
	}
	if err := t.program(ctx, "/usr/sbin/mke2fs", mkfs, ""); err != nil {
		return err
	}
	t.links["/usr/sbin/mkfs.ext4"] = "mke2fs"
	delete(t.links, "/usr/bin/mke2fs") // busybox has one for ext2
	return t.file("/etc/mke2fs.conf", "/etc/mke2fs.conf")
}

// firmware of the machines that VMs have: x86 with virtio devices and a serial console.
var firmware = []string{
	"kvmvapic.bin", "linuxboot.bin", "linuxboot_dma.bin", "pvh.bin", "multiboot.bin", "multiboot_dma.bin",
	"bios.bin", "bios-256k.bin", "vgabios-stdvga.bin", "efi-virtio.rom", "efi-e1000e.rom",
}

func (t *tree) firmware(at, root string) error {
	for _, name := range firmware {
		found := false
		for _, dir := range []string{"usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"} {
			from := filepath.Join(root, dir, name)
			info, err := os.Lstat(from)
			if err != nil || !info.Mode().IsRegular() {
				continue
			}
			if err := t.file(filepath.Join(at, dir, name), from); err != nil {
				return err
			}
			found = true
		}
		if !found {
			return fmt.Errorf("QEMU's firmware %s is not below %s: run make deps", name, root)
		}
	}
	return nil
}

// qemu7 is the installed QEMU at its own place.
func (t *tree) qemu7(ctx context.Context, program string) error {
	if err := t.program(ctx, plan.QEMU7, program, ""); err != nil {
		return err
	}
	for _, name := range []string{"accel-tcg-x86_64.so"} {
		if err := t.program(ctx, filepath.Join(libraries, "qemu", name), filepath.Join(libraries, "qemu", name), ""); err != nil {
			return err
		}
	}
	return t.firmware("/", "/")
}

// qemu10 is the unpacked QEMU from backports, with the launcher that finds its parts.
func (t *tree) qemu10(ctx context.Context, root string) error {
	at := filepath.Dir(filepath.Dir(plan.QEMU10))
	if err := t.file(plan.QEMU10, filepath.Join(root, "bin", filepath.Base(plan.QEMU10))); err != nil {
		return err
	}
	if err := t.program(ctx, filepath.Join(at, "usr/bin/qemu-system-x86_64"), filepath.Join(root, "usr/bin/qemu-system-x86_64"), root); err != nil {
		return err
	}
	return t.firmware(at, root)
}

func (t *tree) guest(image guest.Image) error {
	if err := t.file(plan.Guest+"/vmlinuz", image.Kernel); err != nil {
		return err
	}
	t.texts[plan.Guest+"/cmdline"] = image.Cmdline + "\n"
	t.texts[plan.Guest+"/guest.toml"] = definition(image)
	return t.file(plan.Guest+"/initrd", image.Initrd)
}

// definition is a small VM for nvh create -f.
func definition(image guest.Image) string {
	return fmt.Sprintf("memory = \"192M\"\nkernel = %q\ninitrd = %q\ncmdline = %q\n", plan.Guest+"/vmlinuz", plan.Guest+"/initrd", image.Cmdline)
}

// program adds a program and the libraries it needs. Those that came with it lie below root, if it is given.
func (t *tree) program(ctx context.Context, at, from, root string) error {
	if err := t.file(at, from); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "ldd", from)
	if root != "" {
		cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+filepath.Join(root, libraries)+":"+filepath.Join(root, "lib/x86_64-linux-gnu"))
	}
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("find the libraries of %s: %w", from, err)
	}
	for line := range strings.Lines(string(out)) {
		name, path := parseLdd(line)
		if path == "not found" {
			return fmt.Errorf("%s needs %s, which this machine lacks: run make deps", from, name)
		}
		if path == "" {
			continue
		}
		if err := t.file(filepath.Join(libraries, filepath.Base(path)), path); err != nil {
			return err
		}
	}
	return nil
}

// parseLdd reads "name => path (address)" or "path (address)". The kernel's own linux-vdso has no path.
func parseLdd(line string) (name, path string) {
	line = strings.TrimSpace(line)
	if i := strings.LastIndex(line, " (0x"); i >= 0 {
		line = line[:i]
	}
	if name, path, ok := strings.Cut(line, " => "); ok {
		return name, path
	}
	if filepath.IsAbs(line) {
		return filepath.Base(line), line
	}
	return line, ""
}

func (t *tree) file(at, from string) error {
	real, err := filepath.EvalSymlinks(from)
	if err != nil {
		return fmt.Errorf("host system: %w: run make deps", err)
	}
	delete(t.links, at)
	t.files[at] = real
	return nil
}

// key names the tree by what it is made of.
func (t *tree) key() (string, error) {
	h := sha256.New()
	for _, at := range slices.Sorted(maps.Keys(t.files)) {
		info, err := os.Stat(t.files[at])
		if err != nil {
			return "", err
		}
		fmt.Fprintln(h, at, t.files[at], info.Size(), info.ModTime().UnixNano())
		t.contents += info.Size()
	}
	for _, m := range []map[string]string{t.texts, t.links} {
		for _, at := range slices.Sorted(maps.Keys(m)) {
			fmt.Fprintln(h, at, m[at])
		}
	}
	fmt.Fprintln(h, t.folders)
	return hex.EncodeToString(h.Sum(nil))[:16], nil
}

func (t *tree) copyTo(root string) error {
	for _, dir := range t.folders {
		if err := os.MkdirAll(root+dir, 0o755); err != nil {
			return err
		}
	}
	for _, at := range slices.Sorted(maps.Keys(t.links)) {
		if err := os.MkdirAll(filepath.Dir(root+at), 0o755); err != nil {
			return err
		}
		if err := os.Symlink(t.links[at], root+at); err != nil {
			return err
		}
	}
	for at, text := range t.texts {
		if err := os.WriteFile(root+at, []byte(text), 0o644); err != nil {
			return err
		}
	}
	for at, from := range t.files {
		if err := copyFile(root+at, from); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(to, from string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, info.Mode().Perm()&^fs.FileMode(0o222)|0o200)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}
