package qemu

import (
	"fmt"
	"slices"
	"strings"
)

// owned are the options that decide about what is ours to decide, and why.
var owned = map[string]string{
	"m":               "set memory",
	"machine":         "set machine",
	"M":               "set machine",
	"accel":           "set accel",
	"enable-kvm":      "set accel",
	"cpu":             "set cpu",
	"smp":             "set cpus",
	"name":            "the VM's name is used",
	"uuid":            "the VM's UUID is used",
	"S":               "start the VM and pause it",
	"incoming":        "a saved VM is loaded by starting it",
	"loadvm":          "a saved VM is loaded by starting it",
	"daemonize":       "the VM runs in the background anyway",
	"mem-path":        "the RAM lies in the VM's pool",
	"mem-prealloc":    "RAM in a pool is preallocated",
	"snapshot":        "the guest would resume without what it had written",
	"readconfig":      "what the file says could not be pinned: give options",
	"runas":           "the daemon decides about the user",
	"chroot":          "the daemon decides about the user",
	"preconfig":       "the VM could not start by itself",
	"no-shutdown":     "a powered off guest must end its QEMU",
	"virtfs":          "a mounted 9p file system cannot be saved",
	"fsdev":           "a mounted 9p file system cannot be saved",
	"help":            "ask QEMU itself",
	"h":               "ask QEMU itself",
	"version":         "ask QEMU itself",
	"only-migratable": "it is always set",
}

// checkExtra refuses extra arguments that contradict what Pin has decided.
func checkExtra(args []string) error {
	for _, arg := range args {
		name, isOption := optionName(arg)
		if !isOption {
			continue
		}
		if why, ok := owned[name]; ok {
			return fmt.Errorf("extra argument %s is not possible: %s", arg, why)
		}
	}
	return nil
}

// optionName tells whether an argument is an option, which QEMU lets begin with
// one or two dashes.
func optionName(arg string) (name string, ok bool) {
	name, ok = strings.CutPrefix(arg, "-")
	return strings.TrimPrefix(name, "-"), ok
}

// pinForeign takes over the command line that ParseCommandLine has prepared.
func (l *Launch) pinForeign(g Guest) {
	l.Sandbox = fullSandbox
	for i := 0; i < len(g.Raw); i++ {
		arg := g.Raw[i]
		name, _ := optionName(arg)
		switch {
		case name == "smp" && i+1 < len(g.Raw):
			i++
			l.SMP = g.Raw[i]
			continue
		case name == "sandbox":
			l.Sandbox = ""
		case startsPrograms(arg) && l.Sandbox != "":
			l.Sandbox = spawnSandbox
		}
		l.Args = append(l.Args, arg)
	}
	l.Console = slices.ContainsFunc(l.Args, refersToConsole)
}

// startsPrograms tells whether QEMU runs a helper or a script for an argument.
func startsPrograms(value string) bool {
	kind, rest, _ := strings.Cut(value, ",")
	switch kind {
	case "bridge":
		return true
	case "tap":
		return !strings.Contains(rest, "script=no") && !strings.Contains(rest, "fd=")
	case "user":
		return strings.Contains(rest, "cmd:") || strings.Contains(rest, "smb=")
	default:
		return false
	}
}

func refersToConsole(arg string) bool {
	return arg == "chardev:"+consoleID || strings.Contains(arg, "chardev="+consoleID)
}
