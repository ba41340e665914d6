package guest_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/lab/debian"
	"github.com/nv-hypervisor/nv-hypervisor/lab/emulator"
	"github.com/nv-hypervisor/nv-hypervisor/lab/guest"
)

// patience is how long a guest may take for anything; under binary translation on a busy machine a boot takes some seconds.
const patience = 90 * time.Second

const ramSize = 256 << 20

// machine is a running guest of a test. Its RAM is a file, as that of a persistent VM.
type machine struct {
	t     *testing.T
	cmd   *exec.Cmd
	dir   string
	disk  string
	in    io.WriteCloser
	lines chan string // closed when the console ends
	seen  []string
}

type options struct {
	cpus    int // default 1
	disk    string
	append  string
	restart bool // let the guest reboot; otherwise a reboot ends QEMU
}

func emulators(t *testing.T) []emulator.Emulator {
	t.Helper()
	found, err := emulator.All(t.Context(), cacheDir(t))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func cacheDir(t *testing.T) string {
	t.Helper()
	cache, err := debian.DefaultCache()
	if err != nil {
		t.Fatal(err)
	}
	return cache
}

func blankDisk(t *testing.T, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

func start(t *testing.T, e emulator.Emulator, o options) *machine {
	t.Helper()
	image, err := guest.Build(t.Context(), cacheDir(t))
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, dir: t.TempDir(), disk: o.disk, lines: make(chan string, 1000)}
	args := []string{
		"-machine", e.Machine + ",memory-backend=mem", "-accel", "tcg,thread=multi", "-m", "256M", "-nodefaults", "-display", "none",
		"-object", fmt.Sprintf("memory-backend-file,id=mem,mem-path=%s,size=%d,share=on", m.ram(), ramSize),
		"-smp", fmt.Sprint(max(o.cpus, 1)), "-serial", "stdio", "-monitor", "unix:" + m.monitor() + ",server=on,wait=off",
		"-kernel", image.Kernel, "-initrd", image.Initrd, "-append", image.Cmdline + " " + o.append,
	}
	if o.disk != "" {
		args = append(args, "-drive", "if=virtio,format=raw,file="+o.disk)
	}
	if !o.restart {
		args = append(args, "-no-reboot")
	}
	m.cmd = exec.Command(e.Path, args...)
	m.cmd.Stderr = os.Stderr
	if m.in, err = m.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(m.lines)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			m.lines <- strings.TrimRight(lines.Text(), "\r")
		}
	}()
	t.Cleanup(m.kill)
	return m
}

func (m *machine) ram() string     { return filepath.Join(m.dir, "ram") }
func (m *machine) monitor() string { return filepath.Join(m.dir, "monitor") }

// kill is the power cut of one machine. It waits until QEMU and the console reader are gone.
func (m *machine) kill() {
	if m.cmd.ProcessState != nil {
		return
	}
	if err := m.cmd.Process.Kill(); err != nil {
		m.t.Error(err)
	}
	for line := range m.lines {
		m.seen = append(m.seen, line)
	}
	if err := m.cmd.Wait(); err == nil {
		m.t.Error("QEMU ended by itself before it was killed")
	}
	if m.t.Failed() {
		m.t.Logf("command: %s\nconsole:\n%s", strings.Join(m.cmd.Args, " "), strings.Join(m.seen, "\n"))
	}
}

// line waits for the next console line that want accepts.
func (m *machine) line(what string, want func(string) bool) string {
	m.t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case line, open := <-m.lines:
			if !open {
				m.t.Fatalf("the console ended before %s", what)
			}
			m.seen = append(m.seen, line)
			if want(line) {
				return line
			}
		case <-deadline:
			m.t.Fatalf("%s did not come", what)
		}
	}
}

func (m *machine) containing(text string) string {
	m.t.Helper()
	return m.line("a line with "+text, func(line string) bool { return strings.Contains(line, text) })
}

func (m *machine) tick() guest.Tick {
	m.t.Helper()
	var tick guest.Tick
	m.line("a tick", func(line string) (ok bool) {
		tick, ok = guest.ParseLine(line)
		return ok
	})
	return tick
}

func (m *machine) say(command string) {
	m.t.Helper()
	if _, err := io.WriteString(m.in, command+"\n"); err != nil {
		m.t.Fatal(err)
	}
}

// exited waits until QEMU has ended by itself and reports how.
func (m *machine) exited() error {
	m.t.Helper()
	timer := time.AfterFunc(patience, func() { m.cmd.Process.Kill() })
	defer timer.Stop()
	for line := range m.lines {
		m.seen = append(m.seen, line)
	}
	return m.cmd.Wait()
}

func (m *machine) hmp(command string) {
	m.t.Helper()
	conn, err := net.Dial("unix", m.monitor())
	if err != nil {
		m.t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		m.t.Fatal(err)
	}
	if _, err := io.WriteString(conn, command+"\n"); err != nil {
		m.t.Fatal(err)
	}
	// The prompt comes back after the command has run.
	reader := bufio.NewReader(conn)
	for range 2 {
		if _, err := reader.ReadString(')'); err != nil {
			m.t.Fatal(err)
		}
	}
}
