package nvram

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/nvram/nvramtest"
)

// The crash tests run the real code over a recording memory and a recording directory, and then the real recovery on what a power
// cut could leave of both. Units are 4 KiB so that a whole pool is copied in some µs.
const (
	crashUnit  = 4 * KiB
	crashUnits = 4
	crashLimit = 600 // states for each prefix of the history
)

// scenario is one operation, on a pool that was prepared by others.
type scenario struct {
	name    string
	layout  Layout
	prepare func(*core) error  // on a new pool; nil: there is no pool
	damage  func(image []byte) // to the prepared pool, at rest
	run     func(*core) error  // the operation
}

// outcome is what recovery says of an image: the regions, or why it is no pool.
type outcome string

var crashScenarios = []scenario{
	{name: "init", layout: LayoutDirectory, run: crashFormat},
	{name: "init of a single pool", layout: LayoutSingle, run: crashFormat},
	{name: "alloc one", layout: LayoutDirectory, prepare: allocate("a"), run: allocate("b")},
	{name: "alloc two", layout: LayoutDirectory, prepare: allocate("a"), run: allocate("b", "c")},
	{name: "alloc in a single pool", layout: LayoutSingle, prepare: allocate("a"), run: allocate("b")},
	{name: "alloc two where others were", layout: LayoutSingle, prepare: inTurn(allocate("a", "b", "c"), release("a", "c")), run: allocate("d", "e")},
	{name: "free one", layout: LayoutDirectory, prepare: allocate("a", "b"), run: release("a")},
	{name: "free all", layout: LayoutDirectory, prepare: allocate("a", "b"), run: release("a", "b")},
	{name: "free in a single pool", layout: LayoutSingle, prepare: allocate("a", "b", "c"), run: release("b", "a")},
	{name: "rename", layout: LayoutDirectory, prepare: allocate("a", "b"), run: renameAll(map[string]string{"a": "c"})},
	{name: "swap names", layout: LayoutSingle, prepare: allocate("a", "b"), run: renameAll(map[string]string{"a": "b", "b": "a"})},
	{name: "force over a pool", layout: LayoutDirectory, prepare: allocate("a", "b"), run: crashReplace},
	{name: "force over a pool with one sound copy", layout: LayoutSingle, prepare: allocate("a", "b"), damage: damageCopy(0), run: crashReplace},
	{name: "open with a damaged head", layout: LayoutDirectory, prepare: allocate("a"), damage: damageAt(headOffset), run: (*core).load},
	{name: "open with a damaged selector", layout: LayoutDirectory, prepare: allocate("a"), damage: damageAt(selectorOffset), run: (*core).load},
	{name: "open with a lost selector", layout: LayoutDirectory, prepare: allocate("a"), damage: loseSelector, run: (*core).load},
	{name: "open with a damaged copy 0", layout: LayoutSingle, prepare: allocate("a"), damage: damageCopy(0), run: (*core).load},
	{name: "open with a damaged copy 1", layout: LayoutSingle, prepare: allocate("a"), damage: damageCopy(1), run: (*core).load},
	{name: "open with a stale copy", layout: LayoutSingle, prepare: allocate("a"), damage: staleCopy, run: (*core).load},
}

func crashTable(layout Layout) *table {
	size := crashUnits * crashUnit
	if layout == LayoutSingle {
		size += dataStart(crashUnit)
	}
	return &table{sequence: 1, id: ID{1}, kind: KindShm, layout: layout, size: size, unit: crashUnit, created: time.Unix(1, 0)}
}

func crashFormat(c *core) error {
	layout := LayoutDirectory
	if _, ok := c.store.(*single); ok {
		layout = LayoutSingle
	}
	return format(c.meta, crashTable(layout))
}

func crashReplace(c *core) error {
	old, _, err := recoverTable(c.meta.Bytes())
	if err != nil {
		return err
	}
	t := crashTable(old.layout)
	t.id = ID{2}
	if err := replace(c.meta, old, t); err != nil {
		return err
	}
	return c.store.sweep(t)
}

