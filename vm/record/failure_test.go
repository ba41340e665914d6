package record

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
)

var errMedium = errors.New("the medium refuses")

// failing is memory whose fences can fail, as an msync can.
type failing struct {
	dram
	fences int // made so far
	failAt int // the fence that fails, counted from 1; 0: none
}

func (m *failing) Fence() error {
	m.fences++
	if m.fences == m.failAt {
		return errMedium
	}
	return nil
}

// TestFenceFailsInMark: the error is reported, the image is not resumed, and a
// retry repeats every step whose durability is unknown.
func TestFenceFailsInMark(t *testing.T) {
	l := makeLives(t)
	clean := &failing{dram: append(dram(nil), l.saved...)}
	_, err := open(t, clean).MarkResumed(l.savedRec)
	check(t, err)
	if clean.fences != 4 {
		t.Fatalf("a resume takes %d fences", clean.fences)
	}
	for k := 1; k <= clean.fences; k++ {
		mem := &failing{dram: append(dram(nil), l.saved...), failAt: k}
		a := open(t, mem)
		if _, err := a.MarkResumed(l.savedRec); !errors.Is(err, errMedium) {
			t.Fatalf("fence %d of %d failed: %v", k, clean.fences, err)
		}
		before := mem.fences
		resumed, err := a.MarkResumed(l.savedRec)
		switch {
		case k <= 2: // the image was still current
			if check(t, err); resumed.Generation != l.savedRec.Generation+1 {
				t.Errorf("fence %d: resumed as %+v", k, resumed)
			}
			// Only what was certainly durable is not done again.
			if got, want := mem.fences-before, clean.fences-k+1; got != want {
				t.Errorf("fence %d: the retry made %d fences, want %d", k, got, want)
			}
		case !errors.Is(err, ErrSuperseded):
			t.Errorf("fence %d: second resume: %v", k, err)
		}
		start(t, a, "cold")
		check(t, soleRecord(mem.dram))
	}
}

// TestFenceFailsInSave: no error is swallowed, and afterwards the VM can be
// marked and saved again.
func TestFenceFailsInSave(t *testing.T) {
	for k := 1; k <= 3; k++ {
		l := makeLives(t)
		mem := &failing{dram: l.resumed}
		a := open(t, mem)
		c, err := a.Prepare(testArming)
		must(t, c, err)
		mem.failAt = mem.fences + k
		check(t, c.Copy(state(9, 100)))
		if k == 1 {
			if err := c.Fence(); !errors.Is(err, errMedium) {
				t.Fatalf("fence: %v", err)
			}
			if err := c.Fence(); err != ErrOrder {
				t.Fatalf("a second fence does not bring back what the first lost: %v", err)
			}
			check(t, c.Copy(state(9, 100)))
			check(t, c.Fence())
			check(t, c.Commit())
			if r, err := a.Latest(); err != nil || r.Status != StatusSaved {
				t.Fatalf("after the retry: %+v, %v", r, err)
			}
			continue
		}
		check(t, c.Fence())
		if err := c.Commit(); !errors.Is(err, errMedium) {
			t.Fatalf("commit: %v", err)
		}
		if k == 2 {
			if r, err := a.Latest(); err != nil || r.Status != StatusRunning {
				t.Fatalf("body not durable: %+v, %v", r, err)
			}
			c.Abort()
		}
		r := start(t, a, "goes on")
		if r.Generation != l.resumedRec.Generation+1 {
			t.Errorf("marked after a failed commit: %+v", r)
		}
		save(t, a, state(10, 100))
	}
}

// TestRaceForAnImage: many resume the same image, one succeeds.
func TestRaceForAnImage(t *testing.T) {
	l := makeLives(t)
	a := open(t, l.saved)
	var winners atomic.Int32
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			_, err := a.MarkResumed(l.savedRec)
			switch {
			case err == nil:
				winners.Add(1)
			case !errors.Is(err, ErrSuperseded) && !errors.Is(err, ErrBusy):
				t.Error(err)
			}
		})
	}
	group.Wait()
	if winners.Load() != 1 {
		t.Errorf("%d resumed the image", winners.Load())
	}
}

// TestReadingDuringSaves: somebody who looks on always sees a valid record, and
// never an older one than before.
func TestReadingDuringSaves(t *testing.T) {
	_, mapping, pool := poolOn(t, nvram.KindShm, nvram.LayoutDirectory, testSlot)
	check(t, Format(mapping, testIdentity))
	a := open(t, mapping)
	start(t, a, "one")
	stop := make(chan struct{})
	var group sync.WaitGroup
	var seen uint64
	group.Go(func() {
		for {
			r, err := a.Latest()
			if err != nil || r.Sequence < seen {
				t.Errorf("sequence %d, then %d, %v", seen, r.Sequence, err)
				return
			}
			seen = r.Sequence
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	var last Record
	for i := range 300 {
		saved := save(t, a, state(byte(i), 1000))
		var err error
		last, err = a.MarkVoid(saved)
		check(t, err)
	}
	close(stop)
	group.Wait()
	if !t.Failed() && seen > last.Sequence {
		t.Errorf("saw sequence %d, last is %d", seen, last.Sequence)
	}
	check(t, mapping.Close())
	check(t, pool.Close())
}
