package main

import (
	"strings"

	"github.com/nv-hypervisor/nv-hypervisor/qemu"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

// diskFlags is the repeatable --disk.
type diskFlags struct{ disks *[]qemu.Disk }

func (f *diskFlags) String() string { return "" }
func (f *diskFlags) Type() string   { return "disk" }
func (f *diskFlags) Set(s string) error {
	var d qemu.Disk
	for i, o := range splitOptions(s) {
		switch {
		case o.key == "path" && o.hasValue:
			d.Path = o.value
		case o.key == "format" && o.hasValue:
			d.Format = o.value
		case o.key == "cache" && o.hasValue:
			d.Cache = o.value
		case o.key == "read-only" && !o.hasValue:
			d.ReadOnly = true
		case o.key == "force" && !o.hasValue:
			d.Force = true
		case i == 0 && !o.hasValue:
			d.Path = o.key
		default:
			return usagef("unknown option %q of a disk", o.text())
		}
	}
	if d.Path == "" {
		return usagef("the disk has no path")
	}
	*f.disks = append(*f.disks, d)
	return nil
}

// netFlags is the repeatable --net.
type netFlags struct{ nets *[]qemu.Net }

func (f *netFlags) String() string { return "" }
func (f *netFlags) Type() string   { return "net" }
func (f *netFlags) Set(s string) error {
	var n qemu.Net
	for i, o := range splitOptions(s) {
		switch {
		case i == 0:
			n.Type, n.Device, _ = strings.Cut(o.text(), ":")
		case o.key == "mac" && o.hasValue:
			n.MAC = o.value
		case o.key == "forward" && o.hasValue && n.Type == "user":
			n.Forward = append(n.Forward, o.value)
		default:
			return usagef("unknown option %q of a %q network", o.text(), n.Type)
		}
	}
	switch {
	case n.Type == "user" && n.Device == "":
	case (n.Type == "tap" || n.Type == "bridge") && n.Device != "":
	default:
		return usagef("network %q is none of user, tap:DEVICE and bridge:NAME", s)
	}
	*f.nets = append(*f.nets, n)
	return nil
}

// onLostFlag is --on-lost.
type onLostFlag vm.OnLost

func (f *onLostFlag) String() string { return string(*f) }
func (f *onLostFlag) Type() string   { return "boot|hold" }
func (f *onLostFlag) Set(s string) error {
	switch vm.OnLost(s) {
	case vm.OnLostBoot, vm.OnLostHold:
		*f = onLostFlag(s)
		return nil
	}
	return usagef("%q is neither boot nor hold", s)
}

// option is one part of "a=1,b,c=2".
type option struct {
	key, value string
	hasValue   bool
}

func (o option) text() string {
	if o.hasValue {
		return o.key + "=" + o.value
	}
	return o.key
}

// splitOptions splits at commas; two commas are one comma of the text, as in
// QEMU's own options.
func splitOptions(s string) []option {
	const comma = "\x00"
	var options []option
	for part := range strings.SplitSeq(strings.ReplaceAll(s, ",,", comma), ",") {
		part = strings.ReplaceAll(part, comma, ",")
		key, value, hasValue := strings.Cut(part, "=")
		options = append(options, option{key, value, hasValue})
	}
	return options
}
