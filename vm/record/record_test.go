package record

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
)

// dram is memory without a power cut: what is stored is there.
type dram []byte

func (m dram) Bytes() []byte            { return m }
func (m dram) Store(off int, p []byte)  { copy(m[off:off+len(p)], p) }
func (m dram) Store8(off int, v uint64) { binary.LittleEndian.PutUint64(m[off:], v) }
func (m dram) Copy(off int, p []byte)   { m.Store(off, p) }
func (m dram) Flush(off, n int)         { _ = m[off : off+n] }
func (m dram) Fence() error             { return nil }

const testSlot = 4 << 10

var testIdentity = Identity{
	VM:       UUID{1, 2, 3, 15: 16},
	Name:     "db-1",
	RAM:      nvram.ID{9, 8, 7},
	RAMSize:  256 << 20,
	SlotSize: testSlot,
}

var testDisk = DiskIdentity{Device: 2049, Inode: 77, Size: 1 << 30, MtimeNS: 1_700_000_000_000_000_001, PathHash: HashPath("/srv/db.img")}

var testArming = Arming{
	QEMUVersion:   "7.2.22 (Debian 1:7.2+dfsg-7)",
	BootID:        UUID{5, 5, 5},
	DirtyShutdown: 3,
	Disks:         []DiskIdentity{{}, testDisk},
}

// must returns the value of a step of a test that cannot go wrong.
func must[T any](t testing.TB, v T, err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newArea(t testing.TB) (*Area, dram) {
	t.Helper()
	mem := make(dram, RegionSize(testIdentity.SlotSize))
	check(t, Format(mem, testIdentity))
	a, err := Open(mem)
	return must(t, a, err), mem
}

func start(t testing.TB, a *Area, launch string) Record {
	t.Helper()
	ref, err := a.WriteLaunch([]byte(launch))
	r, err := a.MarkRunning(must(t, ref, err))
	return must(t, r, err)
}

// save runs the hot half and returns the record it leaves.
func save(t testing.TB, a *Area, state []byte) Record {
	t.Helper()
	c, err := a.Prepare(testArming)
	must(t, c, err)
	check(t, c.Copy(state))
	c.SetOutage("20261122T113322.123Z-outage")
	c.SetTime(1_800_000_000_000_000_005, 42)
	c.SetDisk(0, DiskIdentity{Inode: 3})
	c.SetStep(0, StepWake, 0, 100)
	c.SetStep(1, StepStop, 100, 900)
	check(t, c.Fence())
	c.SetStep(2, StepCommit, 900, 0)
	check(t, c.Commit())
	r, err := a.Latest()
	return must(t, r, err)
}

func state(seed byte, n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = seed + byte(i*7) + byte(i>>8)
	}
	return p
}

