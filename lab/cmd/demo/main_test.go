package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/nv-hypervisor/nv-hypervisor/lab/guest"
	"github.com/nv-hypervisor/nv-hypervisor/lab/guest/journal"
)

// The demo as make demo runs it. It verifies its own claims; here it must also make them.
func TestDemo(t *testing.T) {
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", bin+"/", "../../../cmd/nvh", "../../../cmd/nvhd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var out bytes.Buffer
	err := run(t.Context(), bin, &out)
	t.Log(out.String())
	if err != nil {
		t.Fatal(err)
	}
	for _, claim := range []string{"SIGPWR", "kill -9", "committed", "continued", "lost everything", "paper, 2014", "Verified"} {
		if !strings.Contains(out.String(), claim) {
			t.Errorf("the demo does not say %q", claim)
		}
	}
	if strings.Contains(out.String(), " NO\n") {
		t.Error("a line of the comparison is not as it must be")
	}
}

// Each line of the comparison can fail it.
func TestComparisonFails(t *testing.T) {
	good := func() (p, v side) {
		p.last = guest.Tick{Count: 7, BootID: "a", SumOK: true, MemoryMiB: 64}
		p.next, p.now = p.last, p.last
		p.next.Count, p.now.Count = 8, 20
		v.last = guest.Tick{Count: 7, BootID: "b", SumOK: true, MemoryMiB: 64}
		v.next = guest.Tick{Count: 1, BootID: "c", SumOK: true, MemoryMiB: 64}
		v.now = v.next
		p.disk.Boots = []journal.Boot{{ID: "a"}}
		return p, v
	}
	p, v := good()
	if err := wrong(compareSides(p, v)); err != nil {
		t.Fatalf("a run that is as it must be: %v", err)
	}
	for what, spoil := range map[string]func(p, v *side){
		"lost counts":             func(p, _ *side) { p.next.Count++ },
		"booted anew":             func(p, _ *side) { p.next.BootID = "d" },
		"memory":                  func(p, _ *side) { p.now.SumOK = false },
		"too little memory":       func(p, _ *side) { p.now.MemoryMiB = 32 },
		"a tick was wrong":        func(p, _ *side) { p.intact = errors.New("gap") },
		"disk damaged":            func(p, _ *side) { p.diskErr = errors.New("hole") },
		"record lost":             func(p, _ *side) { p.now.Records = 2 },
		"volatile guest went on":  func(_, v *side) { v.next.BootID = v.last.BootID },
		"volatile counts went on": func(_, v *side) { v.next.Count = 8 },
	} {
		p, v := good()
		spoil(&p, &v)
		if wrong(compareSides(p, v)) == nil {
			t.Errorf("%s: the comparison found nothing wrong", what)
		}
	}
}
