package system

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"

	"github.com/nv-hypervisor/nv-hypervisor/lab/guest"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

func TestParseLdd(t *testing.T) {
	for line, want := range map[string][2]string{
		"\tlinux-vdso.so.1 (0x00007ffd)\n":                             {"linux-vdso.so.1", ""},
		"\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f4)\n": {"libz.so.1", "/lib/x86_64-linux-gnu/libz.so.1"},
		"\t/lib64/ld-linux-x86-64.so.2 (0x00007f9e)\n":                 {"ld-linux-x86-64.so.2", "/lib64/ld-linux-x86-64.so.2"},
		"\tlibgone.so.3 => not found\n":                                {"libgone.so.3", "not found"},
	} {
		if name, path := parseLdd(line); name != want[0] || path != want[1] {
			t.Errorf("%q: %q, %q", line, name, path)
		}
	}
}

// The image is an ext4 that e2fsprogs reads, and holds what was put in.
func TestImageHoldsTheFolder(t *testing.T) {
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "file"), []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(t.TempDir(), "image")
	if err := MakeImage(t.Context(), image, folder, 8<<20); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("/usr/sbin/debugfs", "-R", "cat /file", image).Output()
	if err != nil || strings.TrimSpace(string(out)) != "content" {
		t.Errorf("%q, %v", out, err)
	}
}

// What nvh create -f reads: every key is known, and the size is one.
func TestDefinitionOfTheGuest(t *testing.T) {
	var d vm.Definition
	meta, err := toml.Decode(definition(guest.Image{Cmdline: `a="b"`}), &d)
	if err != nil || len(meta.Undecoded()) > 0 {
		t.Fatalf("%v, unknown %v", err, meta.Undecoded())
	}
	if d.Memory != 192<<20 || d.Cmdline != `a="b"` {
		t.Errorf("%+v", d)
	}
}
