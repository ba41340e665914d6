package record

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"reflect"
	"testing"
)

// lives are a VM's state region at the turning points, each with its record.
type lives struct {
	running, saved, resumed dram
	runningRec, savedRec    Record
	resumedRec              Record
}

func makeLives(t *testing.T) lives {
	t.Helper()
	var l lives
	a, mem := newArea(t)
	l.runningRec = start(t, a, "one")
	l.running = bytes.Clone(mem)
	l.savedRec = save(t, a, state(1, testSlot))
	l.saved = bytes.Clone(mem)
	var err error
	l.resumedRec, err = a.MarkResumed(l.savedRec)
	check(t, err)
	l.resumed = bytes.Clone(mem)
	return l
}

// accepted fails the test unless the region is refused or shows one of the
// records given.
func accepted(t *testing.T, mem dram, what string, records ...Record) (r Record, refused bool) {
	t.Helper()
	a, err := Open(mem)
	check(t, err)
	r, err = a.Latest()
	if err != nil {
		if !errors.Is(err, ErrNoRecord) {
			t.Fatalf("%s: %v", what, err)
		}
		return Record{}, true
	}
	for _, want := range records {
		if reflect.DeepEqual(r, want) {
			return r, false
		}
	}
	t.Fatalf("%s: accepted %+v", what, r)
	return r, false
}

func TestRecordTornAtEvery512Bytes(t *testing.T) {
	l := makeLives(t)
	for _, tc := range []struct {
		name          string
		before, after dram
		records       []Record
	}{
		{"save", l.running, l.saved, []Record{l.runningRec, l.savedRec}},
		{"resume", l.saved, l.resumed, []Record{l.runningRec, l.savedRec, l.resumedRec}},
	} {
		for i := range uint64(2) {
			at := copyAt(i)
			for k := 0; k <= copyDistance; k += 512 {
				head, tail := bytes.Clone(tc.before), bytes.Clone(tc.before)
				copy(head[at:at+k], tc.after[at:])
				copy(tail[at+k:at+copyDistance], tc.after[at+k:])
				accepted(t, head, tc.name+" with a new head", tc.records...)
				accepted(t, tail, tc.name+" with a new tail", tc.records...)

				// Once it has returned, what came before must not come back.
				head, tail = bytes.Clone(tc.after), bytes.Clone(tc.after)
				copy(head[at:at+k], tc.before[at:])
				copy(tail[at+k:at+copyDistance], tc.before[at+k:])
				for _, torn := range []dram{head, tail} {
					if bytes.Equal(torn[at:at+copyDistance], tc.before[at:at+copyDistance]) {
						continue // not torn: the medium has forgotten a write
					}
					r, refused := accepted(t, torn, tc.name+" with old bytes", tc.records...)
					if tc.name == "resume" && !refused && r.Status == StatusSaved && i == l.resumedRec.Sequence&1 {
						t.Fatalf("copy %d torn at %d: the image is back after its resume", i, k)
					}
				}
			}
		}
	}
}

// TestEveryBitOfTheRecords flips each bit of both copies: a saved VM is then
// saved or lost, a resumed one is never saved again.
func TestEveryBitOfTheRecords(t *testing.T) {
	l := makeLives(t)
	for i := range 2 * copyDistance * 8 {
		at, bit := copyOffset+i/8, byte(1)<<(i%8)
		if at%copyDistance >= recordSize {
			continue
		}
		l.saved[at] ^= bit
		accepted(t, l.saved, "saved", l.savedRec, l.runningRec)
		l.saved[at] ^= bit
		l.resumed[at] ^= bit
		accepted(t, l.resumed, "resumed", l.resumedRec)
		l.resumed[at] ^= bit
	}
}

func TestManyBitsOfTheRecords(t *testing.T) {
	l := makeLives(t)
	rng := rand.New(rand.NewPCG(1, 2))
	for range 4000 {
		saved, resumed := l.saved[:SlotOffset:SlotOffset], l.resumed[:SlotOffset:SlotOffset]
		var at [8]int
		var mask [8]byte
		n := 1 + rng.IntN(len(at))
		for i := range n {
			at[i] = copyAt(rng.Uint64N(2)) + rng.IntN(recordSize)
			mask[i] = byte(1 + rng.IntN(255))
			saved[at[i]] ^= mask[i]
			resumed[at[i]] ^= mask[i]
		}
		accepted(t, l.saved, "saved", l.savedRec, l.runningRec)
		accepted(t, l.resumed, "resumed", l.resumedRec)
		for i := range n {
			saved[at[i]] ^= mask[i]
			resumed[at[i]] ^= mask[i]
		}
	}
	accepted(t, l.saved, "restored", l.savedRec)
}

func TestEverySampledBitOfStateAndLaunchRecord(t *testing.T) {
	l := makeLives(t)
	a, err := Open(l.saved)
	must(t, a, err)
	if f := a.Check(); len(f) != 0 {
		t.Fatalf("findings before any damage: %+v", f)
	}
	slot := SlotOffset + l.savedRec.Slot*testSlot
	for i := 0; i < testSlot*8; i += 13 {
		l.saved[slot+i/8] ^= 1 << (i % 8)
		if _, err := a.State(); !errors.Is(err, ErrStateCorrupt) {
			t.Fatalf("state with bit %d flipped: %v", i, err)
		}
		l.saved[slot+i/8] ^= 1 << (i % 8)
	}
	launch := launchAt(l.savedRec.Launch.Index)
	for i := range (launchPrefix + len("one")) * 8 {
		if at := i / 8; at >= launchLengthAt+8 && at < launchSHA256At {
			continue // reserved
		}
		l.saved[launch+i/8] ^= 1 << (i % 8)
		if _, err := a.Launch(); !errors.Is(err, ErrLaunchCorrupt) {
			t.Fatalf("launch record with bit %d flipped: %v", i, err)
		}
		if f := a.Check(); len(f) != 1 || !f[0].Fatal {
			t.Fatalf("launch record with bit %d flipped: findings %+v", i, f)
		}
		l.saved[launch+i/8] ^= 1 << (i % 8)
	}
	if _, err := a.State(); err != nil {
		t.Error(err)
	}
}

