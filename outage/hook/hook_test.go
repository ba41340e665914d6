package hook

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func shell(script string, limit time.Duration) Hook {
	return Hook{When: BeforeSave, Command: []string{"/bin/sh", "-c", script}, Limit: limit}
}

func TestRun(t *testing.T) {
	r := Run(t.Context(), shell(`echo "$NVH_CAUSE"; echo more >&2`, time.Minute), []string{"NVH_CAUSE=low battery"})
	if r.Err != nil || r.Output != "low battery\nmore" || r.End.Before(r.Start) {
		t.Errorf("%+v", r)
	}
	if r = Run(t.Context(), shell("echo no; exit 3", time.Minute), nil); r.Err == nil || r.Output != "no" || !strings.Contains(r.Err.Error(), "3") {
		t.Errorf("one that fails: %+v", r)
	}
	if r = Run(t.Context(), Hook{Command: []string{"/does/not/exist"}, Limit: time.Minute}, nil); r.Err == nil || r.End.IsZero() {
		t.Errorf("one that is not there: %+v", r)
	}
	if r = Run(t.Context(), shell("head -c 100000 /dev/zero | tr '\\0' x", time.Minute), nil); r.Err != nil || len(r.Output) != maxOutput {
		t.Errorf("a talkative one: %v, %d bytes", r.Err, len(r.Output))
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if r = Run(ended, shell("true", time.Minute), nil); r.Err == nil {
		t.Errorf("after the end: %+v", r)
	}
}

// At the end of its limit a hook is dead, and so is what it has started.
func TestLimit(t *testing.T) {
	pid := filepath.Join(t.TempDir(), "pid")
	r := Run(t.Context(), shell("sleep 1000 & echo $! >"+pid+"; trap '' TERM; wait", 200*time.Millisecond), nil)
	if r.Err == nil || !strings.Contains(r.Err.Error(), "limit of 200ms") || r.End.Sub(r.Start) > 20*time.Second {
		t.Fatalf("%+v", r)
	}
	content, err := os.ReadFile(pid)
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(content)))
	if err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(child) + "/stat")
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	syscall.Kill(child, syscall.SIGKILL)
	t.Error("its child lives on")
}

func TestCheck(t *testing.T) {
	good := shell("true", time.Second)
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for part, change := range map[string]func(*Hook){
		"when":     func(h *Hook) { h.When = "sometimes" },
		"command":  func(h *Hook) { h.Command = []string{"sh"} },
		"absolute": func(h *Hook) { h.Command = nil },
		"limit":    func(h *Hook) { h.Limit = 0 },
		"at most":  func(h *Hook) { h.Limit = MaxLimit + 1 },
	} {
		h := shell("true", time.Second)
		change(&h)
		if err := h.Check(); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: %v", part, err)
		}
	}
}
