// Package nvdimmtest builds, in a folder, what Linux shows of a machine with memory modules, for tests of
// everything that reads package nvdimm. Any health can be given to any module; no privilege and no such memory is needed.
//
// The files and links are those that Linux 6.1 has on a machine with an ACPI NFIT.
package nvdimmtest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/nvram/nvdimm"
)

// bus is where the NVDIMM bus hangs in sysfs.
const bus = "sys/devices/LNXSYSTM:00/LNXSYBUS:00/ACPI0012:00/ndbus0"

// Machine is a folder with sys and proc in it.
type Machine struct{ root string }

// New makes a machine without modules in an existing folder.
func New(root string) (*Machine, error) {
	m := &Machine{root}
	return m, errors.Join(
		os.MkdirAll(filepath.Join(root, bus), 0o755),
		os.MkdirAll(filepath.Join(root, "sys/bus/nd/devices"), 0o755),
		m.write("proc/self/mountinfo", ""))
}

// System is the machine as package nvdimm reads it.
func (m *Machine) System() nvdimm.System { return nvdimm.System(m.root) }

// DIMM adds a module, with its flags as the kernel writes them: "save_fail not_armed ". It has no dirty-shutdown count
// before SetDirtyShutdown.
func (m *Machine) DIMM(name, flags string) error {
	dir := filepath.Join(bus, name)
	return errors.Join(
		m.write(dir+"/state", "active\n"),
		m.write(dir+"/nfit/id", "8680-56341200-"+name+"\n"),
		m.write(dir+"/nfit/handle", "0x1\n"),
		m.write(dir+"/nfit/serial", "0x56341200\n"),
		m.write(dir+"/nfit/flags", flags+"\n"),
		m.link("sys/bus/nd/devices/"+name, dir))
}

// SetFlags changes a module's flags.
func (m *Machine) SetFlags(name, flags string) error {
	return m.write(filepath.Join(bus, name, "nfit/flags"), flags+"\n")
}

// SetDirtyShutdown sets how many dirty shutdowns the module counts.
func (m *Machine) SetDirtyShutdown(name string, count uint64) error {
	return m.write(filepath.Join(bus, name, "nfit/dirty_shutdown"), fmt.Sprintln(count))
}

// Remove removes an attribute, as of firmware that does not have it: Remove("nmem0", "nfit/flags").
func (m *Machine) Remove(name, attribute string) error {
	return os.Remove(filepath.Join(m.root, bus, name, attribute))
}

// Region adds an active region in which the modules are interleaved.
func (m *Machine) Region(name string, domain nvdimm.Domain, dimms ...string) error {
	dir := filepath.Join(bus, name)
	errs := []error{
		m.write(dir+"/size", "17179869184\n"),
		m.write(dir+"/numa_node", "0\n"),
		m.write(dir+"/read_only", "0\n"),
		m.write(dir+"/badblocks", ""),
		m.write(dir+"/mappings", fmt.Sprintln(len(dimms))),
		m.write(dir+"/uevent", "DEVTYPE=nd_pmem\n"),
		os.MkdirAll(filepath.Join(m.root, "sys/bus/nd/drivers/nd_region"), 0o755),
		m.link(dir+"/driver", "sys/bus/nd/drivers/nd_region"),
		m.link("sys/bus/nd/devices/"+name, dir),
	}
	if domain != nvdimm.DomainNone {
		errs = append(errs, m.write(dir+"/persistence_domain", string(domain)+"\n"))
	}
	for i, d := range dimms {
		errs = append(errs, m.write(fmt.Sprintf("%s/mapping%d", dir, i), fmt.Sprintf("%s,0,17179869184,%d\n", d, i)))
	}
	return errors.Join(errs...)
}

// Set changes an attribute of a module or region: Set("region0", "badblocks", "8 1\n").
func (m *Machine) Set(name, attribute, value string) error {
	return m.write(filepath.Join(bus, name, attribute), value)
}

// Carry makes the file system that holds path, whatever it is in truth, lie on a pmem device of a region.
func (m *Machine) Carry(path, region, device string, options ...string) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return err
	}
	number := fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	block := filepath.Join(bus, region, "pfn0.1/block", device)
	mount := fmt.Sprintf("36 26 %s / /mnt/pmem rw - ext4 /dev/%s %s\n", number, device, strings.Join(append([]string{"rw"}, options...), ","))
	return errors.Join(
		m.write(block+"/dev", number+"\n"),
		m.write(block+"/uevent", "DEVNAME="+device+"\nDEVTYPE=disk\n"),
		m.write(block+"/queue/write_cache", "write back\n"),
		m.replaceLink("sys/dev/block/"+number, block),
		m.write("proc/self/mountinfo", mount))
}

func (m *Machine) write(name, content string) error {
	path := filepath.Join(m.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(content), 0o644)
}

func (m *Machine) link(name, target string) error {
	path := filepath.Join(m.root, name)
	relative, err := filepath.Rel(filepath.Dir(path), filepath.Join(m.root, target))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.Symlink(relative, path)
}

func (m *Machine) replaceLink(name, target string) error {
	if err := os.Remove(filepath.Join(m.root, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return m.link(name, target)
}