// TestColdBootAfterLoss: whatever the medium did to the records, the VM can be
// started again, counts on, and its old image stays dead.
func TestColdBootAfterLoss(t *testing.T) {
	for name, damage := range map[string]func(m dram, l lives){
		"current damaged": func(m dram, l lives) { m[copyAt(l.savedRec.Sequence)+noteAt] ^= 1 },
		"both damaged":    func(m dram, l lives) { m[copyAt(0)+noteAt] ^= 1; m[copyAt(1)+noteAt] ^= 1 },
		"both zero":       func(m dram, l lives) { clear(m[copyAt(0) : copyAt(1)+copyDistance]) },
		"both 0xff": func(m dram, l lives) {
			for i := copyAt(0); i < copyAt(1)+copyDistance; i++ {
				m[i] = 0xff
			}
		},
	} {
		for _, reopen := range []bool{false, true} {
			l := makeLives(t)
			mem := l.saved
			a, err := Open(mem)
			must(t, a, err)
			damage(mem, l)
			if reopen {
				a, err = Open(mem)
				must(t, a, err)
			}
			if len(a.Check()) == 0 {
				t.Errorf("%s: no finding", name)
			}
			r := start(t, a, "after the loss")
			if r.Status != StatusRunning || (name != "both zero" && name != "both 0xff" && r.Generation != 2) {
				t.Errorf("%s: %+v", name, r)
			}
			if f := a.Check(); len(f) != 0 {
				t.Errorf("%s: findings after the cold boot: %+v", name, f)
			}
			if _, err := a.MarkResumed(l.savedRec); !errors.Is(err, ErrSuperseded) {
				t.Errorf("%s: the lost image was resumed: %v", name, err)
			}
			if r := save(t, a, state(2, 10)); r.Status != StatusSaved {
				t.Errorf("%s: save after the loss: %+v", name, r)
			}
		}
	}
}

// TestStaleSaveAfterLoss: a save armed before the medium lost the current
// record must notice that the VM was started anew.
func TestStaleSaveAfterLoss(t *testing.T) {
	a, mem := newArea(t)
	r := start(t, a, "one")
	c, err := a.Prepare(testArming)
	must(t, c, err)
	mem[copyAt(r.Sequence)+noteAt] ^= 1
	start(t, a, "two")
	if err := c.Copy([]byte("x")); err != ErrSuperseded {
		t.Errorf("stale save: %v", err)
	}
}

// TestImpossibleFields: a right checksum does not make a record right.
func TestImpossibleFields(t *testing.T) {
	for name, change := range map[string]func(b []byte){
		"sequence":       func(b []byte) { put64(b, sequenceAt, ^uint64(0)) },
		"sequence 0":     func(b []byte) { put64(b, sequenceAt, 0) },
		"generation":     func(b []byte) { put64(b, generationAt, plausible) },
		"status":         func(b []byte) { b[statusAt] = 9 },
		"slot":           func(b []byte) { b[slotAt] = 2 },
		"no slot":        func(b []byte) { b[slotAt] = none },
		"launch copy":    func(b []byte) { b[launchIndexAt] = 2 },
		"no launch copy": func(b []byte) { b[launchIndexAt] = none },
		"no state":       func(b []byte) { put64(b, stateLengthAt, 0) },
		"long state":     func(b []byte) { put64(b, stateLengthAt, testSlot+1) },
		"note length":    func(b []byte) { b[noteLenAt] = MaxNote + 1 },
		"disk count":     func(b []byte) { b[diskCountAt] = MaxDisks + 1 },
		"step count":     func(b []byte) { b[stepCountAt] = MaxSteps + 1 },
		"hidden disk":    func(b []byte) { b[disksAt+MaxDisks*diskSize-1] = 1 },
		"hidden step":    func(b []byte) { b[stepsAt+MaxSteps*stepSize-1] = 1 },
		"step code":      func(b []byte) { b[stepsAt+1] = 1 },
		"reserved":       func(b []byte) { b[recordSize-1] = 1 },
		"magic":          func(b []byte) { b[magicAt] ^= 1 },
	} {
		l := makeLives(t)
		b := l.saved[copyAt(l.savedRec.Sequence):][:recordSize]
		change(b)
		put64(b, wordAt, recordWord(b))
		accepted(t, l.saved, name, l.runningRec)
		a, err := Open(l.saved)
		must(t, a, err)
		if f := a.Check(); len(f) == 0 {
			t.Errorf("%s: no finding", name)
		}
	}
}

func TestRecordOfAnotherVM(t *testing.T) {
	l := makeLives(t)
	other := testIdentity
	other.VM[0] ^= 1
	mem := make(dram, len(l.saved))
	check(t, Format(mem, other))
	copy(mem[copyAt(0):copyAt(1)+copyDistance], l.saved[copyAt(0):])
	accepted(t, mem, "records of another VM")
	copy(l.saved[copyAt(0):][:copyDistance], l.saved[copyAt(1):])
	clear(l.saved[copyAt(1):][:copyDistance])
	accepted(t, l.saved, "record in the wrong copy", l.runningRec)
}
