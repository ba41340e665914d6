package lab

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/nv-hypervisor/nv-hypervisor/lab/agent"
	"github.com/nv-hypervisor/nv-hypervisor/lab/plan"
	"github.com/nv-hypervisor/nv-hypervisor/nvram"
)

// Sockets in a host's folder. QEMU runs there and is given relative paths, which the 108 bytes of a socket's address
// always hold.
const (
	monitorSocket = "qmp.sock"
	consoleSocket = "console.sock"
)

func portSocket(n int) string { return agent.PortName(n) + ".sock" }

func portSockets() []string {
	var names []string
	for n := range agent.Ports {
		names = append(names, portSocket(n))
	}
	return names
}

// args are the outer QEMU's arguments, the same at every boot of a host.
func (h *Host) args() []string {
	o := h.config.Options
	args := []string{
		"-name", "nvh-lab,debug-threads=on",
		"-machine", "q35,nvdimm=on,nvdimm-persistence=" + machineValues[o.Persistence],
		"-accel", "tcg,thread=multi", "-cpu", "max,+svm", "-smp", strconv.Itoa(o.CPUs),
		"-m", fmt.Sprintf("size=%dM,slots=%d,maxmem=%dM", o.Memory/nvram.MiB, len(o.NVDIMMs), o.maxMemory()/nvram.MiB),
		"-nodefaults", "-no-user-config", "-display", "none", "-vga", "none", "-rtc", "base=utc",
		"-kernel", h.config.Kernel, "-initrd", initramfsFile, "-append", cmdline,
	}
	unarmed := "off"
	if o.Unarmed {
		unarmed = "on"
	}
	for n, d := range o.NVDIMMs {
		args = append(args,
			"-object", fmt.Sprintf("memory-backend-file,id=nvram%d,share=on,mem-path=%s,size=%d", n, NVDIMMFile(n), d.Size+labelSize),
			"-device", fmt.Sprintf("nvdimm,id=nvdimm%d,memdev=nvram%d,label-size=%d,unarmed=%s", n, n, labelSize, unarmed))
	}
	// The order of the disks is that in lab/inside.
	args = append(args, drive("system", h.config.Root, true)...)
	args = append(args, drive("product", productFile, true)...)
	args = append(args, drive("state", diskFile, false)...)
	args = append(args,
		"-device", "virtio-rng-pci",
		"-chardev", "socket,id=monitor,path="+monitorSocket+",server=on,wait=off", "-mon", "chardev=monitor,mode=control",
		"-chardev", "socket,id=console,path="+consoleSocket+",server=on,wait=off,logfile="+ConsoleLog+",logappend=on",
		"-serial", "chardev:console",
		"-device", "virtio-serial-pci,id=ports,max_ports=16",
		"-chardev", "file,id=log,path="+DaemonLog+",append=on", "-device", "virtserialport,bus=ports.0,chardev=log,name="+plan.LogPort)
	for n := range agent.Ports {
		args = append(args,
			"-chardev", fmt.Sprintf("socket,id=port%d,path=%s,server=on,wait=off", n, portSocket(n)),
			"-device", fmt.Sprintf("virtserialport,bus=ports.0,chardev=port%d,name=%s", n, agent.PortName(n)))
	}
	if h.waking {
		args = append(args, "-incoming", "defer")
	}
	return args
}

func drive(id, path string, readOnly bool) []string {
	access := "readonly=off"
	if readOnly {
		access = "readonly=on"
	}
	return []string{
		"-drive", fmt.Sprintf("if=none,id=%s,format=raw,%s,file=%s", id, access, strings.ReplaceAll(path, ",", ",,")),
		"-device", fmt.Sprintf("virtio-blk-pci,drive=%s", id),
	}
}

// maxMemory is what the address space must have room for: DRAM, and the NVDIMMs, which QEMU aligns generously.
func (o Options) maxMemory() nvram.Bytes {
	total := o.Memory
	for _, d := range o.NVDIMMs {
		total += d.Size + nvram.GiB
	}
	return total
}
