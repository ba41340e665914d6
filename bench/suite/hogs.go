package suite

import (
	"fmt"
	"os/exec"
	"runtime"
	"syscall"
)

// hogCount is how many processes compete for the CPUs.
const hogCount = 4

// hogs are processes at ordinary priority that compute without end. They die with
// this program, however it ends.
type hogs struct {
	pids []int
	quit chan struct{}
	done chan struct{}
}

func startHogs() (*hogs, error) {
	h := &hogs{quit: make(chan struct{}), done: make(chan struct{})}
	started := make(chan error)
	go h.run(started)
	return h, <-started
}

// run stays on one thread, because a parent's death, in the kernel's sense, is that of the thread.
func (h *hogs) run(started chan<- error) {
	runtime.LockOSThread()
	defer close(h.done)
	var running []*exec.Cmd
	defer func() {
		for _, cmd := range running {
			cmd.Process.Kill()
			cmd.Wait()
		}
	}()
	for range hogCount {
		cmd := exec.Command("/bin/sh", "-c", "while :; do :; done")
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			started <- fmt.Errorf("start a CPU hog: %w", err)
			return
		}
		running = append(running, cmd)
		h.pids = append(h.pids, cmd.Process.Pid)
	}
	started <- nil
	<-h.quit
}

// stop ends them and waits for that.
func (h *hogs) stop() {
	close(h.quit)
	<-h.done
}
