// Package console defines the lines that the guest workload prints on its serial console and that tests,
// the demo and the benchmarks read on the host.
//
// One tick is one line:
//
//	nvh-guest count=17 boot=6f1c… sum=ok(9d0c…) mem=64 disk=17/ok uptime=3.4
//
// A line that Parse accepts was printed whole: the last field is part of the format and a torn line lacks it
// or does not end in a digit after the point.
package console

import (
	"fmt"
	"regexp"
	"strconv"
	"time"
)

// Prefix starts every line of the workload, so that kernel messages on the same console can be told apart.
const Prefix = "nvh-guest "

// DiskState is what the guest knows about its disk.
type DiskState string

// The three states. DiskBad is final for this boot.
const (
	DiskOK   DiskState = "ok"
	DiskBad  DiskState = "bad"
	DiskNone DiskState = "none"
)

// Tick is one printed line.
type Tick struct {
	Count     uint64        // ticks since this guest booted; kept in guest memory only
	BootID    string        // the kernel's boot id, 36 characters
	SumOK     bool          // false from the first mismatch in memory until the next boot
	Sum       uint64        // digest of the whole memory pattern at this count
	MemoryMiB int           // size of the checked pattern
	Records   uint64        // disk records acknowledged in this boot
	Disk      DiskState     // DiskNone without /dev/vda
	Uptime    time.Duration // since boot as the guest sees it, in tenths of a second
}

// String gives the line without its line end.
func (t Tick) String() string {
	verdict := "ok"
	if !t.SumOK {
		verdict = "BAD"
	}
	tenths := t.Uptime / (100 * time.Millisecond)
	return fmt.Sprintf("%scount=%d boot=%s sum=%s(%016x) mem=%d disk=%d/%s uptime=%d.%d",
		Prefix, t.Count, t.BootID, verdict, t.Sum, t.MemoryMiB, t.Records, t.Disk, tenths/10, tenths%10)
}

// The line may follow other output on the same line, since the firmware and the kernel end theirs as they like.
var tickLine = regexp.MustCompile(`nvh-guest count=(\d+) boot=([0-9a-f-]{36}) sum=(ok|BAD)\(([0-9a-f]{16})\) ` +
	`mem=(\d+) disk=(\d+)/(ok|bad|none) uptime=(\d+)\.(\d)\r?\n?$`)

// Parse reads a line. It reports false for anything that is not one whole tick.
func Parse(line string) (Tick, bool) {
	m := tickLine.FindStringSubmatch(line)
	if m == nil {
		return Tick{}, false
	}
	count, err1 := strconv.ParseUint(m[1], 10, 64)
	sum, err2 := strconv.ParseUint(m[4], 16, 64)
	memory, err3 := strconv.Atoi(m[5])
	records, err4 := strconv.ParseUint(m[6], 10, 64)
	seconds, err5 := strconv.ParseUint(m[8], 10, 32)
	if err1 != nil || err2 != nil || err3 != nil || err4 != nil || err5 != nil {
		return Tick{}, false
	}
	return Tick{
		Count: count, BootID: m[2], SumOK: m[3] == "ok", Sum: sum, MemoryMiB: memory,
		Records: records, Disk: DiskState(m[7]),
		Uptime: time.Duration(seconds)*time.Second + time.Duration(m[9][0]-'0')*100*time.Millisecond,
	}, true
}
