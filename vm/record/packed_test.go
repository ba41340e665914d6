package record

import "github.com/nv-hypervisor/nv-hypervisor/nvram/nvramtest"

// segments are the parts of a region that the crash tests touch. Recording
// only these makes a crash state 70 times smaller than a region.
var segments = []struct{ at, size int }{
	{0, copyOffset + 2*copyDistance},
	{launchAt(0), 4 << 10},
	{launchAt(1), 4 << 10},
	{SlotOffset, testSlot},
	{SlotOffset + testSlot, testSlot},
}

// pack extracts the segments of a region.
func pack(region []byte) []byte {
	var packed []byte
	for _, s := range segments {
		packed = append(packed, region[s.at:][:s.size]...)
	}
	return packed
}

// unpack puts the segments into a region.
func unpack(region, packed []byte) {
	for _, s := range segments {
		copy(region[s.at:][:s.size], packed)
		packed = packed[s.size:]
	}
}

// recorded is a region whose segments are recorded.
type recorded struct {
	dram
	rec *nvramtest.Recorder
}

// newRecorded records on top of packed; region is the memory to show.
func newRecorded(region dram, packed []byte) *recorded {
	unpack(region, packed)
	return &recorded{region, nvramtest.NewRecorder(packed)}
}

// place translates an offset; what is not in one segment is a test gone astray.
func (m *recorded) place(off, n int) int {
	start := 0
	for _, s := range segments {
		if off >= s.at && off+n <= s.at+s.size {
			return start + off - s.at
		}
		start += s.size
	}
	panic("record: access outside of the recorded segments")
}

func (m *recorded) Store(off int, p []byte) {
	m.dram.Store(off, p)
	m.rec.Store(m.place(off, len(p)), p)
}

func (m *recorded) Store8(off int, v uint64) {
	m.dram.Store8(off, v)
	m.rec.Store8(m.place(off, 8), v)
}

func (m *recorded) Copy(off int, p []byte) {
	m.dram.Copy(off, p)
	m.rec.Copy(m.place(off, len(p)), p)
}

func (m *recorded) Flush(off, n int) { m.rec.Flush(m.place(off, n), n) }
func (m *recorded) Fence() error     { return m.rec.Fence() }
