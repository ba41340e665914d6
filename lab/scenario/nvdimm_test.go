//go:build lab

package scenario

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/lab"
	"github.com/nv-hypervisor/nv-hypervisor/lab/labtest"
	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/vm/record"
)

// regions are what the VMs of a host have in its NVDIMM, seen from outside, in the file. They hold what the host stores, when it stores it.
type regions map[string][]byte

// mapRegions finds the regions of a pool that fills an NVDIMM in devdax mode.
func mapRegions(t *testing.T, h *labtest.Host, device string) regions {
	t.Helper()
	var list struct {
		Regions []nvram.Region `json:"regions"`
	}
	if err := json.Unmarshal([]byte(h.Run("nvh", "nvram", "ls", device, "--format", "json")), &list); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(filepath.Join(h.Folder(), lab.NVDIMMFile(0)))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size := int(h.Options().NVDIMMs[0].Size)
	all, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(all) })
	// What the kernel keeps in a namespace lies before the device's first byte, which is that of the pool.
	pool := bytes.Index(all, []byte("NVHPOOL\x00"))
	if pool < 0 || len(list.Regions) == 0 {
		t.Fatalf("no pool or no region in the NVDIMM: pool at %d, %d regions", pool, len(list.Regions))
	}
	m := regions{}
	for _, r := range list.Regions {
		m[r.Name] = all[pool+int(r.Offset):][:r.Size]
	}
	return m
}

// awaitSaved waits until every VM's record says that it is saved, without asking the host.
func (m regions) awaitSaved(t *testing.T) {
	t.Helper()
	const patience = 30 * time.Second
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		missing := ""
		for name, content := range m {
			if !strings.HasSuffix(name, ".state") {
				continue
			}
			if status, err := statusOf(content); err != nil || status != record.StatusSaved {
				missing = fmt.Sprintf("%s is %v (%v)", name, status, err)
			}
		}
		if missing == "" {
			return
		}
		if time.Since(start) > patience {
			t.Fatalf("not saved after %v: %s", patience, missing)
		}
	}
}

// view is memory to look at.
type view struct {
	nvram.Memory // nil: nothing is written
	content      []byte
}

// Bytes implements nvram.Memory.
func (v view) Bytes() []byte { return v.content }

// statusOf reads the record in a state region.
func statusOf(content []byte) (record.Status, error) {
	area, err := record.Open(view{content: content})
	if err != nil {
		return 0, err
	}
	latest, err := area.Latest()
	return latest.Status, err
}

func (m regions) contents() regions {
	copied := regions{}
	for name, content := range m {
		copied[name] = slices.Clone(content)
	}
	return copied
}

// differences are the regions that are not what they were, each with its first and last byte that differ.
func (m regions) differences(before regions) map[string]string {
	found := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(m)) {
		now, was := m[name], before[name]
		if bytes.Equal(now, was) {
			continue
		}
		first, last, n := -1, 0, 0
		for i := range now {
			if now[i] != was[i] {
				if first < 0 {
					first = i
				}
				last, n = i, n+1
			}
		}
		if first >= 0 { // else it changed back meanwhile
			found[name] = fmt.Sprintf("%d bytes from %#x (%s) to %#x (%s)", n, first, part(name, first), last, part(name, last))
		}
	}
	return found
}

// part is what lies at an offset of a region, see docs/formats.md.
func part(region string, offset int) string {
	const kib = 1 << 10
	switch {
	case !strings.HasSuffix(region, ".state"):
		return "guest RAM"
	case offset < 4*kib:
		return "header"
	case offset < 12*kib:
		return "record"
	case offset < record.SlotOffset:
		return "launch record"
	}
	return "state slot"
}
