package lab

import (
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// A host that hangs is explained by where its CPUs are; here they have not taken their first step, from the reset vector.
func TestExplainLooksAtTheCPUs(t *testing.T) {
	h := stand(t, "qemu-system-x86_64", "-S", "-smp", "2", "-nodefaults", "-display", "none",
		"-chardev", "socket,id=m,path="+monitorSocket+",server=on,wait=off", "-mon", "chardev=m,mode=control")
	must(t, h.spawn())
	awaitFile(t, h.path(monitorSocket))
	must(t, os.WriteFile(h.path(ConsoleLog), []byte("watchdog: BUG: soft lockup\n"), 0o644))
	problem := errors.New("it takes too long")
	err := h.Explain(problem)
	if !errors.Is(err, problem) {
		t.Errorf("the error is lost: %v", err)
	}
	where := `its CPUs: CPU 0 at 0000fff0 level 0, CPU 1 at 0000fff0 level 0 halted; 500ms later CPU 0 at 0000fff0 level 0, CPU 1`
	for _, want := range []string{where, "BUG: soft lockup", h.path(commandFile)} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
}

// A monitor that does not speak is given up, and the rest is told all the same.
func TestExplainWithoutAnswer(t *testing.T) {
	h := stand(t, "sleep", "1000")
	must(t, h.spawn())
	err := h.Explain(errors.New("a step"))
	if !regexp.MustCompile(`its CPUs: not known: .*\n`).MatchString(err.Error()) {
		t.Errorf("says %v", err)
	}
}

func TestParseRegisters(t *testing.T) {
	const inGuest = "\nCPU#0\nRAX=0000000000000000 RBX=0000000000000000\n" +
		"RIP=ffffffff81e0a1b3 RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1\nES =0000 00\n" +
		"\nCPU#1\nRIP=00007f0000001234 RFL=00000202 [-------] CPL=3 II=0 A20=1 SMM=0 HLT=0\n"
	const want = "CPU 0 at ffffffff81e0a1b3 level 0 halted, CPU 1 at 00007f0000001234 level 3"
	if got := parseRegisters(inGuest); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := parseRegisters("unknown command"); got != "in an unknown state" {
		t.Errorf("got %q", got)
	}
}

func awaitFile(t *testing.T, path string) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(path); err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s does not appear", path)
		}
	}
}
