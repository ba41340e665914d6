package gpio

import (
	"encoding/binary"
	"unsafe"
)

// level is what is known of the line.
type level uint8

const (
	unchanged level = iota
	inactive
	active
)

var native = binary.NativeEndian

// decode takes edges as the kernel wrote them and returns how the line stands after them, and since when, in ns of
// CLOCK_MONOTONIC or 0 if that is not known. Several edges of one kind in a row, as after lost ones, are the
// first. It allocates nothing.
func (l *line) decode(p []byte) (now level, sinceNS int64) {
	lost := false
	for ; len(p) >= eventSize; p = p[eventSize:] {
		number := native.Uint32(p[unsafe.Offsetof(lineEvent{}.seqno):])
		lost = lost || number != l.seqno+1
		l.seqno = number
		next := unchanged
		switch native.Uint32(p[unsafe.Offsetof(lineEvent{}.id):]) {
		case edgeRising:
			next = active
		case edgeFalling:
			next = inactive
		}
		if next != unchanged && next != now {
			now, sinceNS = next, int64(native.Uint64(p[unsafe.Offsetof(lineEvent{}.timestampNS):]))
		}
	}
	if !lost {
		return now, sinceNS
	}
	return l.read(now, sinceNS)
}

// read asks the line itself, which may contradict the edges. If it cannot be read, they stand.
func (l *line) read(told level, sinceNS int64) (now level, _ int64) {
	on, err := l.active()
	switch {
	case err != nil:
		return told, sinceNS
	case on:
		now = active
	default:
		now = inactive
	}
	if now != told {
		sinceNS = 0
	}
	return now, sinceNS
}
