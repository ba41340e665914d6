package qemu

import "errors"

// The frame of a migration stream, from QEMU's migration/savevm.c: it begins
// with QEMU_VM_FILE_MAGIC and QEMU_VM_FILE_VERSION, big endian, and, because we
// set the machine property suppress-vmdesc, ends with the byte QEMU_VM_EOF.
const (
	streamHead = "QEVM\x00\x00\x00\x03"
	streamEOF  = 0x00
)

// Faults that CheckStream finds.
var (
	ErrStreamEmpty = errors.New("QEMU has written no state")
	ErrStreamHead  = errors.New("the state does not begin like a migration stream")
	ErrStreamEnd   = errors.New("the state does not end like a migration stream: it was cut short")
)

// CheckStream tells whether state has the frame of a whole migration stream. It
// finds a stream that was never written and most that were cut short; what lies
// between the ends is protected by the checksum of the save record. It does not
// allocate.
func CheckStream(state []byte) error {
	switch {
	case len(state) == 0:
		return ErrStreamEmpty
	case len(state) <= len(streamHead) || string(state[:len(streamHead)]) != streamHead:
		return ErrStreamHead
	case state[len(state)-1] != streamEOF:
		return ErrStreamEnd
	}
	return nil
}
