package qemu

import (
	"fmt"
	"slices"
	"strings"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
)

// Launch is everything that makes two QEMU processes the same machine: the QEMU
// that loads a saved state must be started with a Launch equal to that of the
// QEMU that saved it. It is stored with the VM, in its pool. It holds no path of
// the pool, the sockets or the logs; those are a Runtime.
type Launch struct {
	Name    string      `json:"name"`
	UUID    string      `json:"uuid"`
	QEMU    string      `json:"qemu"`    // path of the binary
	Version string      `json:"version"` // of the binary, as in Binary.Version
	Machine string      `json:"machine"` // versioned type and its properties: "pc-q35-7.2,usb=off"
	Accel   string      `json:"accel"`   // "kvm" or "tcg", and properties
	CPU     string      `json:"cpu"`     // model and features
	Memory  nvram.Bytes `json:"memory"`
	SMP     string      `json:"smp"` // "2", or a topology
	// HostCPU identifies the processor, when CPU shows the guest the host's own.
	HostCPU string    `json:"host_cpu,omitempty"`
	Args    []string  `json:"args"`            // all other arguments
	Console bool      `json:"console"`         // a serial port is the console: Args refer to its chardev
	Agent   bool      `json:"agent"`           // the guest agent has a channel
	Disks   []DiskRef `json:"disks,omitempty"` // that Args refer to
	// Sandbox is the value of -sandbox; empty: QEMU's seccomp filter stays off.
	Sandbox string `json:"sandbox,omitempty"`
	// RunWith: this QEMU changes its user with -run-with, not with -runas.
	RunWith bool `json:"run_with,omitempty"`
}

// DiskRef is an image that a Launch opens.
type DiskRef struct {
	Path     string `json:"path"`
	Format   string `json:"format"`
	NodeName string `json:"node_name,omitempty"` // of the block layer; empty in a foreign command line that gave none
	ReadOnly bool   `json:"read_only,omitempty"`
}

// Backing is where a persistent VM's RAM lies.
type Backing struct {
	Path   string      // file or device
	Offset nvram.Bytes // of the RAM in it; other than 0 only with FeatureOffset
	Align  nvram.Bytes // of the RAM in QEMU's address space, a power of two; 0: QEMU's choice, which is a small page for a file
}

// Runtime is what differs between two runs of one Launch.
type Runtime struct {
	Dir        string   // folder of the sockets; must exist
	Log        string   // file that QEMU's messages are appended to; empty: qemu.log in Dir
	ConsoleLog string   // file that the guest's console output is appended to; empty: console.log in Dir
	RAM        *Backing // nil: the RAM is DRAM and dies with the process (a volatile VM)
	Incoming   bool     // waits for Load instead of booting
	Paused     bool     // the first instruction waits for Cont
	User       string   // user that QEMU becomes once everything is open; empty: stays the caller's

	leashed bool // dies with this program
}

// Equal tells whether both start the same machine.
func (l Launch) Equal(other Launch) bool { return len(l.Diff(other)) == 0 }

// Diff names what differs, one sentence each, l being the recorded side. The
// name of the VM is not compared: the guest cannot see it.
func (l Launch) Diff(now Launch) []string {
	var diff []string
	compare := func(what, recorded, current string) {
		if recorded != current {
			diff = append(diff, fmt.Sprintf("%s was %q and is now %q", what, recorded, current))
		}
	}
	compare("UUID", l.UUID, now.UUID)
	compare("QEMU version", l.Version, now.Version)
	compare("machine type", l.Machine, now.Machine)
	compare("accelerator", l.Accel, now.Accel)
	compare("CPU model", l.CPU, now.CPU)
	compare("host CPU", l.HostCPU, now.HostCPU)
	compare("memory", l.Memory.String(), now.Memory.String())
	compare("CPU topology", l.SMP, now.SMP)
	compare("console port", fmt.Sprint(l.Console), fmt.Sprint(now.Console))
	compare("guest agent channel", fmt.Sprint(l.Agent), fmt.Sprint(now.Agent))
	if !slices.Equal(l.Args, now.Args) {
		diff = append(diff, diffArgs(l.Args, now.Args))
	}
	if !slices.Equal(l.Disks, now.Disks) {
		diff = append(diff, fmt.Sprintf("disks were %v and are now %v", l.Disks, now.Disks))
	}
	return diff
}

// diffArgs names the first argument in which two argument lists differ.
func diffArgs(recorded, current []string) string {
	at := func(args []string, i int) string {
		if i < len(args) {
			return fmt.Sprintf("%q", args[i])
		}
		return "absent"
	}
	i := 0
	for i < len(recorded) && i < len(current) && recorded[i] == current[i] {
		i++
	}
	return fmt.Sprintf("argument %d was %s and is now %s", i+1, at(recorded, i), at(current, i))
}

// Accelerator is "kvm" or "tcg".
func (l Launch) Accelerator() string {
	name, _, _ := strings.Cut(l.Accel, ",")
	return name
}