func allocate(names ...string) func(*core) error {
	return func(c *core) error {
		var reqs []Request
		for _, name := range names {
			reqs = append(reqs, Request{name, crashUnit, UseUser})
		}
		_, err := c.alloc(reqs)
		return err
	}
}

func release(names ...string) func(*core) error {
	return func(c *core) error { return c.free(names) }
}

func renameAll(oldNew map[string]string) func(*core) error {
	return func(c *core) error { return c.rename(oldNew) }
}

func inTurn(steps ...func(*core) error) func(*core) error {
	return func(c *core) error {
		var err error
		for _, step := range steps {
			err = errors.Join(err, step(c))
		}
		return err
	}
}

func damageAt(off int) func([]byte) {
	return func(image []byte) { image[off] ^= 0x40 }
}

func damageCopy(i uint64) func([]byte) { return damageAt(copyOffset(i) + headerSize + 70) }

func loseSelector(image []byte) { clear(image[selectorOffset : selectorOffset+8]) }

// staleCopy makes the spare copy one of the change before, as a cut right after the commit leaves it.
func staleCopy(image []byte) {
	t, _, err := recoverTable(image)
	if err != nil {
		panic(err)
	}
	old := *t
	old.sequence--
	old.entries = nil
	copy(image[copyOffset(old.sequence):], encodeTable(&old))
}

// fileEvent is something done to the directory after so many events of the memory.
type fileEvent struct {
	point int
	what  string // "create", "remove", "sync"
	id    ID
}

// recordedFiles is a directory that notes what is done to it.
type recordedFiles struct {
	recorder *nvramtest.Recorder // nil: note nothing
	initial  map[ID]bool
	present  map[ID]bool
	history  []fileEvent
	syncs    int
	dropSync int // the sync to ignore; -1: none
}

func newRecordedFiles(r *nvramtest.Recorder, initial map[ID]bool) *recordedFiles {
	return &recordedFiles{recorder: r, initial: maps.Clone(initial), present: maps.Clone(initial), dropSync: -1}
}

func (f *recordedFiles) note(what string, id ID) {
	if f.recorder != nil {
		f.history = append(f.history, fileEvent{f.recorder.Len(), what, id})
	}
}

func (f *recordedFiles) create(id ID, size Bytes) (identity, error) {
	f.note("create", id)
	f.present[id] = true
	return identity{inode: 7, size: size}, nil
}

func (f *recordedFiles) remove(id ID) error {
	f.note("remove", id)
	delete(f.present, id)
	return nil
}

func (f *recordedFiles) list() ([]ID, error) { return slices.Collect(maps.Keys(f.present)), nil }

func (f *recordedFiles) identify(id ID) (identity, error) {
	if !f.present[id] {
		return identity{}, fs.ErrNotExist
	}
	return identity{inode: 7, size: crashUnit}, nil
}

func (f *recordedFiles) sync() error {
	if f.syncs != f.dropSync {
		f.note("sync", ID{})
	}
	f.syncs++
	return nil
}

// crashStates gives what the directory could hold after a cut at a point of the memory's history, and whether everything had been done to it.
func (f *recordedFiles) crashStates(point int) map[*map[ID]bool]bool {
	states := map[*map[ID]bool]bool{}
	for n := range len(f.history) + 1 {
		if n > 0 && f.history[n-1].point > point || n < len(f.history) && f.history[n].point < point {
			continue
		}
		for _, s := range f.persistent(f.history[:n]) {
			states[&s] = n == len(f.history)
		}
	}
	return states
}

