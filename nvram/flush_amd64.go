package nvram

import "unsafe"

// The instructions are described in Intel's Software Developer's Manual, volume 2: CLWB, CLFLUSHOPT, CLFLUSH, MOVNTDQ, SFENCE.

//go:noescape
func flushCLWB(p unsafe.Pointer, n uintptr)

//go:noescape
func flushCLFLUSHOPT(p unsafe.Pointer, n uintptr)

//go:noescape
func flushCLFLUSH(p unsafe.Pointer, n uintptr)

// copyNonTemporal copies n bytes past the caches. Dst starts on a cache line and n is a multiple of one.
//
//go:noescape
func copyNonTemporal(dst, src unsafe.Pointer, n uintptr)

func storeFence()

func cpuid(leaf, subleaf uint32) (a, b, c, d uint32)

// Bits of CPUID leaf 7, register EBX.
const (
	cpuidCLFLUSHOPT = 1 << 23
	cpuidCLWB       = 1 << 24
)

var lineFlush, lineFlushName = chooseLineFlush()

// chooseLineFlush prefers CLWB, which keeps the line in the cache, to CLFLUSHOPT, which drops it, to CLFLUSH, which also
// waits for the one before. Every amd64 processor has the last.
func chooseLineFlush() (func(unsafe.Pointer, uintptr), string) {
	if highest, _, _, _ := cpuid(0, 0); highest >= 7 {
		_, features, _, _ := cpuid(7, 0)
		if features&cpuidCLWB != 0 {
			return flushCLWB, "clwb"
		}
		if features&cpuidCLFLUSHOPT != 0 {
			return flushCLFLUSHOPT, "clflushopt"
		}
	}
	return flushCLFLUSH, "clflush"
}

// littleEndian is the value that, stored natively, lies in memory as v in little endian.
func littleEndian(v uint64) uint64 { return v }
