package record

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
)

// poolOn makes a pool with one state region on shared memory.
func poolOn(t testing.TB, kind nvram.Kind, layout nvram.Layout, slot nvram.Bytes) (path string, mapping *nvram.Mapping, pool *nvram.Pool) {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "nvh-record-")
	must(t, dir, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	path = filepath.Join(dir, "pool")
	check(t, nvram.Init(nvram.InitOptions{Path: path, Kind: kind, Layout: layout, Size: 32 << 20}))
	pool, err = nvram.Open(path)
	must(t, pool, err)
	_, err = pool.Alloc(nvram.Request{Name: "db-1.state", Size: RegionSize(slot), Use: "state"})
	check(t, err)
	mapping, err = pool.Map("db-1.state")
	return path, must(t, mapping, err), pool
}

// TestOnRealPools saves into real regions and finds the image after the pool
// was opened anew.
func TestOnRealPools(t *testing.T) {
	for _, tc := range []struct {
		kind   nvram.Kind
		layout nvram.Layout
	}{
		{nvram.KindShm, nvram.LayoutDirectory},
		{nvram.KindShm, nvram.LayoutSingle},
		{nvram.KindFile, nvram.LayoutDirectory},
		{nvram.KindFSDAX, nvram.LayoutSingle},
	} {
		t.Run(fmt.Sprintf("%s %s", tc.kind, tc.layout), func(t *testing.T) {
			path, mapping, pool := poolOn(t, tc.kind, tc.layout, 1<<20)
			id := testIdentity
			id.SlotSize = 1 << 20
			check(t, Format(mapping, id))
			a, err := Open(mapping)
			must(t, a, err)
			start(t, a, "one")
			image := state(7, 300_001)
			want := save(t, a, image)
			check(t, mapping.Close())
			check(t, pool.Close())

			pool, err = nvram.Open(path)
			must(t, pool, err)
			mapping, err = pool.Map("db-1.state")
			must(t, mapping, err)
			a, err = Open(mapping)
			must(t, a, err)
			got, err := a.Latest()
			equal(t, want, must(t, got, err))
			p, err := a.State()
			if !bytes.Equal(must(t, p, err), image) {
				t.Error("state differs")
			}
			check(t, mapping.Close())
			check(t, pool.Close())
		})
	}
}

// BenchmarkSave measures what a save adds to QEMU's own work: checksum, copy
// and the two halves of the commit, on a shm pool. Compare with floor, the same
// bytes checksummed and copied to the same place by the runtime's own routines.
func BenchmarkSave(b *testing.B) {
	for _, size := range []int{64 << 10, 300 << 10, 1 << 20} {
		id := testIdentity
		id.SlotSize = 1 << 20
		_, mapping, pool := poolOn(b, nvram.KindShm, nvram.LayoutDirectory, id.SlotSize)
		check(b, Format(mapping, id))
		a, err := Open(mapping)
		must(b, a, err)
		start(b, a, "one")
		c, err := a.Prepare(testArming)
		must(b, c, err)
		image := state(1, size)
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				rearm(c)
				if c.Copy(image) != nil || c.Fence() != nil || c.Commit() != nil {
					b.Fatal("save failed")
				}
			}
		})
		b.Run(fmt.Sprintf("%dKiB-floor", size>>10), func(b *testing.B) {
			b.SetBytes(int64(size))
			for b.Loop() {
				floorSum = crc32.Checksum(image, castagnoli)
				copy(mapping.Bytes()[c.slotOffset:], image)
			}
		})
		check(b, mapping.Close())
		check(b, pool.Close())
	}
}

var floorSum uint32