// persistent gives every way in which the file system may have kept the history: what was synced, and any of the rest.
func (f *recordedFiles) persistent(history []fileEvent) []map[ID]bool {
	synced := 0
	for i, e := range history {
		if e.what == "sync" {
			synced = i
		}
	}
	rest := history[synced:]
	var all []map[ID]bool
	for subset := range 1 << len(rest) {
		s := maps.Clone(f.initial)
		for i, e := range history {
			if i >= synced && subset>>(i-synced)&1 == 0 {
				continue
			}
			switch e.what {
			case "create":
				s[e.id] = true
			case "remove":
				delete(s, e.id)
			}
		}
		all = append(all, s)
	}
	return all
}

// newCore puts a core over a memory. The extents of a single pool are views, as they are mappings of their own.
func newCore(layout Layout, mem Memory, view func(off, n int) Memory, f *recordedFiles) *core {
	c := &core{meta: mem, store: &directory{f}}
	if layout == LayoutSingle {
		c.store = &single{func(offset, n Bytes) (Memory, func() error, error) {
			return view(int(offset), int(n)), func() error { return nil }, nil
		}}
	}
	return c
}

func recordedCore(layout Layout, r *nvramtest.Recorder, f *recordedFiles) *core {
	return newCore(layout, r, func(off, n int) Memory { return r.View(off, n) }, f)
}

// recordedRun is a scenario that was run under recording.
type recordedRun struct {
	scenario
	recorder      *nvramtest.Recorder
	files         *recordedFiles
	before, after outcome
}

// mutation says what to leave out; -1: nothing.
type mutation struct{ flush, fence, sync int }

func record(t *testing.T, s scenario, m mutation) *recordedRun {
	t.Helper()
	size := dataStart(crashUnit)
	if s.layout == LayoutSingle {
		size += crashUnits * crashUnit
	}
	image := make([]byte, size)
	present := map[ID]bool{}
	if s.layout == LayoutSingle {
		// What an earlier owner left: no region may ever show it.
		copy(image[dataStart(crashUnit):], bytes.Repeat([]byte("secret!!"), int(crashUnits*crashUnit/8)))
	}
	if s.prepare != nil {
		r := nvramtest.NewRecorder(image)
		f := newRecordedFiles(nil, present)
		c := recordedCore(s.layout, r, f)
		must(t, crashFormat(c))
		must(t, c.load())
		must(t, s.prepare(c))
		copy(image, r.Bytes())
		present = f.present
		for i := int(dataStart(crashUnit)); i < len(image); i++ {
			image[i] |= 's' // what the owners of now wrote
		}
	}
	if s.damage != nil {
		s.damage(image)
	}
	run := &recordedRun{scenario: s, recorder: nvramtest.NewRecorder(image)}
	run.before, _ = recoverOutcome(s.layout, bytes.Clone(image), newRecordedFiles(nil, present))
	if m.flush >= 0 {
		run.recorder.DropFlush(m.flush)
	}
	if m.fence >= 0 {
		run.recorder.DropFence(m.fence)
	}
	run.files = newRecordedFiles(run.recorder, present)
	run.files.dropSync = m.sync
	c := recordedCore(s.layout, run.recorder, run.files)
	if t, _, err := recoverTable(image); err == nil {
		c.state.Store(t)
	}
	must(t, s.run(c))
	run.after, _ = recoverOutcome(s.layout, bytes.Clone(run.recorder.Bytes()), newRecordedFiles(nil, run.files.present))
	return run
}

// recoverOutcome runs the real recovery on an image, in place, and describes what came of it.
func recoverOutcome(layout Layout, image []byte, f *recordedFiles) (outcome, *core) {
	c := newCore(layout, &syncMemory{data: image}, nil, f)
	c.meta = imageMemory{c.meta}
	if err := c.load(); err != nil {
		if !errors.Is(err, ErrNotPool) {
			return outcome("refused: " + err.Error()), nil
		}
		return "no pool", nil
	}
	t := c.state.Load()
	text := fmt.Sprintf("pool %d:", t.id[0])
	for _, e := range t.entries {
		text += fmt.Sprintf(" %s=%d+%d", e.name, e.offset, e.size)
	}
	return outcome(text), c
}

