package outage

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/nv-hypervisor/nv-hypervisor/internal/durable"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

// keepTimelines is how many timelines are kept on disk; the oldest go first.
const keepTimelines = 1000

// idForm is a time and a kind, in any case a plain file name.
var idForm = regexp.MustCompile(`^[0-9][0-9A-Za-z.-]{0,62}$`)

// Store keeps timelines in a folder, one JSON file each, written durably.
type Store struct {
	dir string
	mu  sync.Mutex
}

// OpenStore makes the folder if needed.
func OpenStore(dir string) (*Store, error) {
	if err := durable.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("make the folder of the timelines: %w", err)
	}
	return &Store{dir: dir}, nil
}

// Put stores a timeline, replacing one of the same id. The id may come from a save
// record in a pool from anywhere, and is refused unless it is a plain name.
func (s *Store) Put(t Timeline) error {
	if !idForm.MatchString(t.ID) {
		return fmt.Errorf("store a timeline: id %q: %w", t.ID, vm.ErrInvalid)
	}
	content, err := json.MarshalIndent(t, "", "  ")
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := durable.WriteFile(s.path(t.ID), append(content, '\n'), 0o640); err != nil {
		return err
	}
	ids, err := s.ids()
	if err != nil {
		return err
	}
	for len(ids) > keepTimelines {
		os.Remove(s.path(ids[0]))
		ids = ids[1:]
	}
	return nil
}

func (s *Store) path(id string) string { return filepath.Join(s.dir, id+".json") }

// ids are sorted oldest first, because an id begins with its time.
func (s *Store) ids() ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, e := range entries {
		if id, ok := strings.CutSuffix(e.Name(), ".json"); ok && !strings.HasPrefix(id, ".") {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids, nil
}

// Has tells whether a timeline is stored.
func (s *Store) Has(id string) bool {
	_, err := os.Stat(s.path(id))
	return err == nil
}

// List returns all timelines, the latest first. One that cannot be read is left
// out and named in the error.
func (s *Store) List() ([]Timeline, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids, err := s.ids()
	if err != nil {
		return nil, err
	}
	slices.Reverse(ids)
	list := make([]Timeline, 0, len(ids))
	var errs []error
	for _, id := range ids {
		t, err := s.read(id)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		list = append(list, t)
	}
	return list, errors.Join(errs...)
}

func (s *Store) read(id string) (Timeline, error) {
	content, err := os.ReadFile(s.path(id))
	if err != nil {
		return Timeline{}, err
	}
	var t Timeline
	if err := json.Unmarshal(content, &t); err != nil {
		return Timeline{}, fmt.Errorf("timeline %s: %w", id, err)
	}
	return t, nil
}

// Find reads a timeline by its id, a unique prefix of it, or "latest".
func (s *Store) Find(id string) (Timeline, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids, err := s.ids()
	if err != nil {
		return Timeline{}, err
	}
	if id == "latest" {
		if len(ids) == 0 {
			return Timeline{}, vm.WithRemedy(fmt.Errorf("timeline: %w", vm.ErrNotFound), "There has been no outage, save or recovery yet.")
		}
		return s.read(ids[len(ids)-1])
	}
	var found []string
	for _, have := range ids {
		if have == id {
			return s.read(id)
		}
		if id != "" && strings.HasPrefix(have, id) {
			found = append(found, have)
		}
	}
	switch len(found) {
	case 1:
		t, err := s.read(found[0])
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		return t, err
	case 0:
	default:
		return Timeline{}, fmt.Errorf("timeline %q: %d ids begin so: %w", id, len(found), vm.ErrInvalid)
	}
	return Timeline{}, vm.WithRemedy(fmt.Errorf("timeline %q: %w", id, vm.ErrNotFound), "List them with nvh outage ls.")
}
