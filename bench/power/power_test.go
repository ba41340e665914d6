package power

import (
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/vm/saver"
)

func sleeper(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd
}

func killedBy(cmd *exec.Cmd) syscall.Signal {
	cmd.Wait()
	return cmd.ProcessState.Sys().(syscall.WaitStatus).Signal()
}

// Everything is killed, not before its time, and the time is told.
func TestCut(t *testing.T) {
	daemon, first, second := sleeper(t), sleeper(t), sleeper(t)
	const after = 20 * time.Millisecond
	begin := time.Now()
	at, err := Cut(daemon.Process.Pid, []int{first.Process.Pid, second.Process.Pid}, false, after)
	took := time.Since(begin)
	if err != nil {
		t.Fatal(err)
	}
	if at < after || at > took {
		t.Errorf("cut %v after the event, asked for %v, all took %v", at, after, took)
	}
	for _, cmd := range []*exec.Cmd{daemon, first, second} {
		if sig := killedBy(cmd); sig != syscall.SIGKILL {
			t.Errorf("process %d ended by %v", cmd.Process.Pid, sig)
		}
	}
}

// The announcement comes first: a process without a handler dies of it.
func TestCutAnnounced(t *testing.T) {
	daemon := sleeper(t)
	if _, err := Cut(daemon.Process.Pid, nil, true, 50*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if sig := killedBy(daemon); sig != syscall.SIGPWR {
		t.Errorf("ended by %v, want SIGPWR", sig)
	}
}

// A process that has gone already is no failure; one that cannot be told is.
func TestGone(t *testing.T) {
	gone := sleeper(t)
	gone.Process.Kill()
	gone.Wait()
	if _, err := Cut(gone.Process.Pid, []int{gone.Process.Pid}, false, 0); err != nil {
		t.Error(err)
	}
	if _, err := Announce(gone.Process.Pid); err == nil || !strings.Contains(err.Error(), "announce") {
		t.Errorf("announcing to nobody: %v", err)
	}
}

func TestAnnounce(t *testing.T) {
	got := make(chan os.Signal, 1)
	signal.Notify(got, syscall.SIGPWR)
	defer signal.Stop(got)
	before := saver.Now()
	event, err := Announce(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	<-got
	if event < before || event > saver.Now() {
		t.Errorf("the event was at %d, called at %d", event, before)
	}
}
