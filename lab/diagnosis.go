package lab

import (
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/qmp"
)

// Explain adds to an error what is needed to look into it: what the host's CPUs do, how its console and nvhd's log end, and
// the command line that boots it again. It takes a few seconds at most, whatever state the host is in.
func (h *Host) Explain(err error) error {
	return fmt.Errorf("host %s: %w\nits command line: %s\nits CPUs: %s\nthe outer QEMU's log ends:\n%s\nits console ends:\n%s\nnvhd's log ends:\n%s", filepath.Base(h.folder), err,
		h.path(commandFile), h.lookAtCPUs(), h.Tail(QEMULog), h.Tail(ConsoleLog), h.Tail(DaemonLog))
}

// Between two looks at the CPUs, one that works has gone somewhere else; and the outer QEMU answers within this time unless it hangs itself.
const (
	lookApart = 500 * time.Millisecond
	lookLimit = 10 * time.Second
)

// lookAtCPUs tells where the host's CPUs are, twice, so that a host that has locked up can be told from one that is slow.
func (h *Host) lookAtCPUs() string {
	ctx, cancel := context.WithTimeout(context.Background(), lookLimit)
	defer cancel()
	var looks [2]string
	err := h.monitor(ctx, func(c *qmp.Client) error {
		for i := range looks {
			var registers string
			if err := c.Execute(ctx, "human-monitor-command", map[string]string{"command-line": "info registers -a"}, &registers); err != nil {
				return err
			}
			looks[i] = parseRegisters(registers)
			time.Sleep(lookApart)
		}
		return nil
	})
	if err != nil {
		return fmt.Sprintf("not known: %v", err)
	}
	return fmt.Sprintf("%s; %v later %s", looks[0], lookApart, looks[1])
}

var (
	cpuNumber    = regexp.MustCompile(`CPU#(\d+)`)
	cpuRegisters = regexp.MustCompile(`[RE]IP=([0-9a-f]+) [RE]FL=[0-9a-f]+ \[[^]]*\] CPL=(\d) II=\d A20=\d SMM=\d HLT=(\d)`)
)

// parseRegisters makes a line of what "info registers -a" prints for a page: address, privilege level (0 is a kernel) and whether it is
// halted, for each CPU. A CPU that runs a guest is where the guest is.
func parseRegisters(text string) string {
	var cpus []string
	numbers := cpuNumber.FindAllStringSubmatch(text, -1)
	for i, m := range cpuRegisters.FindAllStringSubmatch(text, -1) {
		if i >= len(numbers) {
			break
		}
		state := "at " + m[1] + " level " + m[2]
		if m[3] == "1" {
			state += " halted"
		}
		cpus = append(cpus, fmt.Sprintf("CPU %s %s", numbers[i][1], state))
	}
	if cpus == nil {
		return "in an unknown state"
	}
	return strings.Join(cpus, ", ")
}
