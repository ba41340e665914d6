package emulator_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/nv-hypervisor/nv-hypervisor/lab/debian"
	"github.com/nv-hypervisor/nv-hypervisor/lab/emulator"
)

func all(t *testing.T) []emulator.Emulator {
	t.Helper()
	cache, err := debian.DefaultCache()
	if err != nil {
		t.Fatal(err)
	}
	found, err := emulator.All(t.Context(), cache)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestBothVersionsAreThere(t *testing.T) {
	found := all(t)
	if len(found) != 2 || !strings.HasPrefix(found[0].Version, "7.2.") || !strings.HasPrefix(found[1].Version, "10.") {
		t.Errorf("found %+v, want 7.2 and 10", found)
	}
}

// The versioned machine type must exist and firmware and option ROMs must be found.
func TestEachStartsItsOwnMachine(t *testing.T) {
	for _, e := range all(t) {
		t.Run(e.Version, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), e.Path, "-machine", e.Machine, "-display", "none", "-monitor", "stdio",
				"-serial", "none", "-device", "virtio-net-pci")
			cmd.Stdin = strings.NewReader("info version\nquit\n")
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if !strings.Contains(string(out), e.Version) {
				t.Errorf("the monitor does not say %s:\n%s", e.Version, out)
			}
		})
	}
}

func TestLauncherKeepsItsProcessID(t *testing.T) {
	e := all(t)[1]
	pidFile := filepath.Join(t.TempDir(), "pid")
	cmd := exec.CommandContext(t.Context(), e.Path, "-machine", "none", "-S", "-display", "none", "-monitor", "stdio", "-pidfile", pidFile)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil { // the monitor's greeting comes after the pid file
		t.Error(err)
	}
	written, err := os.ReadFile(pidFile)
	if err != nil {
		t.Error(err)
	} else if pid := strings.TrimSpace(string(written)); pid != strconv.Itoa(cmd.Process.Pid) {
		t.Errorf("QEMU runs as %s, started was %d", pid, cmd.Process.Pid)
	}
	if _, err := in.Write([]byte("quit\n")); err != nil {
		t.Error(err)
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
