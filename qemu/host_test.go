package qemu

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
)

func TestKVMSaysWhyNot(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "kvm")
	if err := kvmAt(missing); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "load kvm_intel or kvm_amd") {
		t.Errorf("missing device: %v", err)
	}
	if err := kvmAt("/dev/null"); err == nil || !strings.Contains(err.Error(), "does not answer as KVM") {
		t.Errorf("other device: %v", err)
	}
}

// TestBecomeOrdinary needs the right to use real-time scheduling, as the daemon does.
func TestBecomeOrdinary(t *testing.T) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends here
		fifo := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}
		if err := unix.SchedSetAttr(0, &fifo, 0); err != nil {
			t.Errorf("become real-time: %v: run the tests as root, or with RLIMIT_RTPRIO of at least 1", err)
			return
		}
		if err := becomeOrdinary(); err != nil {
			t.Error(err)
		}
		attr, err := unix.SchedGetAttr(0, 0)
		if err != nil || attr.Policy != unix.SCHED_NORMAL || attr.Nice != 0 {
			t.Errorf("scheduling %+v (%v), want the default", attr, err)
		}
	}()
	<-done
}

func TestEnvironment(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "/run/notify")
	t.Setenv("LISTEN_FDS", "1")
	t.Setenv("NVH_TEST", "kept")
	env := strings.Join(environment(), "\n")
	if strings.Contains(env, "NOTIFY_SOCKET") || strings.Contains(env, "LISTEN_FDS") || !strings.Contains(env, "NVH_TEST=kept") {
		t.Errorf("environment:\n%s", env)
	}
}

func TestProcessStartTime(t *testing.T) {
	own, err := processStartTime(os.Getpid())
	if err != nil || own == 0 {
		t.Errorf("start time %d, %v", own, err)
	}
	if first, err := processStartTime(1); err != nil || first > own {
		t.Errorf("process 1 started at %d (%v), later than this one at %d", first, err, own)
	}
	if _, err := processStartTime(1 << 30); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no such process: %v", err)
	}
}

func TestSumBlocks(t *testing.T) {
	const table = `              Block Name    PSize              Offset               Used              Total
                     mem    2 MiB  0x0000000000000000 0x0000000010000000 0x0000000010000000
                 pc.bios    4 KiB  0x0000000010000000 0x0000000000040000 0x0000000000040000
   /rom@etc/table loader    4 KiB  0x0000000010280000 0x0000000000001000 0x0000000000010000
`
	got, err := sumBlocks(table)
	// 256 KiB and its page headers take five units of 64 KiB, the small block one.
	if want := 6 * 64 * nvram.KiB; err != nil || got != want {
		t.Errorf("sum %v (%v), want %v", got, err, want)
	}
	// Columns that newer versions append change nothing.
	if wide, err := sumBlocks(strings.ReplaceAll(table, "0000\n", "0000 0x00007f0000000000 rw\n")); err != nil || wide != got {
		t.Errorf("sum with more columns %v (%v)", wide, err)
	}
	for _, bad := range []string{"", "garbage\n", strings.ReplaceAll(table, "mem ", "ram ")} {
		if _, err := sumBlocks(bad); err == nil {
			t.Errorf("table %q is accepted", bad)
		}
	}
}

func TestIdentifyCPU(t *testing.T) {
	const cpuinfo = "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 1\nmodel name\t: EPYC\nstepping\t: 1\ncpu MHz\t: 2.0\n\n" +
		"processor\t: 1\nvendor_id\t: other\n"
	if got, want := identifyCPU(cpuinfo), "AuthenticAMD/25/1/EPYC/1"; got != want {
		t.Errorf("identity %q, want %q", got, want)
	}
}

func TestLastWords(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	old := "an earlier run\n"
	text := old + "2026-11-22T11:00:00.000000Z qemu-system-x86_64: one\n" +
		"qemu-system-x86_64: warning: TCG doesn't support requested feature: CPUID\n" + strings.Repeat("more\n", 5) + "\nlast\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	mark := logMark{path: path, start: int64(len(old))}
	if got, want := mark.lastWords(), "more; more; more; more; more; last"; got != want {
		t.Errorf("last words %q, want %q", got, want)
	}
	if err := os.WriteFile(path, []byte(old+"qemu-system-x86_64: one\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := mark.lastWords(); got != "one" {
		t.Errorf("last words %q", got)
	}
}
