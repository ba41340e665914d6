package lab

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// outer is the outer QEMU of a host that is on. The start time tells it from a later process with the same id.
type outer struct {
	PID   int
	Start string // in clock ticks since this machine's boot, field 22 of /proc/PID/stat
}

// running finds the outer QEMU; nil when the power is off.
func (h *Host) running() (*outer, error) {
	content, err := os.ReadFile(h.path(pidFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var o outer
	if err := json.Unmarshal(content, &o); err != nil {
		return nil, fmt.Errorf("%s: %w", h.path(pidFile), err)
	}
	if start, alive := startTime(o.PID); !alive || start != o.Start {
		return nil, nil
	}
	return &o, nil
}

// startTime tells when a process started, and whether it still runs; a zombie does not.
func startTime(pid int) (string, bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", false
	}
	const state, start = 3, 22
	if s := statField(stat, state); s == "" || s == "Z" || s == "X" {
		return "", false
	}
	return statField(stat, start), true
}

// statField is a field of /proc/PID/stat, counted as in proc(5), from the third on. The second is the command in
// parentheses and may hold anything.
func statField(stat []byte, n int) string {
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) <= n-3 {
		return ""
	}
	return fields[n-3]
}

// On tells whether the host has power.
func (h *Host) On() bool {
	o, err := h.running()
	return err == nil && o != nil
}

// spawn starts the outer QEMU in the host's folder, on its own unless the host is tied to this process.
func (h *Host) spawn() error {
	log, err := os.OpenFile(h.path(QEMULog), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(h.config.QEMU, h.args()...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = h.folder, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	started := make(chan error, 1)
	go func() {
		if h.tied {
			// The kernel sends the signal when the thread that started the child ends, so this one stays.
			runtime.LockOSThread()
			cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
		}
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is in its log; a cut ends it by a signal
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start the outer QEMU: %w", err)
	}
	o := outer{PID: cmd.Process.Pid}
	o.Start, _ = startTime(o.PID) // one that has ended already is found so by whoever waits for the boot
	content, err := json.Marshal(o)
	if err == nil {
		err = os.WriteFile(h.path(pidFile), content, 0o644)
	}
	if err != nil {
		return errors.Join(err, cmd.Process.Kill())
	}
	return nil
}

// dieLimit bounds how long a process that was killed may take to give its memory back.
const dieLimit = 30 * time.Second

// Cut is the power cut: everything in DRAM is lost, at once and without warning. A host that is off stays off.
func (h *Host) Cut() error {
	o, err := h.running()
	if err != nil || o == nil {
		return err
	}
	pidfd, err := unix.PidfdOpen(o.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cut the power: %w", err)
	}
	defer unix.Close(pidfd)
	if err := unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("cut the power: %w", err)
	}
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(dieLimit.Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("cut the power: %w", err)
		case n == 0:
			return fmt.Errorf("cut the power: QEMU %d does not die", o.PID)
		}
		return nil
	}
}
