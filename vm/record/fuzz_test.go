package record

import (
	"bytes"
	"io"
	"testing"
)

// FuzzRecord feeds the decoder record copies whose checksum is right, so that
// it must judge their content: whatever it accepts has exactly that encoding.
func FuzzRecord(f *testing.F) {
	_, mem := newArea(f)
	a, err := Open(mem)
	must(f, a, err)
	start(f, a, "one")
	save(f, a, state(1, 100))
	for i := range uint64(2) {
		f.Add([]byte(mem[copyAt(i):][:recordSize]))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		b := make([]byte, recordSize)
		copy(b, p)
		put64(b, wordAt, recordWord(b))
		r, err := decodeRecord(b, testIdentity.VM)
		if err != nil {
			return
		}
		if err := r.validate(); err != nil {
			t.Fatalf("accepted a record that cannot be written: %v", err)
		}
		if !bytes.Equal(r.encode(testIdentity.VM)[wordSize:], b[wordSize:]) {
			t.Fatalf("accepted bytes it would not write: %+v", r)
		}
	})
}

// FuzzRegion opens regions of arbitrary metadata and asks everything of them.
// Checksums are made right when sealed says so.
func FuzzRegion(f *testing.F) {
	a, mem := newArea(f)
	start(f, a, "one")
	save(f, a, state(1, 100))
	launch := mem[launchAt(0):][:launchPrefix+len("one")]
	for _, sealed := range []bool{false, true} {
		f.Add([]byte(mem[:144]), []byte(mem[copyAt(0):][:recordSize]), []byte(mem[copyAt(1):][:recordSize]), []byte(launch), sealed)
	}
	f.Fuzz(func(t *testing.T, header, copy0, copy1, launch []byte, sealed bool) {
		mem := make(dram, 2<<20)
		copy(mem[:headerSize], header)
		copy(mem[copyAt(0):][:recordSize], copy0)
		copy(mem[copyAt(1):][:recordSize], copy1)
		copy(mem[launchAt(0):][:launchDistance], launch)
		if sealed {
			put64(mem, headerWordAt, headerWord(mem))
			for i := range uint64(2) {
				put64(mem, copyAt(i), recordWord(mem[copyAt(i):]))
			}
		}
		if err := Dump(mem, io.Discard); err != nil {
			t.Fatal(err)
		}
		a, err := Open(mem)
		if err != nil {
			return
		}
		r, err := a.Latest()
		findings := a.Check()
		if err != nil && len(findings) == 0 {
			t.Fatalf("no record and no finding: %v", err)
		}
		if p, stateErr := a.State(); stateErr == nil && (err != nil || r.Status != StatusSaved || uint64(len(p)) != r.StateLength) {
			t.Fatalf("a state of %d bytes without a saved record: %+v", len(p), r)
		}
		if _, err := a.Launch(); err == nil && r.Launch.Index < 0 {
			t.Fatal("a launch record that nothing names")
		}
		if _, err := a.MarkStopped("whatever it was"); err != nil {
			t.Fatalf("an area that opens must take a mark: %v", err)
		}
		if r, err := a.Latest(); err != nil || r.Status != StatusStopped {
			t.Fatalf("after the mark: %+v, %v", r, err)
		}
	})
}