// imageMemory is a plain slice: what recovery writes needs no recording.
type imageMemory struct{ Memory }

func (imageMemory) Fence() error { return nil }

// verify runs recovery on every crash state and gives the first promise that is broken.
func (r *recordedRun) verify() error {
	for s := range r.recorder.CrashStates(crashLimit, 1) {
		for present, filesDone := range r.files.crashStates(s.Point) {
			returned := s.Point == r.recorder.Len() && filesDone
			if err := r.verifyState(bytes.Clone(s.Image), *present, returned); err != nil {
				return fmt.Errorf("%s: %w", s.Desc, err)
			}
		}
	}
	return nil
}

func (r *recordedRun) verifyState(image []byte, present map[ID]bool, returned bool) error {
	_, findings, _ := recoverTable(image)
	if returned && len(findings) > 0 {
		return fmt.Errorf("the operation has returned, but: %+v", findings)
	}
	files := newRecordedFiles(nil, present)
	got, c := recoverOutcome(r.layout, image, files)
	if got != r.after && (returned || got != r.before) {
		return fmt.Errorf("recovery says %q, before it was %q, after it is %q, returned %v", got, r.before, r.after, returned)
	}
	if c == nil {
		return nil
	}
	if _, findings, err := recoverTable(image); err != nil || len(findings) > 0 {
		return fmt.Errorf("after recovery: %v %+v", err, findings)
	}
	return r.verifyRegions(c.state.Load(), image, files)
}

// verifyRegions checks that every region has its memory, that fresh ones are zero, and that nothing is left over.
func (r *recordedRun) verifyRegions(t *table, image []byte, files *recordedFiles) error {
	if r.layout == LayoutDirectory {
		d := directory{files}
		for i := range t.entries {
			if err := d.verify(&t.entries[i]); err != nil {
				return err
			}
		}
		if len(files.present) != len(t.entries) {
			return fmt.Errorf("%d files for %d regions", len(files.present), len(t.entries))
		}
		return nil
	}
	for _, e := range t.entries {
		fresh := !strings.Contains(string(r.before), " "+e.name+"=")
		if fresh && !allZero(image[e.offset:e.offset+e.size]) {
			return fmt.Errorf("region %q shows what an earlier owner left", e.name)
		}
	}
	return nil
}

var intact = mutation{-1, -1, -1}

func TestPowerCutAtAnyPoint(t *testing.T) {
	for _, s := range crashScenarios {
		t.Run(s.name, func(t *testing.T) {
			r := record(t, s, intact)
			if strings.HasPrefix(string(r.before+r.after), "refused") {
				t.Fatalf("before: %q, after: %q", r.before, r.after)
			}
			if err := r.verify(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestEveryFlushAndFenceIsNeeded leaves out each flush, fence and directory sync in turn: the crash test must notice.
func TestEveryFlushAndFenceIsNeeded(t *testing.T) {
	for _, s := range crashScenarios {
		t.Run(s.name, func(t *testing.T) {
			r := record(t, s, intact)
			if r.recorder.Flushes() == 0 || r.recorder.Fences() == 0 {
				t.Fatalf("%d flushes and %d fences: nothing was recorded", r.recorder.Flushes(), r.recorder.Fences())
			}
			unnoticed := func(what string, i int, m mutation) {
				if record(t, s, m).verify() == nil {
					t.Errorf("nothing breaks without %s %d", what, i)
				}
			}
			for i := range r.recorder.Flushes() {
				unnoticed("flush", i, mutation{i, -1, -1})
			}
			for i := range r.recorder.Fences() {
				unnoticed("fence", i, mutation{-1, i, -1})
			}
			for i := range r.files.syncs {
				unnoticed("sync", i, mutation{-1, -1, i})
			}
		})
	}
}