func TestLifeOfAnArea(t *testing.T) {
	a, mem := newArea(t)
	if r, err := a.Latest(); err != nil || r.Status != StatusNone || r.Generation != 0 {
		t.Fatalf("new area: %+v, %v", r, err)
	}
	if _, err := a.Launch(); !errors.Is(err, ErrNoLaunch) {
		t.Fatalf("launch of a new area: %v", err)
	}
	if _, err := a.Prepare(testArming); !errors.Is(err, ErrNotRunning) {
		t.Fatalf("prepare on a new area: %v", err)
	}

	running := start(t, a, "one")
	if running.Status != StatusRunning || running.Generation != 1 {
		t.Fatalf("started: %+v", running)
	}
	image := state(1, testSlot)
	saved := save(t, a, image)

	// All of it is in the bytes: read it with another Area.
	b, err := Open(mem)
	must(t, b, err)
	if b.Identity() != testIdentity {
		t.Errorf("identity %+v, want %+v", b.Identity(), testIdentity)
	}
	got, err := b.State()
	if !bytes.Equal(must(t, got, err), image) {
		t.Error("state differs")
	}
	launch, err := b.Launch()
	if string(must(t, launch, err)) != "one" {
		t.Errorf("launch record %q", launch)
	}
	want := Record{
		Sequence: 3, Generation: 1, Status: StatusSaved,
		Launch:      LaunchRef{Index: 0, SHA256: sha256.Sum256([]byte("one"))},
		QEMUVersion: testArming.QEMUVersion, BootID: testArming.BootID, DirtyShutdown: 3,
		RAM: testIdentity.RAM, RAMSize: testIdentity.RAMSize,
		Slot: 0, StateLength: testSlot, StateCRC: crc32.Checksum(image, castagnoli),
		SavedAt: time.Unix(1_800_000_000, 5).UTC(), EventNS: 42,
		Outage: "20261122T113322.123Z-outage",
		Disks:  []DiskIdentity{{Inode: 3}, testDisk},
		Steps:  []Step{{StepWake, 0, 100}, {StepStop, 100, 900}, {StepCommit, 900, 0}},
	}
	equal(t, want, saved)

	resumed, err := b.MarkResumed(saved)
	must(t, resumed, err)
	want.Sequence, want.Generation, want.Status = 4, 2, StatusRunning
	equal(t, want, resumed)
	if _, err := b.MarkResumed(saved); !errors.Is(err, ErrSuperseded) {
		t.Errorf("second resume: %v", err)
	}
	if _, err := b.State(); !errors.Is(err, ErrNotSaved) {
		t.Errorf("state after the resume: %v", err)
	}

	again := save(t, b, image[:100])
	if again.Slot != 1 || again.Generation != 2 {
		t.Errorf("second save: slot %d, generation %d", again.Slot, again.Generation)
	}
	if _, err := b.MarkResumed(saved); !errors.Is(err, ErrSuperseded) {
		t.Errorf("resume of an older image than the current: %v", err)
	}
	void, err := b.MarkVoid(again)
	if must(t, void, err); void.Generation != 3 || void.Note != "resumed in place" {
		t.Errorf("voided: %+v", void)
	}
	stopped, err := b.MarkStopped("shut down by the guest")
	if must(t, stopped, err); stopped.Status != StatusStopped || stopped.Generation != 3 {
		t.Errorf("stopped: %+v", stopped)
	}
	ref, err := b.WriteLaunch([]byte("two"))
	if must(t, ref, err).Index != 1 {
		t.Errorf("second launch record went to copy %d", ref.Index)
	}
	if launch, err := b.Launch(); string(launch) != "one" || err != nil {
		t.Errorf("launch record before it is marked: %q, %v", launch, err)
	}
	if r, err := b.MarkRunning(ref); err != nil || r.Generation != 4 {
		t.Errorf("cold boot: %+v, %v", r, err)
	}
	if f := b.Check(); len(f) != 0 {
		t.Errorf("findings: %+v", f)
	}
}

func TestSaveRefusals(t *testing.T) {
	a, _ := newArea(t)
	start(t, a, "one")
	c, err := a.Prepare(testArming)
	must(t, c, err)
	if got := c.Copy(nil); got != ErrEmpty {
		t.Errorf("empty state: %v", got)
	}
	if got := c.Copy(make([]byte, c.Slot()+1)); got != ErrTooLarge {
		t.Errorf("state beyond the slot: %v", got)
	}
	if got := c.Fence(); got != ErrOrder {
		t.Errorf("fence before copy: %v", got)
	}
	check(t, c.Copy([]byte("x")))
	if got := c.Commit(); got != ErrOrder {
		t.Errorf("commit before fence: %v", got)
	}
	for name, change := range map[string]func() error{
		"mark":    func() error { _, err := a.MarkStopped(""); return err },
		"launch":  func() error { _, err := a.WriteLaunch([]byte("y")); return err },
		"prepare": func() error { _, err := a.Prepare(testArming); return err },
	} {
		if err := change(); !errors.Is(err, ErrBusy) {
			t.Errorf("%s during a save: %v", name, err)
		}
	}
	if r, err := a.Latest(); err != nil || r.Status != StatusRunning {
		t.Errorf("reading during a save: %+v, %v", r, err)
	}
	c.Abort()
	check(t, c.Copy([]byte("z")))
	c.Abort()
	_, err = a.MarkStopped("")
	check(t, err)
	if got := c.Copy([]byte("x")); got != ErrSuperseded {
		t.Errorf("copy after a mark: %v", got)
	}
}

