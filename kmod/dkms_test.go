package kmod_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/nv-hypervisor/nv-hypervisor/kmod"
	"github.com/nv-hypervisor/nv-hypervisor/lab/debian"
	"github.com/nv-hypervisor/nv-hypervisor/lab/kernel"
)

// Debian's dkms, unpacked and not installed, builds the module as it does on a host: in folders of its own and with a
// KERNELRELEASE that it puts on make's command line.
func TestDKMSBuildsTheModule(t *testing.T) {
	tree, err := debian.Tree(t.Context(), cacheDir(t), "dkms", func(ctx context.Context, apt *debian.Apt, dir string) (string, error) {
		if err := apt.Unpack(ctx, dir, debian.Bookworm, "dkms"); err != nil {
			return "", err
		}
		return apt.Version(ctx, "dkms", debian.Bookworm)
	})
	if err != nil {
		t.Fatal(err)
	}
	name := release(t, kernel.V6_1)
	if _, err := kmod.Build(t.Context(), cacheDir(t), name); err != nil { // fetches the headers
		t.Fatal(err)
	}
	work := t.TempDir()
	sources, built := filepath.Join(work, "src"), filepath.Join(work, "dkms")
	if err := os.CopyFS(filepath.Join(sources, "nvh_pod-1.0"), os.DirFS("nvh_pod")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(built, 0o755); err != nil {
		t.Fatal(err)
	}
	dkms := exec.CommandContext(t.Context(), filepath.Join(tree, "usr/sbin/dkms"), "build", "nvh_pod/1.0", "-k", name, "--no-depmod",
		"--kernelsourcedir", filepath.Join(cacheDir(t), "linux-headers-"+name, "current/usr/src/linux-headers-"+name),
		"--dkmstree", built, "--sourcetree", sources)
	if out, err := dkms.CombinedOutput(); err != nil {
		log, _ := os.ReadFile(filepath.Join(built, "nvh_pod/1.0/build/make.log"))
		t.Fatalf("%v\n%s\n%s", err, out, log)
	}
	found, err := filepath.Glob(filepath.Join(built, "nvh_pod/1.0", name, "*/module", kmod.Module))
	if err != nil || len(found) != 1 {
		t.Fatalf("modules %v, %v", found, err)
	}
	if info := modinfo(t, found[0]); info["name"] != "nvh_pod" || info["version"] != "1.0" {
		t.Errorf("%v", info)
	}
}
