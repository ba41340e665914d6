package record

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"testing"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/nvram/nvramtest"
)

// statesPerPoint bounds the crash states tried after each event of a history.
const statesPerPoint = 60

// crashCase is an operation that a power cut must not tear.
type crashCase struct {
	name       string
	formatting bool // the region may be no area yet
	// setup makes the region the operation finds; nil: zeros.
	setup func(t *testing.T, mem nvram.Memory)
	// run is the operation. It calls durable for each thing it was promised to
	// be durable at that moment: the check must hold for every crash from then on.
	run func(t *testing.T, mem nvram.Memory, durable func(promise))
}

// promise says what must be true of every image after a point in the history.
type promise func(image []byte) error

var crashCases = []crashCase{
	{
		name: "format", formatting: true,
		run: func(t *testing.T, mem nvram.Memory, durable func(promise)) {
			check(t, Format(mem, testIdentity))
		},
	},
	{
		name: "format over another area", formatting: true,
		setup: func(t *testing.T, mem nvram.Memory) { usedArea(t, mem) },
		run: func(t *testing.T, mem nvram.Memory, durable func(promise)) {
			id := testIdentity
			id.VM[3], id.Name = 9, "a longer name that spans more than one line of the header"
			check(t, Format(mem, id))
		},
	},
	{
		name:  "first start",
		setup: func(t *testing.T, mem nvram.Memory) { check(t, Format(mem, testIdentity)) },
		run:   runStart,
	},
	{
		name:  "cold boot over an image",
		setup: func(t *testing.T, mem nvram.Memory) { usedArea(t, mem) },
		run:   runStart,
	},
	{
		name: "save",
		setup: func(t *testing.T, mem nvram.Memory) {
			a := usedArea(t, mem)
			r, err := a.Latest()
			_, err = a.MarkResumed(must(t, r, err))
			check(t, err)
		},
		run: runSave,
	},
	{
		name:  "save when the predecessor's end was cut short",
		setup: func(t *testing.T, mem nvram.Memory) { halfResumed(t, mem) },
		run:   runSave,
	},
	{
		name:  "resume",
		setup: func(t *testing.T, mem nvram.Memory) { usedArea(t, mem) },
		run: func(t *testing.T, mem nvram.Memory, durable func(promise)) {
			a := open(t, mem)
			saved, err := a.Latest()
			_, err = a.MarkResumed(must(t, saved, err))
			check(t, err)
			durable(soleRecord)
		},
	},
	{
		name:  "void",
		setup: func(t *testing.T, mem nvram.Memory) { usedArea(t, mem) },
		run: func(t *testing.T, mem nvram.Memory, durable func(promise)) {
			a := open(t, mem)
			saved, err := a.Latest()
			_, err = a.MarkVoid(must(t, saved, err))
			check(t, err)
			durable(soleRecord)
		},
	},
	{
		name:  "stop",
		setup: func(t *testing.T, mem nvram.Memory) { usedArea(t, mem) },
		run: func(t *testing.T, mem nvram.Memory, durable func(promise)) {
			_, err := open(t, mem).MarkStopped("shut down")
			check(t, err)
			durable(soleRecord)
		},
	},
	{
		name:  "stop when the predecessor's end was cut short",
		setup: func(t *testing.T, mem nvram.Memory) { halfResumed(t, mem) },
		run: func(t *testing.T, mem nvram.Memory, durable func(promise)) {
			_, err := open(t, mem).MarkStopped("shut down")
			check(t, err)
			durable(soleRecord)
		},
	},
}

func open(t *testing.T, mem nvram.Memory) *Area {
	t.Helper()
	a, err := Open(mem)
	return must(t, a, err)
}

// usedArea leaves a VM with a saved image that was resumed and saved before, so
// that every part of the region has old bytes.
func usedArea(t *testing.T, mem nvram.Memory) *Area {
	t.Helper()
	check(t, Format(mem, testIdentity))
	a := open(t, mem)
	start(t, a, "first launch record, long enough to need a second cache line")
	first := save(t, a, state(1, 700))
	_, err := a.MarkResumed(first)
	check(t, err)
	save(t, a, state(2, 900))
	return a
}

// halfResumed leaves what a power cut leaves between the record of a resume and
// the end of the image: both copies valid.
func halfResumed(t *testing.T, mem nvram.Memory) {
	t.Helper()
	a := usedArea(t, mem)
	saved, err := a.Latest()
	must(t, saved, err)
	word := get64(mem.Bytes(), copyAt(saved.Sequence))
	_, err = a.MarkResumed(saved)
	check(t, err)
	mem.Store8(copyAt(saved.Sequence), word)
	if v := a.copies(); v[0].err != nil || v[1].err != nil {
		t.Fatalf("copies: %v, %v", v[0].err, v[1].err)
	}
}

func runStart(t *testing.T, mem nvram.Memory, durable func(promise)) {
	a := open(t, mem)
	launch := []byte("another launch record, which is as long as two cache lines of text, give or take")
	ref, err := a.WriteLaunch(launch)
	must(t, ref, err)
	durable(func(image []byte) error {
		if !bytes.Equal(image[launchAt(ref.Index)+launchPrefix:][:len(launch)], launch) {
			return errors.New("launch record is not durable")
		}
		return nil
	})
	_, err = a.MarkRunning(ref)
	check(t, err)
	durable(soleRecord)
}

