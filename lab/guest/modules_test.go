package guest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nv-hypervisor/nv-hypervisor/lab/debian"
	"github.com/nv-hypervisor/nv-hypervisor/lab/kernel"
)

// The plan in the cache was made from the real kernel package: everything named is there, dependencies come
// first, and each virtio device gets its transport.
func TestPlanOfTheRealKernel(t *testing.T) {
	cache, err := debian.DefaultCache()
	if err != nil {
		t.Fatal(err)
	}
	image, err := Build(t.Context(), cache)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(filepath.Dir(image.Kernel), "modules")
	plan, err := os.ReadFile(filepath.Join(dir, "plan"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(plan)), "\n")
	if len(lines) != len(wanted) {
		t.Fatalf("%d lines, want %d", len(lines), len(wanted))
	}
	for i, line := range lines {
		order := strings.Fields(line)[1:]
		if order[len(order)-1] != kernel.ModuleName(wanted[i].module) {
			t.Errorf("%q does not end in %s", line, wanted[i].module)
		}
		if wanted[i].devices != "*" && !slices.Contains(order, virtioTransport) {
			t.Errorf("%q lacks %s", line, virtioTransport)
		}
		for at, m := range order {
			module, err := os.ReadFile(filepath.Join(dir, m))
			if err != nil {
				t.Fatal(err)
			}
			depends, err := kernel.Dependencies(module)
			if err != nil {
				t.Error(err)
			}
			for _, d := range depends {
				if !slices.Contains(order[:at], kernel.ModuleName(d)) {
					t.Errorf("%q: %s comes before %s, which it needs", line, m, d)
				}
			}
		}
	}
}
