// Package hook runs the commands that operators want before all is saved on battery, after it, and when the guests
// have gone on: to shut down what is not a VM, to tell somebody, to switch off a load.
//
// A hook gets a time limit and no more: at its end the command and all processes that it started in its group are
// killed, and Run returns. Whether it failed, took too long or could not be started at all is noted and changes nothing.
// So the hooks before a save delay it by the sum of their limits at most.
package hook

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// When is the moment of a hook.
type When string

// The moments.
const (
	BeforeSave When = "before-save" // the decision to save is made; the guests still run
	AfterSave  When = "after-save"  // all is saved that could be
	PowerBack  When = "power-back"  // the guests have gone on in place
)

// MaxLimit is the longest that a hook may take.
const MaxLimit = 5 * time.Minute

// Hook is one command.
type Hook struct {
	When    When
	Command []string // path and arguments; no shell
	Limit   time.Duration
}

// Check finds what cannot work.
func (h Hook) Check() error {
	switch h.When {
	case BeforeSave, AfterSave, PowerBack:
	default:
		return fmt.Errorf("when = %q: choose %s, %s or %s", h.When, BeforeSave, AfterSave, PowerBack)
	}
	switch {
	case len(h.Command) == 0 || !strings.HasPrefix(h.Command[0], "/"):
		return fmt.Errorf("command = %q: begin it with the absolute path of a program", h.Command)
	case h.Limit <= 0 || h.Limit > MaxLimit:
		return fmt.Errorf("limit = %q: choose more than 0s and at most %v", h.Limit, MaxLimit)
	}
	return nil
}

// maxOutput is how much of what a hook prints is kept.
const maxOutput = 4 << 10

// Result is how a hook went.
type Result struct {
	Start, End time.Time
	Output     string // its beginning
	Err        error  // nil if it ended by itself with status 0
}

// Run runs a hook to its end or that of its limit. env is added to the daemon's environment, as "NAME=value".
func Run(ctx context.Context, h Hook, env []string) Result {
	ctx, cancel := context.WithTimeout(ctx, h.Limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, h.Command[0], h.Command[1:]...)
	cmd.Env = append(cmd.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second // one that left the group may hold its output open
	var output head
	cmd.Stdout, cmd.Stderr = &output, &output
	r := Result{Start: time.Now()}
	r.Err = cmd.Run()
	r.End, r.Output = time.Now(), strings.TrimSpace(string(output.kept))
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		r.Err = fmt.Errorf("killed after its limit of %v", h.Limit)
	}
	return r
}

// head keeps the beginning of what is written.
type head struct{ kept []byte }

func (w *head) Write(p []byte) (int, error) {
	w.kept = append(w.kept, p[:min(len(p), maxOutput-len(w.kept))]...)
	return len(p), nil
}
