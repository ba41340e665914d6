package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// From include/uapi/linux: reboot.h, time.h, input-event-codes.h and asm-generic/ioctls.h.
const (
	clockBoottime  = 7
	tcsbrk         = 0x5409
	sysFinitModule = 313 // x86-64
	eventKey       = 1
	keyPower       = 116
	inputEventSize = 24
)

func mountAll() error {
	for _, m := range []struct{ kind, at string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := syscall.Mount(m.kind, m.at, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	return nil
}

// quietConsole turns echo off, or commands typed by a program would come back between the ticks.
func quietConsole() error {
	var t syscall.Termios
	if err := ioctl(0, syscall.TCGETS, uintptr(unsafe.Pointer(&t))); err != nil {
		return fmt.Errorf("console settings: %w: boot with console=ttyS0", err)
	}
	t.Lflag &^= syscall.ECHO
	if err := ioctl(0, syscall.TCSETS, uintptr(unsafe.Pointer(&t))); err != nil {
		return fmt.Errorf("console settings: %w", err)
	}
	return nil
}

func ioctl(fd, request, arg uintptr) error {
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, request, arg); errno != 0 {
		return errno
	}
	return nil
}

// loadModules reads the plan that the image builder wrote: a line names the PCI devices (or *) that need modules,
// then the modules in order. Loading costs tens of milliseconds each under binary translation, so those of absent devices stay out.
func loadModules(dir string) error {
	plan, err := os.ReadFile(filepath.Join(dir, "plan"))
	if err != nil {
		return fmt.Errorf("kernel modules: %w", err)
	}
	present, err := pciDevices()
	if err != nil {
		return fmt.Errorf("kernel modules: %w", err)
	}
	loaded := map[string]bool{}
	for line := range strings.Lines(string(plan)) {
		words := strings.Fields(line)
		if len(words) == 0 || !anyPresent(words[0], present) {
			continue
		}
		for _, name := range words[1:] {
			if loaded[name] {
				continue
			}
			if err := loadModule(filepath.Join(dir, name)); err != nil {
				return err
			}
			loaded[name] = true
		}
	}
	return nil
}

func anyPresent(ids string, present map[string]bool) bool {
	for id := range strings.SplitSeq(ids, ",") {
		if id == "*" || present[id] {
			return true
		}
	}
	return false
}

func pciDevices() (map[string]bool, error) {
	entries, err := filepath.Glob("/sys/bus/pci/devices/*/modalias")
	if err != nil {
		return nil, err
	}
	present := map[string]bool{}
	for _, e := range entries {
		alias, err := os.ReadFile(e)
		if err != nil {
			return nil, err
		}
		// pci:v00001AF4d00001042sv…
		if len(alias) > 22 {
			present[strings.ToLower(string(alias[9:13])+":"+string(alias[18:22]))] = true
		}
	}
	return present, nil
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("kernel module: %w", err)
	}
	defer f.Close()
	noParameters := [1]byte{}
	_, _, errno := syscall.Syscall(sysFinitModule, f.Fd(), uintptr(unsafe.Pointer(&noParameters)), 0)
	if errno != 0 && errno != syscall.EEXIST {
		return fmt.Errorf("kernel module %s: %w", filepath.Base(path), errno)
	}
	return nil
}

func bindToCPU(cpu int) error {
	var mask [16]uint64
	mask[cpu/64] = 1 << (cpu % 64)
	_, _, errno := syscall.RawSyscall(syscall.SYS_SCHED_SETAFFINITY, 0, unsafe.Sizeof(mask), uintptr(unsafe.Pointer(&mask)))
	if errno != 0 {
		return fmt.Errorf("bind checker to CPU %d: %w", cpu, errno)
	}
	return nil
}

func uptime() time.Duration {
	var ts syscall.Timespec
	syscall.Syscall(syscall.SYS_CLOCK_GETTIME, clockBoottime, uintptr(unsafe.Pointer(&ts)), 0)
	return time.Duration(ts.Nano())
}

// readPowerButton turns the ACPI power button, which the host presses for an orderly stop, into a command.
func readPowerButton(to chan<- string) {
	for _, path := range inputDevices() {
		f, err := os.Open(path)
		if err != nil {
			say("error=%q", err.Error())
			continue
		}
		go func() {
			defer f.Close()
			for event := make([]byte, inputEventSize); ; {
				if _, err := f.Read(event); err != nil {
					return
				}
				le := binary.LittleEndian
				if le.Uint16(event[16:]) == eventKey && le.Uint16(event[18:]) == keyPower && le.Uint32(event[20:]) == 1 {
					to <- "poweroff"
				}
			}
		}()
	}
}

func inputDevices() []string {
	paths, _ := filepath.Glob("/dev/input/event*") // the only error is a bad pattern
	return paths
}

// powerOff does not return.
func powerOff() {
	drainConsole()
	end(syscall.LINUX_REBOOT_CMD_POWER_OFF)
}

// reboot does not return.
func reboot() {
	drainConsole()
	end(syscall.LINUX_REBOOT_CMD_RESTART)
}

func end(how int) {
	if err := syscall.Reboot(how); err != nil {
		say("error=%q", err.Error())
	}
	select {}
}

// drainConsole waits until the last line has left the serial port.
func drainConsole() {
	const drainOnly = 1
	if err := ioctl(1, tcsbrk, drainOnly); err != nil {
		say("error=%q", err.Error())
	}
}
