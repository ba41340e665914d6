//go:build !amd64

package nvram

import (
	"encoding/binary"
	"unsafe"
)

// Without flush instructions of its own a build has lineFlush nil, and every pool is persistent through msync, which is right
// on any processor and slower.

var (
	lineFlush     func(unsafe.Pointer, uintptr)
	lineFlushName = ""
)

// copyNonTemporal and storeFence complete lineMemory, of which such a build makes none.
func copyNonTemporal(dst, src unsafe.Pointer, n uintptr) {
	copy(unsafe.Slice((*byte)(dst), n), unsafe.Slice((*byte)(src), n))
}

func storeFence() {}

// littleEndian is the value that, stored natively, lies in memory as v in little endian.
func littleEndian(v uint64) uint64 {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], v)
	return binary.NativeEndian.Uint64(b[:])
}
