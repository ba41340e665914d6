package outage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

func newStore(t *testing.T) *Store {
	t.Helper()
	s, err := OpenStore(filepath.Join(t.TempDir(), "a", "timelines"))
	check(t, err)
	return s
}

func TestStore(t *testing.T) {
	s := newStore(t)
	if _, err := s.Find("latest"); !errors.Is(err, vm.ErrNotFound) || vm.Remedy(err) == "" {
		t.Errorf("latest of none: %v", err)
	}
	if list, err := s.List(); err != nil || len(list) != 0 {
		t.Errorf("list of none: %v, %v", list, err)
	}
	event := time.Date(2026, 11, 22, 11, 33, 22, 123e6, time.UTC)
	first := Timeline{
		ID: "20261122T113322.123456Z-outage", Kind: "outage", Source: "simulate", Event: event, EventNS: 77, BootID: "b",
		Outcome: "saved", Duration: MicrosOf(1500 * time.Nanosecond),
		VMs:   []VMTimeline{{Name: "db", Outcome: "committed", StateSize: 9, Steps: []Step{{"stop", 1.5, 2}}}},
		Steps: []Step{{"wake", 0, 0.25}},
	}
	check(t, s.Put(first))
	second := Timeline{ID: "20261122T113323.000000Z-save", Kind: "save"}
	check(t, s.Put(second))
	for _, id := range []string{first.ID, "20261122T113322", "20261122T1133221"[:15]} {
		got, err := s.Find(id)
		if err != nil || got.ID != first.ID || got.VMs[0].Steps[0] != first.VMs[0].Steps[0] || got.Steps[0] != first.Steps[0] ||
			!got.Event.Equal(event) || got.Duration.Duration() != 1500*time.Nanosecond {
			t.Errorf("find %q: %+v, %v", id, got, err)
		}
	}
	if got, err := s.Find("latest"); err != nil || got.ID != second.ID {
		t.Errorf("latest: %+v, %v", got, err)
	}
	if _, err := s.Find("20261122T11332"); !errors.Is(err, vm.ErrInvalid) || !strings.Contains(err.Error(), "2 ids") {
		t.Errorf("ambiguous: %v", err)
	}
	for _, id := range []string{"", "2027", "../timelines/" + first.ID, first.ID + "x", "."} {
		if _, err := s.Find(id); !errors.Is(err, vm.ErrNotFound) {
			t.Errorf("find %q: %v", id, err)
		}
	}
	if !s.Has(first.ID) || s.Has("20261122T113322") {
		t.Error("Has takes a prefix, or nothing")
	}
	second.Outcome = "resumed in place"
	check(t, s.Put(second)) // replaces
	list, err := s.List()
	if err != nil || len(list) != 2 || list[0].Outcome != "resumed in place" || list[1].ID != first.ID {
		t.Errorf("list %+v, %v", list, err)
	}
}

// A timeline that is torn is named and costs no other.
func TestTornTimeline(t *testing.T) {
	s := newStore(t)
	for i := range 3 {
		check(t, s.Put(Timeline{ID: fmt.Sprintf("2026112%dT000000.000000Z-outage", i)}))
	}
	torn := "20261121T000000.000000Z-outage"
	check(t, os.WriteFile(s.path(torn), []byte(`{"id": "202`), 0o640))
	check(t, os.WriteFile(filepath.Join(s.dir, "README"), nil, 0o640))
	check(t, os.WriteFile(filepath.Join(s.dir, "."+torn+".json.123"), nil, 0o640)) // cut off while it was written
	list, err := s.List()
	if len(list) != 2 || err == nil || !strings.Contains(err.Error(), torn) {
		t.Errorf("list of %d, %v", len(list), err)
	}
	if _, err := s.Find(torn); err == nil || errors.Is(err, vm.ErrNotFound) || !strings.Contains(err.Error(), torn) {
		t.Errorf("find: %v", err)
	}
	check(t, s.Put(Timeline{ID: torn, Kind: "outage"}))
	if list, err := s.List(); len(list) != 3 || err != nil {
		t.Errorf("list of %d, %v", len(list), err)
	}
}

// A thousand timelines are kept; the oldest go first.
func TestOldTimelinesGo(t *testing.T) {
	s := newStore(t)
	id := func(i int) string { return fmt.Sprintf("2026%04dT000000.000000Z-save", i) }
	for i := range keepTimelines + 2 {
		check(t, os.WriteFile(s.path(id(i)), []byte(`{}`), 0o640))
	}
	check(t, s.Put(Timeline{ID: id(9999)}))
	ids, err := s.ids()
	check(t, err)
	if len(ids) != keepTimelines || ids[0] != id(3) || ids[len(ids)-1] != id(9999) {
		t.Errorf("%d are kept, from %s to %s", len(ids), ids[0], ids[len(ids)-1])
	}
}

// An id from a save record, which may be of a foreign pool, is no path.
func TestHostileID(t *testing.T) {
	s := newStore(t)
	for _, id := range []string{"../escaped", "a/b", "/tmp/escaped", "..", ".", "", ".hidden", "a\x00b", strings.Repeat("x", 300), "a\nb"} {
		if err := s.Put(Timeline{ID: id}); !errors.Is(err, vm.ErrInvalid) {
			t.Errorf("put %q: %v", id, err)
		}
	}
	var files []string
	check(t, filepath.WalkDir(filepath.Dir(filepath.Dir(s.dir)), func(path string, d os.DirEntry, err error) error {
		if !d.IsDir() {
			files = append(files, path)
		}
		return err
	}))
	if len(files) != 0 {
		t.Errorf("written: %q", files)
	}
}

// A disk without room keeps what it has.
func TestStoreOnFullDisk(t *testing.T) {
	dir := t.TempDir()
	check(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"))
	defer unix.Unmount(dir, unix.MNT_DETACH)
	s, err := OpenStore(filepath.Join(dir, "timelines"))
	check(t, err)
	old := Timeline{ID: "20261122T113322.123456Z-outage", Outcome: "saved"}
	check(t, s.Put(old))
	os.WriteFile(filepath.Join(dir, "filler"), make([]byte, 1<<20), 0o600) // as far as it goes
	old.Outcome = strings.Repeat("resumed ", 1000)
	if err := s.Put(old); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("put: %v", err)
	}
	if got, err := s.Find("latest"); err != nil || got.Outcome != "saved" {
		t.Errorf("latest: %+v, %v", got, err)
	}
	names, err := filepath.Glob(filepath.Join(s.dir, ".*"))
	if err != nil || slices.ContainsFunc(names, func(n string) bool { return strings.Contains(n, "json") }) {
		t.Errorf("left behind: %q, %v", names, err)
	}
}
