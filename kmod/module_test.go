package kmod_test

import (
	"bytes"
	"os"
	"testing"

	"github.com/nv-hypervisor/nv-hypervisor/lab/kernel"
)

// All checks, on both kernels. One machine delivers external NMIs to its first CPU, as Linux sets up every PC; the other
// to both at once, as some firmware and hypervisors do.
func TestModule(t *testing.T) {
	for series, parameters := range map[kernel.Series]string{
		kernel.V6_1:  "check.groups=load,read,ioctl,nmi,park,unload check.reasons=unknown check.nmi_cpus=2 apic_extnmi=all",
		kernel.V6_12: "check.groups=load,read,ioctl,nmi,park,unload check.reasons=unknown,io_check,serr check.nmi_cpus=1",
	} {
		t.Run(string(series), func(t *testing.T) {
			if m := run(t, series, parameters); m.checks != 36 {
				t.Errorf("%d checks held: want 36", m.checks)
			}
		})
	}
}

// QEMU's machines never raise SERR# or IOCHK#. A debug console laid over port 0x61 shows the bit as asserted, for ever, so an
// injected NMI is taken for one, and keeps what is written to the port.
func TestModuleOnLatchedLines(t *testing.T) {
	for _, line := range []struct {
		reason   string
		readback string // the source's status, and bit 5 set, or the kernel waits for the timer at boot
		disable  byte
	}{
		{"serr", "0xa0", 0x04},
		{"io_check", "0x60", 0x08},
	} {
		t.Run(line.reason, func(t *testing.T) {
			port := ""
			m := run(t, kernel.V6_1, "check.groups=latch check.nmi_cpus=1 check.reasons="+line.reason, func(dir string) []string {
				port = dir + "/port"
				return []string{"-chardev", "file,id=port,path=" + port, "-device", "isa-debugcon,iobase=0x61,chardev=port,readback=" + line.readback}
			})
			written, err := os.ReadFile(port)
			if err != nil {
				t.Fatal(err)
			}
			// Enabled when armed; reset, and as the line is still asserted, left disabled.
			if want := []byte{0, line.disable, 0, line.disable}; !bytes.HasSuffix(written, want) {
				t.Errorf("the port saw % x: want % x at the end", written, want)
			}
			if m.checks != 3 {
				t.Errorf("%d checks: want 3", m.checks)
			}
		})
	}
}
