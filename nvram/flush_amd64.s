#include "textflag.h"

// Each of the flush functions walks the cache lines that [p, p+n) touches.

// func flushCLWB(p unsafe.Pointer, n uintptr)
TEXT ·flushCLWB(SB), NOSPLIT, $0-16
	MOVQ p+0(FP), DI
	MOVQ n+8(FP), SI
	ADDQ DI, SI
	ANDQ $~63, DI
clwb:
	CMPQ DI, SI
	JAE  done
	CLWB (DI)
	ADDQ $64, DI
	JMP  clwb
done:
	RET

// func flushCLFLUSHOPT(p unsafe.Pointer, n uintptr)
TEXT ·flushCLFLUSHOPT(SB), NOSPLIT, $0-16
	MOVQ p+0(FP), DI
	MOVQ n+8(FP), SI
	ADDQ DI, SI
	ANDQ $~63, DI
clflushopt:
	CMPQ DI, SI
	JAE  done
	CLFLUSHOPT (DI)
	ADDQ $64, DI
	JMP  clflushopt
done:
	RET

// func flushCLFLUSH(p unsafe.Pointer, n uintptr)
TEXT ·flushCLFLUSH(SB), NOSPLIT, $0-16
	MOVQ p+0(FP), DI
	MOVQ n+8(FP), SI
	ADDQ DI, SI
	ANDQ $~63, DI
clflush:
	CMPQ DI, SI
	JAE  done
	CLFLUSH (DI)
	ADDQ $64, DI
	JMP  clflush
done:
	RET

// func copyNonTemporal(dst, src unsafe.Pointer, n uintptr)
TEXT ·copyNonTemporal(SB), NOSPLIT, $0-24
	MOVQ dst+0(FP), DI
	MOVQ src+8(FP), SI
	MOVQ n+16(FP), CX
	ADDQ DI, CX
line:
	CMPQ DI, CX
	JAE  done
	MOVOU (SI), X0
	MOVOU 16(SI), X1
	MOVOU 32(SI), X2
	MOVOU 48(SI), X3
	MOVNTO X0, (DI)
	MOVNTO X1, 16(DI)
	MOVNTO X2, 32(DI)
	MOVNTO X3, 48(DI)
	ADDQ $64, SI
	ADDQ $64, DI
	JMP  line
done:
	RET

// func storeFence()
TEXT ·storeFence(SB), NOSPLIT, $0-0
	SFENCE
	RET

// func cpuid(leaf, subleaf uint32) (a, b, c, d uint32)
TEXT ·cpuid(SB), NOSPLIT, $0-24
	MOVL leaf+0(FP), AX
	MOVL subleaf+4(FP), CX
	CPUID
	MOVL AX, a+8(FP)
	MOVL BX, b+12(FP)
	MOVL CX, c+16(FP)
	MOVL DX, d+20(FP)
	RET
