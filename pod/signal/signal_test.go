package signal

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/pod"
	"github.com/nv-hypervisor/nv-hypervisor/vm/saver"
)

var _ pod.Source = (*Source)(nil)

// childEnv makes the test binary a daemon that watches this signal.
const childEnv = "NVH_SIGNAL_CHILD"

func TestMain(m *testing.M) {
	name := os.Getenv(childEnv)
	if name == "" {
		os.Exit(m.Run())
	}
	if err := child(name); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
}

func child(name string) error {
	sig, err := Parse(name)
	if err != nil {
		return err
	}
	if err := Block(sig); err != nil {
		return err
	}
	for range 3 * runtime.NumCPU() { // threads that start later inherit the mask
		go func() {
			runtime.LockOSThread()
			select {}
		}()
	}
	input := bufio.NewReader(os.Stdin)
	fmt.Println("blocked", os.Getpid(), strings.Join(os.Args[1:], " "))
	input.ReadString('\n')
	s, err := Open(sig)
	if err != nil {
		return err
	}
	defer s.Close()
	fmt.Println("open", s.Name(), unblocked(sig))
	buffer := make([]byte, 4096)
	for range 3 {
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(s.FD()), Events: unix.POLLIN}}, 20_000); err != nil {
			return err
		}
		n, err := unix.Read(s.FD(), buffer)
		if err != nil {
			return err
		}
		event, at := s.Decode(buffer[:n])
		fmt.Println("event", event == saver.Outage, at)
	}
	return nil
}

// unblocked counts the threads of this process in which the signal is not blocked.
func unblocked(sig unix.Signal) (n int) {
	files, _ := filepath.Glob("/proc/self/task/*/status")
	for _, file := range files {
		status, err := os.ReadFile(file)
		if err != nil {
			continue // ended meanwhile
		}
		_, mask, _ := strings.Cut(string(status), "SigBlk:\t")
		bits, err := strconv.ParseUint(mask[:16], 16, 64)
		if err != nil || bits&(1<<(sig-1)) == 0 {
			n++
		}
	}
	return n
}

// A daemon is woken by its signal, be it sent before it listens, and by no means killed by it.
func TestSignal(t *testing.T) {
	for _, sig := range allowed {
		t.Run(unix.SignalName(sig), func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "one", "two words")
			cmd.Env = append(os.Environ(), childEnv+"="+unix.SignalName(sig))
			cmd.Stderr = os.Stderr
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
			watchdog := time.AfterFunc(30*time.Second, func() { cmd.Process.Kill() })
			defer watchdog.Stop()
			lines := bufio.NewScanner(out)
			expect := func(want string) {
				t.Helper()
				if !lines.Scan() || lines.Text() != want {
					t.Fatalf("%q, want %q", lines.Text(), want)
				}
			}
			send := func() {
				t.Helper()
				if err := cmd.Process.Signal(sig); err != nil {
					t.Fatal(err)
				}
			}
			expect(fmt.Sprintf("blocked %d one two words", cmd.Process.Pid)) // executed again, with all it had
			send()
			io.WriteString(in, "\n")
			expect(fmt.Sprintf("open signal %s 0", unix.SignalName(sig)))
			expect("event true 0") // the one that waited
			for range 2 {
				send()
				expect("event true 0")
			}
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestParse(t *testing.T) {
	for name, want := range map[string]unix.Signal{
		"SIGPWR": unix.SIGPWR, "pwr": unix.SIGPWR, "sigusr1": unix.SIGUSR1, "USR2": unix.SIGUSR2,
	} {
		if got, err := Parse(name); err != nil || got != want {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	// Go's runtime, the shell or QEMU need the others, or nobody can block them.
	for _, name := range []string{"", "SIG", "SIGTERM", "SIGKILL", "SIGHUP", "SIGURG", "SIGCHLD", "30", "SIGPWR ", "SIGSIGPWR"} {
		if got, err := Parse(name); err == nil || !strings.Contains(err.Error(), "use SIGPWR") {
			t.Errorf("%q: %v, %v", name, got, err)
		}
	}
}

// A signal that is not blocked would kill the daemon: Open refuses it.
func TestOpenNeedsBlock(t *testing.T) {
	if s, err := Open(unix.SIGUSR2); err == nil || !strings.Contains(err.Error(), "call Block first") {
		t.Errorf("%v, %v", s, err)
	}
}

// A read that is cut short announces nothing.
func TestDecodeShort(t *testing.T) {
	s := &Source{}
	for _, n := range []int{0, 1, 127} {
		if event, _ := s.Decode(make([]byte, n)); event != saver.None {
			t.Errorf("%d bytes announce %v", n, event)
		}
	}
	if event, _ := s.Decode(make([]byte, 3*128)); event != saver.Outage {
		t.Error("three signals announce nothing")
	}
	if n := testing.AllocsPerRun(100, func() { s.Decode(make([]byte, 0)) }); n != 0 {
		t.Errorf("allocates %v times", n)
	}
}
