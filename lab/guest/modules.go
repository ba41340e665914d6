package guest

import (
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// wanted lists the modules of a guest by the PCI devices that need them: virtio in its transitional and modern
// ids (virtio specification 1.2, section 5). The star is for every guest: the power button and its event device.
// What is built into Debian's kernel (ext4, the serial port, the clock) is not here.
var wanted = []struct{ devices, module string }{
	{"*", "button"},
	{"*", "evdev"},
	{"1af4:1001,1af4:1042", "virtio_blk"},
	{"1af4:1000,1af4:1041", "virtio_net"},
	{"1af4:1003,1af4:1043", "virtio_console"},
	{"1af4:1005,1af4:1044", "virtio-rng"},
	{"1af4:1002,1af4:1045", "virtio_balloon"},
}

// virtioTransport is what every virtio device needs beside its own driver, which does not name it as a dependency.
const virtioTransport = "virtio_pci"

// collectModules copies the wanted modules with all they depend on from an unpacked kernel package to dir, and
// writes dir/plan: for each line of wanted, the devices and the modules in loading order. The
// package has no modules.dep (the system's depmod makes it), so the order comes from the modules themselves.
func collectModules(from, dir string) error {
	files, err := moduleFiles(from)
	if err != nil {
		return err
	}
	var plan strings.Builder
	for _, w := range wanted {
		var order []string
		if w.devices != "*" {
			if order, err = loadOrder(files, virtioTransport, order); err != nil {
				return err
			}
		}
		if order, err = loadOrder(files, w.module, order); err != nil {
			return err
		}
		for _, m := range order {
			content, err := os.ReadFile(files[m])
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, m), content, 0o644); err != nil {
				return err
			}
		}
		fmt.Fprintln(&plan, w.devices, strings.Join(order, " "))
	}
	return os.WriteFile(filepath.Join(dir, "plan"), []byte(plan.String()), 0o644)
}

// moduleFiles finds every module below from, by the name that dependencies use.
func moduleFiles(from string) (map[string]string, error) {
	files := map[string]string{}
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if name, ok := strings.CutSuffix(filepath.Base(path), ".ko"); ok && err == nil {
			files[canonical(name)] = path
		}
		return err
	})
	return files, err
}

// canonical: file names use - and _ as they like, the kernel takes them for the same.
func canonical(module string) string { return strings.ReplaceAll(module, "-", "_") }

// loadOrder appends module, after what it depends on, to the modules already in order.
func loadOrder(files map[string]string, module string, order []string) ([]string, error) {
	module = canonical(module)
	if slices.Contains(order, module) {
		return order, nil
	}
	path, ok := files[module]
	if !ok {
		return nil, fmt.Errorf("kernel module %s: not in the kernel package", module)
	}
	depends, err := dependencies(path)
	if err != nil {
		return nil, fmt.Errorf("kernel module %s: %w", module, err)
	}
	for _, d := range depends {
		if order, err = loadOrder(files, d, order); err != nil {
			return nil, err
		}
	}
	return append(order, module), nil
}

// dependencies reads the "depends=" entry of a module's .modinfo section: strings ended by zero bytes.
func dependencies(path string) ([]string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("no .modinfo section")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	for entry := range strings.SplitSeq(string(info), "\x00") {
		if list, ok := strings.CutPrefix(entry, "depends="); ok && list != "" {
			return strings.Split(list, ","), nil
		}
	}
	return nil, nil
}
