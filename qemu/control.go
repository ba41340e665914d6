package qemu

import (
	"context"
	"fmt"
	"os"
	"strconv"
)

// Cont lets the guest's vCPUs run.
func (p *Process) Cont(ctx context.Context) error { return p.execute(ctx, "cont") }

// Stop stops the guest's vCPUs and flushes its disks.
func (p *Process) Stop(ctx context.Context) error { return p.execute(ctx, "stop") }

// SystemPowerdown presses the guest's ACPI power button. Whether anything happens
// is up to the guest; Exited tells.
func (p *Process) SystemPowerdown(ctx context.Context) error {
	return p.execute(ctx, "system_powerdown")
}

// Status is QEMU's run state: "running", "paused", "inmigrate", "postmigrate", …
func (p *Process) Status(ctx context.Context) (string, error) {
	var reply struct {
		Status string `json:"status"`
	}
	if err := p.client.Execute(ctx, "query-status", nil, &reply); err != nil {
		return "", fmt.Errorf("QEMU (pid %d): %w", p.pid, err)
	}
	return reply.Status, nil
}

func (p *Process) execute(ctx context.Context, command string) error {
	if err := p.client.Execute(ctx, command, nil, nil); err != nil {
		return fmt.Errorf("QEMU (pid %d): %w", p.pid, err)
	}
	return nil
}

// Threads lists the process's threads by what they do, for whoever sets their
// priorities: the main loop, which performs a save, the vCPUs, and the rest.
func (p *Process) Threads(ctx context.Context) (main int, vcpus []int, others []int, err error) {
	var cpus []struct {
		Thread int `json:"thread-id"`
	}
	if err := p.client.Execute(ctx, "query-cpus-fast", nil, &cpus); err != nil {
		return 0, nil, nil, fmt.Errorf("threads of QEMU (pid %d): %w", p.pid, err)
	}
	known := map[int]bool{p.pid: true}
	for _, cpu := range cpus {
		// Under single-threaded TCG all vCPUs share one thread.
		if !known[cpu.Thread] {
			known[cpu.Thread] = true
			vcpus = append(vcpus, cpu.Thread)
		}
	}
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", p.pid))
	if err != nil {
		return 0, nil, nil, fmt.Errorf("threads of QEMU (pid %d): %w", p.pid, err)
	}
	for _, task := range tasks {
		id, err := strconv.Atoi(task.Name())
		if err == nil && !known[id] {
			others = append(others, id)
		}
	}
	return p.pid, vcpus, others, nil
}
