package qemu

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
)

// deviceState bounds what devices and vCPUs write besides RAM blocks: tens of KiB
// for the machines that Pin makes.
const deviceState = 1 * nvram.MiB

// blockUnit is what a RAM block's share of the bound is rounded up to. It leaves
// room for the header of 9 bytes that the stream has for each page of 4 KiB.
const blockUnit = 64 * nvram.KiB

// StateBound is how much a save can write at most: every RAM block but the
// guest's own, which stays in place, and the devices.
func (p *Process) StateBound(ctx context.Context) (nvram.Bytes, error) {
	var reply struct {
		Text string `json:"human-readable-text"`
	}
	if err := p.client.Execute(ctx, "x-query-ramblock", nil, &reply); err != nil {
		return 0, fmt.Errorf("bound the volatile state of QEMU (pid %d): %w", p.pid, err)
	}
	bound, err := sumBlocks(reply.Text)
	if err != nil {
		return 0, fmt.Errorf("bound the volatile state of QEMU (pid %d): %w", p.pid, err)
	}
	return bound + deviceState, nil
}

// blockLine is a line of QEMU's table of RAM blocks: name, page size, offset,
// used and total length. Newer versions append columns.
var blockLine = regexp.MustCompile(`^\s*(.*\S)\s+\d+ [KMG]iB\s+0x[0-9a-f]+\s+0x([0-9a-f]+)\s+0x[0-9a-f]+`)

func sumBlocks(table string) (nvram.Bytes, error) {
	var sum nvram.Bytes
	found := false
	for line := range strings.Lines(table) {
		if strings.TrimSpace(line) == "" || strings.Contains(line, "Block Name") {
			continue
		}
		m := blockLine.FindStringSubmatch(line)
		if m == nil {
			return 0, fmt.Errorf("RAM block %q is not understood", strings.TrimSpace(line))
		}
		used, err := strconv.ParseUint(m[2], 16, 62)
		if err != nil {
			return 0, fmt.Errorf("RAM block %q: %w", strings.TrimSpace(line), err)
		}
		if m[1] == ramID {
			found = true
			continue
		}
		headers := nvram.Bytes(used) / 4096 * 9
		sum += (nvram.Bytes(used) + headers + blockUnit - 1) / blockUnit * blockUnit
	}
	if !found {
		return 0, fmt.Errorf("there is no RAM block %q among the blocks:\n%s", ramID, table)
	}
	return sum, nil
}
