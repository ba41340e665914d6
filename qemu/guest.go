package qemu

import "github.com/nv-hypervisor/nv-hypervisor/nvram"

// Guest is the virtual hardware of one VM, as an operator defines it. Pin turns
// it into a Launch, in which nothing is left to QEMU's defaults.
type Guest struct {
	Memory  nvram.Bytes `toml:"memory" json:"memory"`                       // RAM size; a multiple of 2 MiB
	CPUs    int         `toml:"cpus,omitempty" json:"cpus"`                 // vCPUs; 0 means 1
	Machine string      `toml:"machine,omitempty" json:"machine,omitempty"` // "q35", "pc" or a versioned type; Pin resolves aliases
	CPU     string      `toml:"cpu,omitempty" json:"cpu,omitempty"`         // CPU model; empty: "host" under KVM, "max" under TCG
	Accel   string      `toml:"accel,omitempty" json:"accel,omitempty"`     // "kvm", "tcg"; empty: kvm when /dev/kvm works, else tcg
	QEMU    string      `toml:"qemu,omitempty" json:"qemu,omitempty"`       // path of the QEMU binary; empty: the host's default
	Disks   []Disk      `toml:"disk,omitempty" json:"disks,omitempty"`
	Nets    []Net       `toml:"net,omitempty" json:"nets,omitempty"`
	Kernel  string      `toml:"kernel,omitempty" json:"kernel,omitempty"`
	Initrd  string      `toml:"initrd,omitempty" json:"initrd,omitempty"`
	Cmdline string      `toml:"cmdline,omitempty" json:"cmdline,omitempty"`
	Extra   []string    `toml:"extra_args,omitempty" json:"extra_args,omitempty"` // appended verbatim to QEMU's command line

	// Raw, when set, is a whole foreign QEMU command line (nvh qemu) from which
	// memory, machine, accelerator and the options we own were taken out.
	Raw []string `toml:"raw_args,omitempty" json:"raw_args,omitempty"`
}

// Disk is one virtio-blk drive backed by an image on the host.
type Disk struct {
	Path     string `toml:"path" json:"path"`
	Format   string `toml:"format,omitempty" json:"format,omitempty"` // "raw" (default) or "qcow2"
	Cache    string `toml:"cache,omitempty" json:"cache,omitempty"`   // "none" (default), "directsync"; "writeback", "writethrough", "unsafe" only with Force
	ReadOnly bool   `toml:"read_only,omitempty" json:"read_only,omitempty"`
	Force    bool   `toml:"force_unsafe_cache,omitempty" json:"force_unsafe_cache,omitempty"`
}

// Net is one virtio-net interface.
type Net struct {
	Type    string   `toml:"type" json:"type"`                           // "user", "tap" or "bridge"
	Device  string   `toml:"device,omitempty" json:"device,omitempty"`   // tap interface (tap) or bridge name (bridge)
	MAC     string   `toml:"mac,omitempty" json:"mac,omitempty"`         // empty: derived from the VM's UUID
	Forward []string `toml:"forward,omitempty" json:"forward,omitempty"` // user: "tcp::2222-:22"
}
