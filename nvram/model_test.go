package nvram

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// poolMachine drives a pool and a model of it side by side.
type poolMachine struct {
	path  string
	pool  *Pool
	names []string // in the order of allocation
	size  map[string]Bytes
	id    map[string]ID
}

const modelSize = 16 * MiB

// TestMain makes rapid's default, 100 runs, fewer: each fills real memory. -rapid.checks still asks for more.
func TestMain(m *testing.M) {
	flag.Parse()
	asked := false
	flag.Visit(func(f *flag.Flag) { asked = asked || f.Name == "rapid.checks" })
	if !asked {
		if err := flag.Set("rapid.checks", "20"); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// TestPoolAgreesWithModel does random changes, opens the pool again in between, and compares after each.
func TestPoolAgreesWithModel(t *testing.T) {
	for _, layout := range []Layout{LayoutDirectory, LayoutSingle} {
		t.Run(string(layout), func(t *testing.T) {
			dir := shmDir(t)
			runs := 0
			rapid.Check(t, func(r *rapid.T) {
				runs++
				path := filepath.Join(dir, fmt.Sprint("pool", runs))
				if err := Init(InitOptions{Path: path, Kind: KindShm, Layout: layout, Size: modelSize}); err != nil {
					r.Fatal(err)
				}
				m := &poolMachine{path: path, size: map[string]Bytes{}, id: map[string]ID{}}
				defer func() {
					if err := errors.Join(m.pool.Close(), os.RemoveAll(path)); err != nil {
						r.Error(err)
					}
				}()
				m.open(r)
				r.Repeat(map[string]func(*rapid.T){
					"alloc": m.alloc, "free": m.free, "rename": m.rename, "reopen": m.reopen, "": m.check,
				})
			})
		})
	}
}

var modelNames = []string{"a", "b", "c", "d", "e", "f"}

func (m *poolMachine) open(r *rapid.T) {
	var err error
	if m.pool, err = Open(m.path); err != nil {
		r.Fatal(err)
	}
}

func (m *poolMachine) reopen(r *rapid.T) {
	if err := m.pool.Close(); err != nil {
		r.Fatal(err)
	}
	m.open(r)
}

func (m *poolMachine) free(r *rapid.T) {
	names := rapid.SliceOfN(rapid.SampledFrom(modelNames), 1, 2).Draw(r, "names")
	want := len(slices.Compact(slices.Sorted(slices.Values(names)))) == len(names)
	for _, name := range names {
		want = want && m.size[name] > 0
	}
	err := m.pool.Free(names...)
	if (err == nil) != want {
		r.Fatalf("free %v gives %v, the model says %v", names, err, want)
	}
	if !want {
		return
	}
	for _, name := range names {
		delete(m.size, name)
		delete(m.id, name)
	}
	m.names = slices.DeleteFunc(m.names, func(n string) bool { return m.size[n] == 0 })
}

func (m *poolMachine) alloc(r *rapid.T) {
	names := rapid.SliceOfNDistinct(rapid.SampledFrom(modelNames), 1, 2, rapid.ID).Draw(r, "names")
	var reqs []Request
	var sum Bytes
	exists := false
	for _, name := range names {
		size := Bytes(rapid.Uint64Range(1, 3).Draw(r, "units")) * Alignment
		reqs = append(reqs, Request{name, size, UseUser})
		sum += size
		exists = exists || m.size[name] > 0
	}
	free, largest := m.pool.Info().Free, m.pool.Info().LargestFree
	regions, err := m.pool.Alloc(reqs...)
	switch {
	case err == nil && (exists || sum > free):
		r.Fatalf("alloc %v succeeded with %v free, names %v", reqs, free, m.names)
	case err == nil:
		for i, region := range regions {
			m.names = append(m.names, region.Name)
			m.size[region.Name], m.id[region.Name] = reqs[i].Size, region.ID
			m.mark(r, region, true)
		}
	case exists && errors.Is(err, ErrExists), sum > largest && errors.Is(err, ErrFull):
	default:
		r.Fatalf("alloc %v with %v free, largest %v: %v", reqs, free, largest, err)
	}
}

// mark writes the region's ID to both ends of each of its units, after a look whether all is zero; or looks whether the IDs
// are still there.
func (m *poolMachine) mark(r *rapid.T, region Region, fresh bool) {
	mapping, err := m.pool.Map(region.Name)
	if err != nil {
		r.Fatal(err)
	}
	defer mapping.Close()
	if fresh && !allZero(mapping.Bytes()) {
		r.Fatalf("fresh region %q is not zero", region.Name)
	}
	for unit := 0; unit < int(region.Size); unit += int(Alignment) {
		for _, at := range []int{unit, unit + int(Alignment) - len(region.ID)} {
			if fresh {
				mapping.Copy(at, region.ID[:])
			} else if !bytes.Equal(mapping.Bytes()[at:][:len(region.ID)], region.ID[:]) {
				r.Fatalf("region %q holds something else at %d", region.Name, at)
			}
		}
	}
	if err := mapping.Fence(); err != nil {
		r.Fatal(err)
	}
}

func (m *poolMachine) rename(r *rapid.T) {
	change := map[string]string{}
	for range rapid.IntRange(1, 2).Draw(r, "renames") {
		change[rapid.SampledFrom(modelNames).Draw(r, "old")] = rapid.SampledFrom(modelNames).Draw(r, "new")
	}
	names := slices.Clone(m.names)
	size, id := map[string]Bytes{}, map[string]ID{}
	want := true
	for old := range change {
		want = want && m.size[old] > 0
	}
	for i, old := range names {
		if name, ok := change[old]; ok {
			names[i] = name
		}
		want = want && size[names[i]] == 0
		size[names[i]], id[names[i]] = m.size[old], m.id[old]
	}
	if err := m.pool.Rename(change); (err == nil) != want {
		r.Fatalf("rename %v of %v gives %v, the model says %v", change, m.names, err, want)
	}
	if want {
		m.names, m.size, m.id = names, size, id
	}
}

func (m *poolMachine) check(r *rapid.T) {
	regions := m.pool.Regions()
	var names []string
	for _, region := range regions {
		names = append(names, region.Name)
		if region.Size != m.size[region.Name] || region.ID != m.id[region.Name] {
			r.Fatalf("region is %+v, the model says %v %v", region, m.size[region.Name], m.id[region.Name])
		}
		if err := m.pool.Verify(region); err != nil {
			r.Fatal(err)
		}
		m.mark(r, region, false)
	}
	if !slices.Equal(names, m.names) {
		r.Fatalf("names are %v, the model says %v", names, m.names)
	}
	var sum Bytes
	for size := range maps.Values(m.size) {
		sum += size
	}
	if info := m.pool.Info(); info.Size != modelSize || info.Used+info.Free != info.Size || info.Used%Alignment != sum%Alignment || info.Used < sum {
		r.Fatalf("info is %+v, the regions take %v", info, sum)
	}
	report, err := Check(m.path)
	if err != nil || len(report.Findings) > 0 {
		r.Fatalf("check: %v %+v", err, report.Findings)
	}
}
