// Command devicecheck is the init of a machine that exists to check the detectors of real devices, packages pod/gpio and
// pod/powersupply: it loads the kernel module nvh_sham, whose devices do not exist but are the kernel's own
// above their driver, operates them and says on the console what held.
//
// Lines on the console, each beginning with "devicecheck: ":
//
//	ok NAME              a check that held
//	FAIL NAME: REASON    a check that did not
//	end                  all checks were made; the machine powers off
package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/lab/sham"
)

const (
	module = "/" + sham.Name + ".ko"
	// patience is how long anything may take: the machine is emulated.
	patience = 20 * time.Second
)

// check is one property. It finds the devices at rest: the line low, mains online, the battery full.
type check struct {
	name string
	run  func() error
}

func main() {
	if err := setUp(); err != nil {
		say("FAIL set-up: %v", err)
	} else {
		runAll()
	}
	say("end")
	drainConsole()
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

// replugged is the word on the kernel's command line of a machine whose controller can be plugged in again.
const replugged = "check.replug"

func runAll() {
	for _, c := range slices.Concat(supplyChecks, gpioChecks) {
		runOne(c, putBack)
	}
	line, err := os.ReadFile("/proc/cmdline")
	switch {
	case err != nil:
		say("FAIL set-up: %v", err)
	case slices.Contains(strings.Fields(string(line)), replugged):
		for _, c := range replugChecks {
			runOne(c, putBack)
		}
	default:
		for _, c := range unplugChecks { // the last: nothing works after it
			runOne(c, func() error { return nil })
		}
	}
}

// putBack puts the devices to rest.
func putBack() error {
	for _, p := range []struct{ name, value string }{{"present", "1"}, {"level", "0"}, {"mains", "1"}, {"status", full}, {"capacity", "100"}} {
		if err := set(p.name, p.value); err != nil {
			return err
		}
	}
	return nil
}

func runOne(c check, after func() error) {
	begin := time.Now()
	if err := errors.Join(c.run(), after()); err != nil {
		say("FAIL %s: %v", c.name, strings.ReplaceAll(err.Error(), "\n", "; "))
		return
	}
	say("ok %s (%v)", c.name, time.Since(begin).Round(time.Millisecond))
}

func setUp() error {
	for _, fs := range []struct{ kind, at string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := unix.Mount(fs.kind, fs.at, fs.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", fs.at, err)
		}
	}
	f, err := os.Open(module)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil {
		return fmt.Errorf("load %s: %w", module, err)
	}
	return nil
}

// set operates a device.
func set(parameter, value string) error {
	return os.WriteFile(sham.Parameters+parameter, []byte(value), 0)
}

func say(format string, args ...any) { fmt.Printf("devicecheck: "+format+"\n", args...) }

// drainConsole waits until the last line has left the serial port: tcdrain(3).
func drainConsole() {
	const drainOnly = 1
	unix.IoctlSetInt(1, unix.TCSBRK, drainOnly)
}
