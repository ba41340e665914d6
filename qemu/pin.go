package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
)

// ErrInvalid is wrapped by every error of Pin and ParseCommandLine that is about
// what the operator asked for.
var ErrInvalid = errors.New("invalid virtual machine")

// DefaultMachine is the machine type of a Guest that names none.
const DefaultMachine = "q35"

// memoryUnit is the size of a huge page, in which NVRAM is given out.
const memoryUnit = 2 * nvram.MiB

// fullSandbox forbids everything a guest's QEMU has no use for.
const fullSandbox = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

// spawnSandbox lets QEMU start its network helpers, which need privileges.
const spawnSandbox = "on,obsolete=deny,resourcecontrol=deny"

var uuidForm = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// Pin decides everything that g leaves open, by what b and this host offer, and
// checks that the machine can be built: after it, Start fails only for what
// changes on the host. All faults found are reported together, as ErrInvalid.
func Pin(ctx context.Context, b *Binary, name, uuid string, g Guest) (Launch, error) {
	if err := ctx.Err(); err != nil {
		return Launch{}, err
	}
	l := Launch{Name: name, UUID: uuid, QEMU: b.Path, Version: b.Version, Memory: g.Memory,
		RunWith: b.Has(FeatureRunWithUser) == nil}
	var faults []error
	if name == "" {
		faults = append(faults, errors.New("the name is empty"))
	}
	if !uuidForm.MatchString(uuid) {
		faults = append(faults, fmt.Errorf("UUID %q is not of the form 01234567-89ab-cdef-0123-456789abcdef", uuid))
	}
	faults = append(faults,
		checkMemory(g.Memory),
		l.pinAccel(g),
		l.pinMachine(b, g),
		l.pinCPU(b, g),
		l.pinDisks(g),
		checkBoot(g),
		checkExtra(g.Extra),
	)
	if g.Raw != nil {
		l.pinForeign(g)
	} else {
		faults = append(faults, l.pinOwn(g))
	}
	l.Args = append(l.Args, g.Extra...)
	if err := errors.Join(faults...); err != nil {
		return Launch{}, fmt.Errorf("%w %s: %w", ErrInvalid, name, err)
	}
	return l, nil
}

func checkMemory(m nvram.Bytes) error {
	if m == 0 {
		return errors.New("memory is missing: give a size such as 512M")
	}
	if m%memoryUnit != 0 {
		return fmt.Errorf("memory %v is not a multiple of %v: take %v", m, memoryUnit, (m+memoryUnit-1)/memoryUnit*memoryUnit)
	}
	return nil
}

func (l *Launch) pinAccel(g Guest) error {
	name, _, _ := strings.Cut(g.Accel, ",")
	switch name {
	case "":
		l.Accel = "tcg,thread=multi"
		if KVM() == nil {
			l.Accel = "kvm"
		}
	case "tcg":
		l.Accel = g.Accel
	case "kvm":
		l.Accel = g.Accel
		if err := KVM(); err != nil {
			return fmt.Errorf("accel kvm: %w; or use accel = \"tcg\", which is slower", err)
		}
	default:
		return fmt.Errorf("accel %q: use kvm or tcg", g.Accel)
	}
	return nil
}

func (l *Launch) pinMachine(b *Binary, g Guest) error {
	name, properties, _ := strings.Cut(g.Machine, ",")
	if name == "" {
		name = DefaultMachine
		if g.Raw != nil {
			name = b.defaultMachine() // what the foreign command line was written for
		}
	}
	m, err := b.machine(name)
	if err != nil {
		return err
	}
	if g.Raw == nil && !strings.HasPrefix(m.Name, "pc-q35-") && !strings.HasPrefix(m.Name, "pc-i440fx-") {
		return fmt.Errorf("machine type %q: use q35 or pc, on which all devices we give a VM exist", name)
	}
	l.Machine = m.Name
	for property := range strings.SplitSeq(properties, ",") {
		switch key, _, _ := strings.Cut(property, "="); key {
		case "":
		case "memory-backend":
			return errors.New("machine property memory-backend: the RAM is ours to place, leave it out")
		case "suppress-vmdesc":
			return errors.New("machine property suppress-vmdesc: it is ours to set, leave it out")
		default:
			l.Machine += "," + property
		}
	}
	l.Machine += ",dump-guest-core=off"
	if g.Raw == nil {
		l.Machine += ",usb=off"
	}
	cpus := max(g.CPUs, 1)
	if g.CPUs < 0 || cpus > m.MaxCPUs {
		return fmt.Errorf("%d CPUs: machine %s has 1 to %d", g.CPUs, m.Name, m.MaxCPUs)
	}
	l.SMP = fmt.Sprint(cpus)
	return nil
}

