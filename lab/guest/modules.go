package guest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/nv-hypervisor/nv-hypervisor/lab/kernel"
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
// writes dir/plan: for each line of wanted, the devices and the modules in loading order.
func collectModules(from, dir string) error {
	found, err := kernel.FindModules(from)
	if err != nil {
		return err
	}
	var plan strings.Builder
	for _, w := range wanted {
		var order []string
		if w.devices != "*" {
			if order, err = found.Order(order, virtioTransport); err != nil {
				return err
			}
		}
		if order, err = found.Order(order, w.module); err != nil {
			return err
		}
		for _, m := range order {
			content, err := found.Read(m)
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
