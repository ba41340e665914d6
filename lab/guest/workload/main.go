// Command workload is the init of the test guest: it makes the state of the guest visible, so that the host can
// tell a guest that continued from one that began again.
//
// It holds a counter, a boot id and a checksummed pattern in memory, appends to a journal on /dev/vda when there is
// one, and prints one line a tick on the console (package console). All that it checks is checked against memory
// alone: nothing is written down that a reboot would find again, except the journal itself. The first mismatch
// is printed as an error line and every later tick says BAD.
//
// Parameters on the kernel command line:
//
//	nvh.tick=200ms       time between lines
//	nvh.mem=64           MiB of checked memory
//	nvh.cpus=N           checkers, each bound to a CPU; default all CPUs
//	nvh.load=cpu,disk    check memory without pause on every checker; append to the journal without pause
//	nvh.load=memory      rewrite memory without pause on every checker
//
// Commands, one a line on the console: sum, time, shell, reboot, poweroff. The ACPI power button powers off.
package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/lab/guest/console"
	"github.com/nv-hypervisor/nv-hypervisor/lab/guest/journal"
)

func main() {
	if err := run(); err != nil {
		say("error=%q", err.Error())
	}
	powerOff()
}

func say(format string, args ...any) {
	fmt.Printf(console.Prefix+format+"\n", args...)
}

// run returns only when the guest cannot be set up or is told to end.
func run() error {
	if err := mountAll(); err != nil {
		return err
	}
	if err := quietConsole(); err != nil {
		return err
	}
	params, err := readParams("/proc/cmdline")
	if err != nil {
		return err
	}
	if err := loadModules("/modules"); err != nil {
		return err
	}
	g, err := newGuest(params)
	if err != nil {
		return err
	}
	return g.loop()
}

// guest is owned by the goroutine that runs loop. The other goroutines (memory checkers, console and power
// button readers) live as long as the machine and talk to it over channels.
type guest struct {
	params   params
	bootID   string
	count    uint64
	memory   *memory
	disk     *disk // nil without a disk
	commands chan string
}

func newGuest(p params) (*guest, error) {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("boot id: %w", err)
	}
	boot, err := journal.ParseBootID(string(raw))
	if err != nil {
		return nil, err
	}
	g := &guest{params: p, bootID: boot.String(), commands: make(chan string)}
	if g.memory, err = newMemory(p, boot); err != nil {
		return nil, err
	}
	if g.disk, err = openDisk("/dev/vda", boot); err != nil {
		return nil, err
	}
	go readCommands(g.commands)
	readPowerButton(g.commands)
	return g, nil
}

func readCommands(to chan<- string) {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		command := strings.TrimSpace(lines.Text())
		to <- command
		if command == "shell" {
			<-shellDone
		}
	}
}

// shellDone keeps the command reader off the console while a shell reads it.
var shellDone = make(chan struct{})

func (g *guest) loop() error {
	ticker := time.NewTicker(g.params.tick)
	g.step()
	for {
		select {
		case <-ticker.C:
			g.step()
			continue
		case c := <-g.commands:
			if end := g.command(c); end {
				return nil
			}
			continue
		default:
		}
		if g.params.loadDisk && g.disk != nil && g.disk.err == nil {
			g.disk.append(g.count)
			continue
		}
		select {
		case <-ticker.C:
			g.step()
		case c := <-g.commands:
			if end := g.command(c); end {
				return nil
			}
		}
	}
}

// step is one tick: advance memory and disk, verify both, print.
func (g *guest) step() {
	g.count++
	g.memory.step()
	tick := console.Tick{
		Count: g.count, BootID: g.bootID, MemoryMiB: g.params.memoryMiB,
		SumOK: g.memory.err == nil, Sum: g.memory.sum, Disk: console.DiskNone, Uptime: uptime(),
	}
	if g.disk != nil {
		g.disk.append(g.count)
		g.disk.checkNew()
		tick.Records, tick.Disk = g.disk.records(), g.disk.state()
	}
	fmt.Println(tick)
}

// command obeys one console line and reports whether the guest is to end.
func (g *guest) command(c string) (end bool) {
	switch c {
	case "":
	case "sum":
		g.fullSum()
	case "time":
		say("time=%s", time.Now().UTC().Format(time.RFC3339Nano))
	case "shell":
		g.shell()
	case "reboot":
		say("reboot")
		reboot()
	case "poweroff":
		say("poweroff")
		return true
	default:
		say("error=%q", "unknown command "+c+", know sum, time, shell, reboot, poweroff")
	}
	return false
}

func (g *guest) fullSum() {
	g.memory.checkAll()
	verdict, state, records := "ok", console.DiskNone, uint64(0)
	if g.memory.err != nil {
		verdict = "BAD"
	}
	if g.disk != nil {
		g.disk.checkAll()
		state, records = g.disk.state(), g.disk.records()
	}
	say("full-sum=%s(%016x) count=%d disk=%d/%s", verdict, g.memory.sum, g.count, records, state)
}

// shell gives the console to busybox; the guest counts on only after the shell ends.
func (g *guest) shell() {
	say("shell: the workload pauses until exit")
	cmd := exec.Command("/bin/busybox", "sh")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = []string{"PATH=/bin", "HOME=/", "TERM=linux", "PS1=guest# "}
	if err := cmd.Run(); err != nil {
		say("error=%q", err.Error())
	}
	shellDone <- struct{}{}
}
