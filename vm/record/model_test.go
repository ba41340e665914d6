package record

import (
	"errors"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/nv-hypervisor/nv-hypervisor/nvram/nvramtest"
)

// host is a VM's region on a host whose power fails, with what an observer
// from outside knows. An image is known by its content, which is never repeated.
type host struct {
	image     []byte // the region, as the medium has it
	area      *Area
	rec       *nvramtest.Recorder
	damaged   bool              // the medium has lost something since the last mark
	ran       uint64            // highest generation in which a guest ran
	saves     int               // images made, and the source of their content
	used      map[string]uint64 // image: the generation that went on from it
	committed string            // the image that must be there now
	cut       bool              // the power failed during the last operation
}

func newHost(t *rapid.T) *host {
	mem := make(dram, RegionSize(testIdentity.SlotSize))
	if err := Format(mem, testIdentity); err != nil {
		t.Fatal(err)
	}
	h := &host{image: mem, used: map[string]uint64{}}
	h.boot(t)
	return h
}

// boot opens the region as a host does that has just started.
func (h *host) boot(t *rapid.T) {
	h.rec = nvramtest.NewRecorder(h.image)
	var err error
	if h.area, err = Open(h.rec); err != nil {
		t.Fatal(err)
	}
}

// do runs an operation and perhaps lets the power fail in it, or right after.
// It reports whether the caller lived to see it return.
func (h *host) do(t *rapid.T, operation func() error) bool {
	h.image = append(h.image[:0], h.rec.Bytes()...)
	h.boot(t)
	err := operation()
	h.cut = rapid.IntRange(0, 2).Draw(t, "cut") == 0
	if !h.cut {
		return err == nil
	}
	point := rapid.IntRange(0, h.rec.Len()).Draw(t, "point")
	states := rapid.IntRange(1, 6).Draw(t, "states")
	seed := rapid.Int64().Draw(t, "seed")
	for cs := range h.rec.CrashStates(states, seed) {
		if cs.Point > point {
			break
		}
		if cs.Point == point {
			h.image = append(h.image[:0], cs.Image...)
		}
	}
	returned := point == h.rec.Len() && err == nil
	h.boot(t)
	return returned
}

// guestRuns notes that the guest executes in this generation, going on from an
// image if there is one.
func (h *host) guestRuns(t *rapid.T, r Record, image string) {
	if r.Generation <= h.ran && !h.damaged {
		t.Fatalf("generation %d after %d", r.Generation, h.ran)
	}
	if image != "" {
		if before, ok := h.used[image]; ok {
			t.Fatalf("%s runs on in generation %d, but did so in generation %d", image, r.Generation, before)
		}
		h.used[image] = r.Generation
	}
	h.ran, h.damaged, h.committed = r.Generation, false, ""
}

// latest returns the current record and, if it is saved, its image.
func (h *host) latest(t *rapid.T) (Record, string) {
	r, err := h.area.Latest()
	if err != nil {
		if !h.damaged {
			t.Fatal(err)
		}
		return r, ""
	}
	if r.Status != StatusSaved {
		return r, ""
	}
	p, err := h.area.State()
	if err != nil {
		t.Fatal(err)
	}
	return r, string(p)
}

func (h *host) start(t *rapid.T) {
	var r Record
	if h.do(t, func() error {
		ref, err := h.area.WriteLaunch(fmt.Appendf(nil, "launch record for what follows generation %d", h.ran))
		if err != nil {
			return err
		}
		r, err = h.area.MarkRunning(ref)
		return err
	}) {
		h.guestRuns(t, r, "")
	} else if r, _ := h.latest(t); r.Status != StatusSaved {
		h.committed = "" // the cut came after the mark
	}
}

func (h *host) save(t *rapid.T) {
	h.saves++
	image := fmt.Sprintf("image %d %s", h.saves, state(byte(h.saves), 500))
	abort := rapid.IntRange(0, 4).Draw(t, "abort") == 0
	if h.do(t, func() error {
		c, err := h.area.Prepare(testArming)
		if err != nil {
			return err
		}
		if err := errors.Join(c.Copy([]byte(image)), c.Fence()); err != nil || abort {
			c.Abort()
			return errors.Join(err, errors.New("given up"))
		}
		return c.Commit()
	}) {
		h.committed = image
	}
}

func (h *host) resume(t *rapid.T) {
	saved, image := h.latest(t)
	if image == "" {
		return
	}
	mark := (*Area).MarkResumed
	if rapid.Bool().Draw(t, "in place") {
		mark = (*Area).MarkVoid
	}
	var r Record
	if h.do(t, func() error {
		var err error
		r, err = mark(h.area, saved)
		return err
	}) {
		h.guestRuns(t, r, image)
	} else if now, _ := h.latest(t); now.Status != StatusSaved {
		h.committed = "" // lost with the cut: it had not run, and never will
	}
}

func (h *host) stop(t *rapid.T) {
	h.do(t, func() error {
		_, err := h.area.MarkStopped("stopped")
		return err
	})
	if now, _ := h.latest(t); now.Status != StatusSaved {
		h.committed = ""
	}
}

// damage is what a bad medium does: bits flip in a record copy.
func (h *host) damage(t *rapid.T) {
	for range rapid.IntRange(1, 3).Draw(t, "flips") {
		at := copyAt(rapid.Uint64Range(0, 1).Draw(t, "copy")) + rapid.IntRange(0, recordSize-1).Draw(t, "at")
		b := h.rec.Bytes()[at] ^ byte(rapid.IntRange(1, 255).Draw(t, "mask"))
		h.rec.Store(at, []byte{b})
		h.rec.Flush(at, 1)
	}
	h.damaged, h.committed = true, ""
}

// TestAtMostOneResume lets a host save and resume a VM at random, with power
// cuts in every operation and a medium that loses records, and checks from
// outside that no image goes on twice, no old image comes back, and nothing
// committed is lost without cause.
func TestAtMostOneResume(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := newHost(t)
		t.Repeat(map[string]func(*rapid.T){
			"start":  h.start,
			"save":   h.save,
			"resume": h.resume,
			"stop":   h.stop,
			"damage": func(t *rapid.T) {
				if rapid.IntRange(0, 3).Draw(t, "rarely") == 0 {
					h.damage(t)
				}
			},
			"": func(t *rapid.T) {
				r, image := h.latest(t)
				if image != "" {
					if g, ok := h.used[image]; ok {
						t.Fatalf("image of generation %d is back, although generation %d went on from it", r.Generation, g)
					}
					if r.Generation < h.ran {
						t.Fatalf("image of generation %d is back, although generation %d ran", r.Generation, h.ran)
					}
				}
				if h.committed != "" && image != h.committed {
					t.Fatalf("the committed image is gone: %+v", r)
				}
				if !h.damaged && len(h.area.Check()) != 0 {
					t.Fatalf("findings without damage: %+v", h.area.Check())
				}
			},
		})
	})
}
