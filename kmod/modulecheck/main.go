// Command modulecheck is the init of a machine that exists to check the kernel module nvh_pod: it loads, uses, abuses and
// unloads it and says on the console what held.
//
// Lines on the console, each beginning with "modulecheck: ":
//
//	want-nmi DURATION    asks whoever runs the machine for one NMI, this long from now
//	ok NAME              a check that held
//	figure NAME VALUE    a measurement
//	FAIL NAME: REASON    a check that did not
//	end                  all checks were made; the machine powers off
//
// The kernel command line says which machine it is: check.groups= names of groups of checks, in order;
// check.reasons= the module's parameter; check.nmi_cpus= how many CPUs see one NMI.
package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	module   = "/nvh_pod.ko"
	patience = 20 * time.Second
	// debounce is what the module is loaded with: so long that the CPUs of an emulated machine, which see one NMI
	// milliseconds apart when the real machine is busy, are within it.
	debounce = 200 * time.Millisecond
)

// check is one property. It finds the module loaded and no file open and leaves it so.
type check struct {
	name string
	run  func(*machine) error
}

// machine is the one we are init of.
type machine struct {
	log     *kernelLog
	reasons string // parameter of the module
	nmiCPUs int    // CPUs that see an NMI
	groups  []string
}

func main() {
	m := &machine{}
	if err := m.setUp(); err != nil {
		m.say("FAIL set-up: %v", err)
	} else {
		m.runAll()
	}
	m.say("end")
	drainConsole()
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

func (m *machine) runAll() {
	groups := map[string][]check{
		"load": loadChecks, "read": readChecks, "ioctl": ioctlChecks, "nmi": nmiChecks,
		"park": parkChecks, "unload": unloadChecks, "latch": latchChecks,
	}
	for _, name := range m.groups {
		if groups[name] == nil {
			m.say("FAIL set-up: no group %q", name)
		}
		for _, c := range groups[name] {
			begin := time.Now()
			if err := c.run(m); err != nil {
				m.say("FAIL %s: %v", c.name, err)
				continue
			}
			m.say("ok %s (%v)", c.name, time.Since(begin).Round(time.Millisecond))
		}
	}
}

func (m *machine) setUp() error {
	for _, fs := range []struct{ kind, at string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := unix.Mount(fs.kind, fs.at, fs.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", fs.at, err)
		}
	}
	var err error
	if m.log, err = openKernelLog(); err != nil {
		return err
	}
	return m.readCommandLine()
}

func (m *machine) readCommandLine() error {
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	for _, word := range strings.Fields(string(line)) {
		name, value, _ := strings.Cut(word, "=")
		switch name {
		case "check.groups":
			m.groups = strings.Split(value, ",")
		case "check.reasons":
			m.reasons = value
		case "check.nmi_cpus":
			if m.nmiCPUs, err = strconv.Atoi(value); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *machine) say(format string, args ...any) {
	fmt.Printf("modulecheck: "+format+"\n", args...)
}

// askForNMI returns when the line has left the serial port: a parked machine sends nothing.
func (m *machine) askForNMI(after time.Duration) {
	m.say("want-nmi %v", after)
	drainConsole()
}

// settle waits until the next NMI is an event of its own.
func settle() { time.Sleep(debounce + debounce/4) }

func (m *machine) load(parameters string) error {
	f, err := os.Open(module)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.FinitModule(int(f.Fd()), parameters, 0)
}

func (m *machine) parameters() string {
	return fmt.Sprintf("reasons=%s debounce_us=%d", m.reasons, debounce.Microseconds())
}

func (m *machine) unload() error { return unix.DeleteModule("nvh_pod", syscall.O_NONBLOCK) }

// drainConsole waits until the last line has left the serial port: tcdrain(3).
func drainConsole() {
	const drainOnly = 1
	unix.IoctlSetInt(1, unix.TCSBRK, drainOnly)
}
