// Command inside is the first process of an emulated host: it sets the hardware up, runs nvhd as its service and
// serves the agent's ports. It stands in for systemd and the few units of a real host; the kernel, its
// drivers, QEMU, ndctl and the product are the real ones.
//
// There are two processes. The first only reaps what nobody else waits for, since a QEMU outlives the nvhd that
// started it, and turns the power off if the second ends. The second does everything else.
package main

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/lab/agent"
	"github.com/nv-hypervisor/nv-hypervisor/lab/plan"
)

func main() {
	if os.Getpid() == 1 {
		first()
	}
	if err := second(); err != nil {
		say("%v", err)
		os.Exit(1)
	}
}

// say writes to the serial console.
func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "inside: "+format+"\n", args...)
}

// first is process 1 and does not return.
func first() {
	attr := &os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}, Env: []string{"PATH=/bin:/usr/bin:/sbin:/usr/sbin:" + plan.Product, "HOME=/", "TERM=linux"}}
	child, err := os.StartProcess("/init", []string{"inside"}, attr)
	if err != nil {
		say("start the second process: %v", err)
		powerOff()
	}
	for {
		pid, err := syscall.Wait4(-1, nil, 0, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid == child.Pid {
			say("the second process has ended")
			powerOff()
		}
	}
}

func powerOff() {
	time.Sleep(time.Second) // for the console to drain
	if err := syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		say("power off: %v", err)
	}
	select {}
}

// second boots the host and then serves it. It returns only what makes it impossible to serve.
func second() error {
	h := &host{}
	if err := h.step("kernel file systems", h.mountKernel); err != nil {
		return err
	}
	if err := h.step("kernel modules", h.loadModules); err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- h.serve(context.Background()) }()
	for _, s := range h.steps() {
		if err := h.step(s.name, s.do); err != nil {
			say("%s: %v", s.name, err)
			break
		}
	}
	h.markReady()
	go h.keepShell()
	return <-failed
}

// serve serves the agent's ports until one fails.
func (h *host) serve(ctx context.Context) error {
	failed := make(chan error, agent.Ports)
	for n := range agent.Ports {
		p, err := openPort(agent.PortName(n))
		if err != nil {
			return err
		}
		go func() { failed <- agent.Serve(ctx, p, func() any { return h.currentReport() }) }()
	}
	return <-failed
}
