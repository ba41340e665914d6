package qemu

import (
	"fmt"
	"path/filepath"
	"strings"
)

// Names that the command line, the migration stream and this package agree on.
const (
	ramID       = "mem"         // memory backend, and RAM block in the migration stream
	consoleID   = "nvh-console" // chardev of the first serial port
	agentID     = "nvh-agent"   // chardev of the guest agent's channel
	agentPort   = "org.qemu.guest_agent.0"
	qmpID       = "nvh-qmp"
	emergencyID = "nvh-emergency"
)

// socketPathMax is the longest path of a unix socket: sun_path of
// include/uapi/linux/un.h has 108 bytes, one of which ends the string.
const socketPathMax = 107

func (rt Runtime) qmpPath() string       { return filepath.Join(rt.Dir, "qmp.sock") }
func (rt Runtime) emergencyPath() string { return filepath.Join(rt.Dir, "emergency.sock") }
func (rt Runtime) consolePath() string   { return filepath.Join(rt.Dir, "console.sock") }
func (rt Runtime) agentPath() string     { return filepath.Join(rt.Dir, "agent.sock") }

func (rt Runtime) logPath() string {
	if rt.Log != "" {
		return rt.Log
	}
	return filepath.Join(rt.Dir, "qemu.log")
}

func (rt Runtime) consoleLogPath() string {
	if rt.ConsoleLog != "" {
		return rt.ConsoleLog
	}
	return filepath.Join(rt.Dir, "console.log")
}

// Check refuses a folder whose sockets could not be bound.
func (rt Runtime) Check() error {
	if n := len(rt.emergencyPath()); n > socketPathMax {
		return fmt.Errorf("socket path %s has %d bytes, the kernel allows %d: set runtime_dir to a shorter path",
			rt.emergencyPath(), n, socketPathMax)
	}
	return nil
}

// Command is the whole argument vector of a run, the binary first.
func (l Launch) Command(rt Runtime) []string {
	argv := []string{l.QEMU,
		"-name", "guest=" + escape(l.Name) + ",debug-threads=on",
		"-uuid", l.UUID,
		"-machine", l.Machine + ",memory-backend=" + ramID + ",suppress-vmdesc=on",
		"-accel", l.Accel,
		"-cpu", l.CPU,
		"-m", fmt.Sprintf("size=%dk", uint64(l.Memory)/1024),
		"-smp", l.SMP,
		"-object", l.ramObject(rt.RAM),
		"-no-user-config",
		"-msg", "timestamp=on",
	}
	argv = append(argv, monitorArgs(qmpID, rt.qmpPath())...)
	argv = append(argv, monitorArgs(emergencyID, rt.emergencyPath())...)
	if l.Console {
		argv = append(argv, "-chardev", socketChardev(consoleID, rt.consolePath())+
			",logfile="+escape(rt.consoleLogPath())+",logappend=on")
	}
	if l.Agent {
		argv = append(argv, "-chardev", socketChardev(agentID, rt.agentPath()),
			"-device", "virtio-serial-pci,id=nvh-serial",
			"-device", "virtserialport,bus=nvh-serial.0,chardev="+agentID+",name="+agentPort)
	}
	if rt.RAM != nil {
		// A device that cannot be saved must be found out now, not in an outage.
		argv = append(argv, "-only-migratable")
	}
	argv = append(argv, l.Args...)
	argv = append(argv, l.privilegeArgs(rt)...)
	if rt.Incoming {
		argv = append(argv, "-incoming", "defer")
	}
	if rt.Incoming || rt.Paused {
		// The first instruction runs when the caller says so, not when the load ends.
		argv = append(argv, "-S")
	}
	return argv
}

// ramObject is the guest's RAM. The id names the RAM block in the migration
// stream and therefore never changes.
func (l Launch) ramObject(ram *Backing) string {
	if ram == nil {
		return fmt.Sprintf("memory-backend-ram,id=%s,size=%d", ramID, uint64(l.Memory))
	}
	object := fmt.Sprintf("memory-backend-file,id=%s,mem-path=%s,size=%d,share=on", ramID, escape(ram.Path), uint64(l.Memory))
	if ram.Offset != 0 {
		object += fmt.Sprintf(",offset=%d", uint64(ram.Offset))
	}
	if ram.Align != 0 {
		// Only addresses that are aligned alike in the file and in QEMU can be mapped by huge pages.
		object += fmt.Sprintf(",align=%d", uint64(ram.Align))
	}
	return object
}

// privilegeArgs drops what the running guest's QEMU does not need.
func (l Launch) privilegeArgs(rt Runtime) []string {
	var args []string
	sandbox := l.Sandbox
	if rt.User != "" {
		// QEMU installs its filter before it changes the user, so the filter has to
		// allow that. Nothing is lost: the filter comes with no_new_privs, under
		// which a process that is no longer root cannot become it again.
		sandbox = strings.Replace(sandbox, ",elevateprivileges=deny", "", 1)
		if l.RunWith {
			args = append(args, "-run-with", "user="+escape(rt.User))
		} else {
			args = append(args, "-runas", rt.User)
		}
	}
	if sandbox != "" {
		args = append(args, "-sandbox", sandbox)
	}
	return args
}

func monitorArgs(id, path string) []string {
	return []string{"-chardev", socketChardev(id, path), "-mon", "chardev=" + id + ",mode=control"}
}

func socketChardev(id, path string) string {
	return "socket,id=" + id + ",path=" + escape(path) + ",server=on,wait=off"
}

// escape doubles commas, which separate QEMU's option parameters.
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }
