package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/lab/plan"
)

// The service, as a systemd unit would have it.
const (
	restartDelay = time.Second      // RestartSec=
	startLimit   = 60 * time.Second // TimeoutStartSec=
	oomScore     = -999             // OOMScoreAdjust=
	notifySocket = "/run/notify"    // Type=notify
)

// startDaemon starts nvhd and returns when it has said that it is ready. From then on it is started again whenever it ends.
func (h *host) startDaemon() error {
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notifySocket, Net: "unixgram"})
	if err != nil {
		return err
	}
	log, err := openLog()
	if err != nil {
		return err
	}
	cmd, err := h.spawnDaemon(log)
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	ready := make(chan struct{})
	go watchNotify(notify, ready)
	select {
	case err := <-ended:
		return fmt.Errorf("nvhd has ended: %v: see its log", err)
	case <-time.After(startLimit):
		return fmt.Errorf("nvhd is not ready after %v: see its log", startLimit)
	case <-ready:
	}
	go h.superviseDaemon(log, ended)
	return nil
}

// superviseDaemon is Restart=always.
func (h *host) superviseDaemon(log *os.File, ended chan error) {
	for {
		err := <-ended
		h.noteDaemon(0, false)
		fmt.Fprintf(log, "inside: nvhd has ended: %v; it is started again\n", err)
		time.Sleep(restartDelay)
		cmd, err := h.spawnDaemon(log)
		if err != nil {
			ended <- err
			continue
		}
		h.noteDaemon(cmd.Process.Pid, true)
		go func() { ended <- cmd.Wait() }()
	}
}

func (h *host) spawnDaemon(log *os.File) (*exec.Cmd, error) {
	cmd := exec.Command("nvhd", "-config", plan.Config)
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+notifySocket)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start nvhd: %w", err)
	}
	// LimitMEMLOCK= and LimitRTPRIO= do not bind root, which has the capabilities.
	score := filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "oom_score_adj")
	if err := os.WriteFile(score, []byte(strconv.Itoa(oomScore)), 0o644); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	h.noteDaemon(cmd.Process.Pid, false)
	return cmd, nil
}

// openLog opens the port that the outside writes to a file: unlike one on the disk, that log ends with the last line
// written before a power cut.
func openLog() (*os.File, error) {
	return openDevice(plan.LogPort, os.O_WRONLY)
}

// watchNotify reads the messages of sd_notify(3) as long as the host runs, or nvhd would block on writing them, and
// closes ready at the first READY=1.
func watchNotify(notify *net.UnixConn, ready chan<- struct{}) {
	message := make([]byte, 4096)
	for {
		n, err := notify.Read(message)
		if err != nil {
			say("messages of nvhd: %v", err)
			return
		}
		for line := range bytes.Lines(message[:n]) {
			if ready != nil && bytes.Equal(bytes.TrimSpace(line), []byte("READY=1")) {
				close(ready)
				ready = nil
			}
		}
	}
}

// keepShell gives the serial console a root shell, and another one when it ends.
func (h *host) keepShell() {
	for {
		cmd := exec.Command("/bin/sh", "-l")
		console, err := os.OpenFile("/dev/ttyS0", os.O_RDWR|unix.O_NOCTTY, 0)
		if err != nil {
			say("no shell on the console: %v", err)
			return
		}
		cmd.Stdin, cmd.Stdout, cmd.Stderr = console, console, console
		cmd.Env = append(os.Environ(), "PS1=lab# ")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
		err = cmd.Run()
		console.Close()
		if err != nil {
			say("the shell on the console has ended: %v", err)
		}
		time.Sleep(restartDelay)
	}
}