func (b *Binary) defaultMachine() string {
	for _, m := range b.Machines {
		if m.Default {
			return m.Name
		}
	}
	return DefaultMachine
}

func (l *Launch) pinCPU(b *Binary, g Guest) error {
	l.CPU = g.CPU
	if l.CPU == "" {
		l.CPU = "max"
		if l.Accelerator() == "kvm" {
			l.CPU = "host"
		}
	}
	model, _, _ := strings.Cut(l.CPU, ",")
	if !slices.Contains(b.CPUs, model) {
		return fmt.Errorf("CPU model %q is unknown to QEMU %s: see %s -cpu help", model, b.Version, b.Path)
	}
	if model == "host" && l.Accelerator() != "kvm" {
		return errors.New("CPU model host needs KVM: use max")
	}
	if l.Accelerator() == "kvm" && (model == "host" || model == "max") {
		var err error
		l.HostCPU, err = hostCPU()
		return err
	}
	return nil
}

// hostCPU identifies the processor that a guest with the model "host" sees.
func hostCPU() (string, error) {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "", fmt.Errorf("identify the host's CPU: %w", err)
	}
	return identifyCPU(string(info)), nil
}

// CheckProcessor fails when the guest was shown the processor of the host it was
// started on, and this one is another: instructions that it has found to be there
// may be missing.
func (l Launch) CheckProcessor() error {
	if l.HostCPU == "" {
		return nil
	}
	now, err := hostCPU()
	if err == nil && now != l.HostCPU {
		err = fmt.Errorf("the guest was shown the processor %q and would find %q: %w", l.HostCPU, now, ErrProcessor)
	}
	return err
}

// ErrProcessor is returned by CheckProcessor.
var ErrProcessor = errors.New("another processor")

// identifyCPU takes the lines that tell two processors' features apart from the
// first processor of /proc/cpuinfo.
func identifyCPU(cpuinfo string) string {
	first, _, _ := strings.Cut(cpuinfo, "\n\n")
	var parts []string
	for line := range strings.Lines(first) {
		key, value, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(key) {
		case "vendor_id", "cpu family", "model", "model name", "stepping":
			parts = append(parts, strings.TrimSpace(value))
		}
	}
	return strings.Join(parts, "/")
}

// pinOwn gives a VM the devices of its definition and no others.
func (l *Launch) pinOwn(g Guest) error {
	l.Console, l.Agent = true, true
	l.Args = append(l.Args,
		"-nodefaults", "-display", "none", "-vga", "none",
		"-rtc", "base=utc,clock=host,driftfix=slew",
		"-serial", "chardev:"+consoleID,
		"-device", "virtio-rng-pci,id=rng0",
	)
	for i, d := range g.Disks {
		l.Args = append(l.Args, diskArgs(i, d, isBlockDevice(d.Path))...)
	}
	l.Sandbox = fullSandbox
	var faults []error
	for i, n := range g.Nets {
		args, err := netArgs(i, n, l.UUID)
		if err != nil {
			faults = append(faults, fmt.Errorf("network %d: %w", i, err))
		}
		l.Args = append(l.Args, args...)
		if n.Type == "bridge" {
			l.Sandbox = spawnSandbox
		}
	}
	if g.Kernel != "" {
		l.Args = append(l.Args, "-kernel", g.Kernel)
		if g.Initrd != "" {
			l.Args = append(l.Args, "-initrd", g.Initrd)
		}
		if g.Cmdline != "" {
			l.Args = append(l.Args, "-append", g.Cmdline)
		}
	}
	return errors.Join(faults...)
}

func checkBoot(g Guest) error {
	if g.Kernel == "" && (g.Initrd != "" || g.Cmdline != "") {
		return errors.New("initrd and cmdline need a kernel")
	}
	return errors.Join(checkReadable("kernel", g.Kernel), checkReadable("initrd", g.Initrd))
}

func checkReadable(what, path string) error {
	if path == "" {
		return nil
	}
	if !strings.HasPrefix(path, "/") {
		return fmt.Errorf("%s %s: give an absolute path", what, path)
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("%s cannot be read: %w", what, err)
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && !st.Mode().IsRegular() {
		return fmt.Errorf("%s %s is not a regular file", what, path)
	}
	return nil
}