func runSave(t *testing.T, mem nvram.Memory, durable func(promise)) {
	a := open(t, mem)
	c, err := a.Prepare(testArming)
	must(t, c, err)
	durable(func(region []byte) error {
		for i, v := range open(t, dram(region)).copies() {
			if v.err == nil && v.record.Sequence < c.base {
				return fmt.Errorf("copy %d still has an older record", i)
			}
		}
		return nil
	})
	image := state(3, 800)
	check(t, c.Copy(image))
	c.SetStep(0, StepStop, 1, 2)
	check(t, c.Fence())
	durable(func(region []byte) error {
		if !bytes.Equal(region[c.slotOffset:][:len(image)], image) {
			return errors.New("state is not durable after Fence")
		}
		return nil
	})
	check(t, c.Commit())
}

// soleRecord holds after every mark: one copy is valid, so nothing older can be
// mistaken for it, whatever the medium may lose.
func soleRecord(image []byte) error {
	a, err := Open(dram(image))
	if err != nil {
		return err
	}
	if c := a.copies(); c[0].err == nil && c[1].err == nil {
		return errors.New("two valid records")
	}
	return nil
}

// observe condenses everything a recovery can learn from a region. A finding
// is an error, since a power cut must not look like damage; so is an area that
// was never finished, unless Format is what was cut.
func observe(image []byte, formatting bool) (string, error) {
	a, err := Open(dram(image))
	if errors.Is(err, ErrNotArea) && formatting {
		return "not an area", nil
	}
	if err != nil {
		return "", err
	}
	if f := a.Check(); len(f) != 0 {
		return "", fmt.Errorf("findings: %+v", f)
	}
	r, err := a.Latest()
	if err != nil {
		return "", err
	}
	seen := fmt.Sprintf("%+v %+v", a.Identity(), r)
	if launch, err := a.Launch(); !errors.Is(err, ErrNoLaunch) {
		if err != nil {
			return "", err
		}
		seen += fmt.Sprintf(" launch %x", sha256.Sum256(launch))
	}
	if r.Status == StatusSaved {
		p, err := a.State()
		if err != nil {
			return "", err
		}
		seen += fmt.Sprintf(" state %x", sha256.Sum256(p))
	}
	return seen, nil
}

// crash records the operation, with one flush or fence left out if drop says so,
// and judges every crash state. It returns the first violation.
func (tc crashCase) crash(t *testing.T, seed int64, drop func(*nvramtest.Recorder)) (*nvramtest.Recorder, error) {
	t.Helper()
	base := make(dram, RegionSize(testIdentity.SlotSize))
	if tc.setup != nil {
		tc.setup(t, base)
	}
	rec := nvramtest.NewRecorder(base)
	drop(rec)
	type owed struct {
		from    int
		promise promise
	}
	var promises []owed
	tc.run(t, rec, func(p promise) { promises = append(promises, owed{rec.Len(), p}) })

	before, err := observe(base, true)
	check(t, err)
	after, err := observe(rec.Bytes(), false)
	check(t, err)
	if before == after {
		t.Fatal("the operation changes nothing that recovery sees")
	}
	sawBefore, sawAfter := false, false
	for cs := range rec.CrashStates(statesPerPoint, seed) {
		got, err := observe(cs.Image, tc.formatting)
		switch {
		case err != nil:
			return rec, fmt.Errorf("%s: %w", cs.Desc, err)
		case cs.Point == rec.Len() && got != after:
			return rec, fmt.Errorf("%s: the operation had returned, recovery sees\n%s", cs.Desc, got)
		case got != before && got != after && got != "not an area":
			return rec, fmt.Errorf("%s: neither before nor after:\n%s", cs.Desc, got)
		}
		sawBefore, sawAfter = sawBefore || got == before, sawAfter || got == after
		for _, p := range promises {
			if cs.Point < p.from {
				continue
			}
			if err := p.promise(cs.Image); err != nil {
				return rec, fmt.Errorf("%s: %w", cs.Desc, err)
			}
		}
	}
	if !sawBefore || !sawAfter {
		t.Fatalf("crash states seen: before %v, after %v", sawBefore, sawAfter)
	}
	return rec, nil
}

func TestPowerCut(t *testing.T) {
	for _, tc := range crashCases {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := tc.crash(t, 1, func(*nvramtest.Recorder) {}); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestEveryFlushAndFenceCounts leaves out one flush or fence at a time:
// TestPowerCut must fail without it.
func TestEveryFlushAndFenceCounts(t *testing.T) {
	for _, tc := range crashCases {
		t.Run(tc.name, func(t *testing.T) {
			whole, err := tc.crash(t, 1, func(*nvramtest.Recorder) {})
			check(t, err)
			for i := range whole.Flushes() {
				if _, err := tc.crash(t, 1, func(r *nvramtest.Recorder) { r.DropFlush(i) }); err == nil {
					t.Errorf("flush %d of %d can be left out unnoticed", i, whole.Flushes())
				}
			}
			for i := range whole.Fences() {
				if _, err := tc.crash(t, 1, func(r *nvramtest.Recorder) { r.DropFence(i) }); err == nil {
					t.Errorf("fence %d of %d can be left out unnoticed", i, whole.Fences())
				}
			}
		})
	}
}