func TestFieldsThatDoNotFit(t *testing.T) {
	a, _ := newArea(t)
	start(t, a, "one")
	for name, known := range map[string]Arming{
		"disks":   {Disks: make([]DiskIdentity, MaxDisks+1)},
		"version": {QEMUVersion: strings.Repeat("7", MaxQEMUVersion+1)},
	} {
		if _, err := a.Prepare(known); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := a.WriteLaunch(make([]byte, MaxLaunch+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("launch record: %v", err)
	}
	if _, err := a.WriteLaunch(nil); !errors.Is(err, ErrEmpty) {
		t.Errorf("empty launch record: %v", err)
	}
	ref, err := a.WriteLaunch(make([]byte, MaxLaunch))
	_, err = a.MarkRunning(must(t, ref, err))
	check(t, err)

	// The largest of everything fits, and no field runs into the next.
	c, err := a.Prepare(Arming{QEMUVersion: strings.Repeat("q", MaxQEMUVersion), Disks: make([]DiskIdentity, MaxDisks)})
	must(t, c, err)
	for i := range MaxDisks + 1 {
		c.SetDisk(i, DiskIdentity{^uint64(0), ^uint64(0), ^uint64(0), -1, ^uint64(0)})
	}
	for i := range MaxSteps + 1 {
		c.SetStep(i, StepCommit, -1, -1)
	}
	c.SetOutage(strings.Repeat("o", MaxOutage+1))
	check(t, c.Copy([]byte("x")))
	check(t, c.Fence())
	check(t, c.Commit())
	r, err := a.Latest()
	must(t, r, err)
	if len(r.Disks) != MaxDisks || len(r.Steps) != MaxSteps || r.Outage != strings.Repeat("o", MaxOutage) ||
		r.QEMUVersion != strings.Repeat("q", MaxQEMUVersion) {
		t.Errorf("got back %+v", r)
	}
}

func TestOpenErrors(t *testing.T) {
	_, good := newArea(t)
	newer := func(b []byte) {
		put32(b, headerVersionAt, layoutVersion+1)
		put64(b, headerWordAt, headerWord(b))
	}
	for _, tc := range []struct {
		name   string
		damage func(b []byte)
		want   error
	}{
		{"zeros", func(b []byte) { clear(b) }, ErrNotArea},
		{"foreign", func(b []byte) { copy(b, state(3, headerSize)) }, ErrNotArea},
		{"format cut short", func(b []byte) { put64(b, headerWordAt, 0) }, ErrNotArea},
		{"newer", newer, ErrNewerVersion},
		{"magic", func(b []byte) { b[0] ^= 1 }, ErrCorrupt},
		{"name", func(b []byte) { b[headerNameAt] ^= 1 }, ErrCorrupt},
		{"last byte", func(b []byte) { b[headerSize-1] = 1 }, ErrCorrupt},
	} {
		mem := bytes.Clone(good)
		tc.damage(mem)
		if _, err := Open(dram(mem)); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
	}
	if _, err := Open(good[:1<<20]); !errors.Is(err, ErrCorrupt) {
		t.Errorf("truncated region: %v", err)
	}
	if _, err := Open(good[:100]); !errors.Is(err, ErrNotArea) {
		t.Errorf("tiny region: %v", err)
	}
	for i := range headerSize * 8 {
		mem := good[:]
		mem[i/8] ^= 1 << (i % 8)
		if _, err := Open(mem); err == nil {
			t.Fatalf("header with bit %d flipped was accepted", i)
		}
		mem[i/8] ^= 1 << (i % 8)
	}
}

func equal(t testing.TB, want, got Record) {
	t.Helper()
	if !reflect.DeepEqual(want, got) {
		t.Errorf("record\n got %+v\nwant %+v", got, want)
	}
}
