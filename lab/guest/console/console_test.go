package console_test

import (
	"testing"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/lab/guest/console"
)

func example() console.Tick {
	return console.Tick{
		Count: 17, BootID: "6f1c2a9e-0b1d-4c53-9a52-1f0c7e0a9d11", SumOK: true, Sum: 0x0d0c00000000beef,
		MemoryMiB: 64, Records: 18, Disk: console.DiskOK, Uptime: 3400 * time.Millisecond,
	}
}

func TestParseReadsWhatStringWrites(t *testing.T) {
	bad := example()
	bad.SumOK, bad.Disk = false, console.DiskBad
	bare := example()
	bare.Disk, bare.Records = console.DiskNone, 0
	for _, want := range []console.Tick{example(), bad, bare} {
		for _, line := range []string{want.String(), want.String() + "\r\n", "[ 1.2] noise\r" + want.String()} {
			got, ok := console.Parse(line)
			if !ok || got != want {
				t.Errorf("Parse(%q) = %+v, %v", line, got, ok)
			}
		}
	}
}

// Darkness cuts lines anywhere; half a line must never count as a tick.
func TestParseRefusesTornLines(t *testing.T) {
	line := example().String()
	for n := range len(line) {
		if tick, ok := console.Parse(line[:n]); ok {
			t.Errorf("Parse(%q) = %+v, want a refusal", line[:n], tick)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(example().String())
	f.Add("nvh-guest count=99999999999999999999999 boot=x sum=ok(0) mem=1 disk=1/ok uptime=0.0")
	f.Fuzz(func(t *testing.T, line string) {
		tick, ok := console.Parse(line)
		if !ok {
			return
		}
		if again, ok := console.Parse(tick.String()); !ok || again != tick {
			t.Errorf("%q parsed to %+v, and its own line to %+v, %v", line, tick, again, ok)
		}
	})
}
