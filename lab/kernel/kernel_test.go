package kernel

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nv-hypervisor/nv-hypervisor/lab/debian"
)

// The real packages, one with modules as they load and one with packed ones: every module is there, after what it needs.
func TestModulesOfTheRealKernels(t *testing.T) {
	cache, err := debian.DefaultCache()
	if err != nil {
		t.Fatal(err)
	}
	for _, series := range []Series{V6_1, V6_12} {
		k, err := Fetch(t.Context(), cache, series, []string{"ext4", "virtio_pci"})
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(k.Release, string(series)+".") || !strings.HasSuffix(k.Release, "-amd64") {
			t.Errorf("release of %s is %q", series, k.Release)
		}
		if !slices.Contains(k.Order, "ext4") || !slices.Contains(k.Order, "jbd2") {
			t.Errorf("%s: order %q", series, k.Order)
		}
		if _, err := os.Stat(k.Image); err != nil {
			t.Error(err)
		}
		checkOrder(t, k)
	}
}

func checkOrder(t *testing.T, k Kernel) {
	t.Helper()
	for at, name := range k.Order {
		content, err := os.ReadFile(filepath.Join(k.Modules, name))
		if err != nil {
			t.Fatal(err)
		}
		depends, err := Dependencies(content)
		if err != nil {
			t.Errorf("%s: %s: %v", k.Series, name, err)
		}
		for _, d := range depends {
			if !slices.Contains(k.Order[:at], ModuleName(d)) {
				t.Errorf("%s: %s comes before %s, which it needs", k.Series, name, d)
			}
		}
	}
}

func TestUnknownModuleIsNamed(t *testing.T) {
	if _, err := (Modules{}).Order(nil, "virtio-gone"); err == nil || !strings.Contains(err.Error(), "virtio_gone") {
		t.Errorf("%v", err)
	}
}

func TestBuiltInModuleNeedsNoFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "modules.builtin"), []byte("kernel/drivers/virtio/virtio-pci.ko\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	m, err := FindModules(dir)
	if err != nil {
		t.Fatal(err)
	}
	if order, err := m.Order(nil, "virtio_pci"); err != nil || len(order) != 0 {
		t.Errorf("%q, %v", order, err)
	}
}

func TestUnknownSeriesIsRefused(t *testing.T) {
	if _, err := Fetch(t.Context(), t.TempDir(), "5.10", nil); err == nil {
		t.Error("5.10 was found")
	}
}
