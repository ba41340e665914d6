package abi_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"

	"github.com/nv-hypervisor/nv-hypervisor/kmod/abi"
)

// ours says of each C expression over the header what it is in Go.
var ours = []struct {
	c    string
	inGo uint64
}{
	{"NVH_POD_ABI", abi.Version},
	{"NVH_POD_RING", abi.RingSize},
	{"NVH_POD_OUTAGE", abi.Outage},
	{"NVH_POD_POWER_BACK", abi.PowerBack},
	{"NVH_POD_SELF_TEST", abi.SelfTest},
	{"NVH_POD_REASON_NONE", abi.ReasonNone},
	{"NVH_POD_REASON_UNKNOWN", abi.ReasonUnknown},
	{"NVH_POD_REASON_IO_CHECK", abi.ReasonIOCheck},
	{"NVH_POD_REASON_SERR", abi.ReasonSERR},
	{"NVH_POD_PARK_TIMEOUT", abi.ParkTimeout},
	{"NVH_POD_PARK_POWER_BACK", abi.ParkPowerBack},
	{"NVH_POD_PARK_MAX_NS", abi.ParkMaxNS},
	{"NVH_POD_IOC_VERSION", abi.IoctlVersion},
	{"NVH_POD_IOC_STATS", abi.IoctlStats},
	{"NVH_POD_IOC_FLUSH", abi.IoctlFlush},
	{"NVH_POD_IOC_PARK", abi.IoctlPark},
	{"NVH_POD_IOC_SELF_TEST", abi.IoctlSelfTest},

	{"sizeof(struct nvh_pod_event)", uint64(unsafe.Sizeof(abi.Event{}))},
	{"sizeof(struct nvh_pod_event)", abi.EventSize},
	{"offsetof(struct nvh_pod_event, sequence)", uint64(unsafe.Offsetof(abi.Event{}.Sequence))},
	{"offsetof(struct nvh_pod_event, time_ns)", uint64(unsafe.Offsetof(abi.Event{}.TimeNS))},
	{"offsetof(struct nvh_pod_event, kind)", uint64(unsafe.Offsetof(abi.Event{}.Kind))},
	{"offsetof(struct nvh_pod_event, reason)", uint64(unsafe.Offsetof(abi.Event{}.Reason))},
	{"offsetof(struct nvh_pod_event, lost)", uint64(unsafe.Offsetof(abi.Event{}.Lost))},

	{"sizeof(struct nvh_pod_park)", uint64(unsafe.Sizeof(abi.Park{}))},
	{"offsetof(struct nvh_pod_park, timeout_ns)", uint64(unsafe.Offsetof(abi.Park{}.TimeoutNS))},
	{"offsetof(struct nvh_pod_park, parked_ns)", uint64(unsafe.Offsetof(abi.Park{}.ParkedNS))},
	{"offsetof(struct nvh_pod_park, outcome)", uint64(unsafe.Offsetof(abi.Park{}.Outcome))},
	{"offsetof(struct nvh_pod_park, reserved)", uint64(unsafe.Offsetof(abi.Park{}.Reserved))},

	{"sizeof(struct nvh_pod_stats)", uint64(unsafe.Sizeof(abi.Stats{}))},
	{"offsetof(struct nvh_pod_stats, events)", uint64(unsafe.Offsetof(abi.Stats{}.Events))},
	{"offsetof(struct nvh_pod_stats, self_tests)", uint64(unsafe.Offsetof(abi.Stats{}.SelfTests))},
	{"offsetof(struct nvh_pod_stats, spurious)", uint64(unsafe.Offsetof(abi.Stats{}.Spurious))},
	{"offsetof(struct nvh_pod_stats, passed_on)", uint64(unsafe.Offsetof(abi.Stats{}.PassedOn))},
	{"offsetof(struct nvh_pod_stats, wakeup_last_ns)", uint64(unsafe.Offsetof(abi.Stats{}.WakeupLastNS))},
	{"offsetof(struct nvh_pod_stats, wakeup_max_ns)", uint64(unsafe.Offsetof(abi.Stats{}.WakeupMaxNS))},
	{"offsetof(struct nvh_pod_stats, read_last_ns)", uint64(unsafe.Offsetof(abi.Stats{}.ReadLastNS))},
	{"offsetof(struct nvh_pod_stats, read_max_ns)", uint64(unsafe.Offsetof(abi.Stats{}.ReadMaxNS))},
}

// The header, as a user's C compiler sees it, is the judge: strict C99, all warnings, no kernel around.
func TestGoAgreesWithTheHeader(t *testing.T) {
	var program, want strings.Builder
	program.WriteString("#include <stddef.h>\n#include <stdio.h>\n#include \"nvh_pod.h\"\nint main(void)\n{\n")
	for _, o := range ours {
		fmt.Fprintf(&program, "\tprintf(\"%%s %%llu\\n\", %q, (unsigned long long)(%s));\n", o.c, o.c)
		fmt.Fprintf(&want, "%s %d\n", o.c, o.inGo)
	}
	program.WriteString("\treturn 0;\n}\n")
	dir := t.TempDir()
	source, binary := filepath.Join(dir, "print.c"), filepath.Join(dir, "print")
	if err := os.WriteFile(source, []byte(program.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	cc := exec.Command("gcc", "-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I../nvh_pod", "-o", binary, source)
	if out, err := cc.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	got, err := exec.Command(binary).Output()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.String(), string(got)); diff != "" {
		t.Errorf("Go (-) and C (+) differ:\n%s", diff)
	}
}

// Whoever adds to the header must think of this package: every name in it is compared above, or is the header's own.
func TestEveryNameOfTheHeaderIsCompared(t *testing.T) {
	header, err := os.ReadFile("../nvh_pod/nvh_pod.h")
	if err != nil {
		t.Fatal(err)
	}
	compared := map[string]bool{"NVH_POD_H": true, "NVH_POD_IOC_MAGIC": true}
	for _, o := range ours {
		compared[o.c] = true
	}
	names := 0
	for line := range bytes.Lines(header) {
		name, ok := bytes.CutPrefix(line, []byte("#define "))
		if !ok {
			continue
		}
		names++
		if n := string(bytes.Fields(name)[0]); !compared[n] {
			t.Errorf("%s is in the header and not compared", n)
		}
	}
	if names < 15 {
		t.Errorf("the header has %d definitions: is this the header?", names)
	}
}
