package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/nv-hypervisor/nv-hypervisor/lab/kernel"
	"github.com/nv-hypervisor/nv-hypervisor/lab/plan"
	"github.com/nv-hypervisor/nv-hypervisor/nvram"
)

// Persistence says how far a store must get to survive a power cut, in the kernel's words for persistence_domain.
type Persistence string

// The two persistence domains.
const (
	MemoryController Persistence = "memory_controller" // what the CPU caches hold is lost
	CPUCache         Persistence = "cpu_cache"         // what the CPU caches hold is written back: eADR
)

// machineValues are QEMU's words for them, the values of nvdimm-persistence=.
var machineValues = map[Persistence]string{MemoryController: "mem-ctrl", CPUCache: "cpu"}

// NVDIMM is one module of persistent memory. Its content is a file in the host's folder.
type NVDIMM struct {
	Size nvram.Bytes `json:"size"` // a multiple of 16 MiB, at least 64 MiB
	Mode plan.Mode   `json:"mode"` // plan.FSDAX or plan.DevDAX
}

// Options describe a host. The zero value of each has a default; only Bin is required.
type Options struct {
	Bin         string        `json:"bin"`              // folder with nvh and nvhd, the programs under test
	Kernel      kernel.Series `json:"kernel"`           // kernel.V6_1 (default) or kernel.V6_12
	QEMU        string        `json:"qemu"`             // that the host runs VMs with: "7.2" (default) or "10.0"
	Persistence Persistence   `json:"persistence"`      // default MemoryController
	NVDIMMs     []NVDIMM      `json:"nvdimms"`          // default one of 512 MiB in fsdax mode
	CPUs        int           `json:"cpus"`             // default 2
	Memory      nvram.Bytes   `json:"memory"`           // DRAM; default 2 GiB
	Disk        nvram.Bytes   `json:"disk"`             // of the disk that holds /var and survives cuts; default 4 GiB, sparse
	Config      string        `json:"config,omitempty"` // more lines for nvhd.toml, before the pools
	NoDetector  bool          `json:"no_detector"`      // boot without the kernel module of the outage detector
	Unarmed     bool          `json:"unarmed"`          // the NVDIMMs say that they could not keep what is written to them
}

// Defaults.
const (
	defaultNVDIMM = 512 * nvram.MiB
	defaultMemory = 2 * nvram.GiB
	defaultDisk   = 4 * nvram.GiB
	defaultCPUs   = 2
)

// programs under test, in Options.Bin.
var programs = []string{"nvh", "nvhd"}

// Limits of an NVDIMM: Linux divides persistent memory into subsections, and wants regions in multiples of 16 MiB.
const (
	nvdimmAlign = 16 * nvram.MiB
	nvdimmLeast = 64 * nvram.MiB
	labelSize   = 128 * nvram.KiB // beside the memory itself, at the end of the file
)

// leastMemory is what the host's kernel and a small VM with its memory in DRAM need.
const leastMemory = 512 * nvram.MiB

// qemus are the versions of QEMU in a host, by the names Options has for them.
var qemus = map[string]string{"7.2": plan.QEMU7, "10.0": plan.QEMU10}

func (o *Options) complete() error {
	setDefault(&o.Kernel, kernel.V6_1)
	setDefault(&o.QEMU, "7.2")
	setDefault(&o.Persistence, MemoryController)
	setDefault(&o.CPUs, defaultCPUs)
	setDefault(&o.Memory, defaultMemory)
	setDefault(&o.Disk, defaultDisk)
	if len(o.NVDIMMs) == 0 {
		o.NVDIMMs = []NVDIMM{{Size: defaultNVDIMM, Mode: plan.FSDAX}}
	}
	if o.Kernel != kernel.V6_1 && o.Kernel != kernel.V6_12 {
		return fmt.Errorf("kernel %q is unknown: know %s, %s", o.Kernel, kernel.V6_1, kernel.V6_12)
	}
	if qemus[o.QEMU] == "" {
		return fmt.Errorf("QEMU %q is unknown: know 7.2, 10.0", o.QEMU)
	}
	if machineValues[o.Persistence] == "" {
		return fmt.Errorf("persistence domain %q is unknown: know %s, %s", o.Persistence, MemoryController, CPUCache)
	}
	for i, d := range o.NVDIMMs {
		if d.Mode != plan.FSDAX && d.Mode != plan.DevDAX {
			return fmt.Errorf("NVDIMM %d: mode %q is unknown: know %s, %s", i, d.Mode, plan.FSDAX, plan.DevDAX)
		}
		if d.Size%nvdimmAlign != 0 || d.Size < nvdimmLeast {
			return fmt.Errorf("NVDIMM %d: a size of %v is not possible: take a multiple of %v, %v or more", i, d.Size, nvdimmAlign, nvdimmLeast)
		}
	}
	if o.CPUs < 1 {
		return fmt.Errorf("%d CPUs are not possible: take 1 or more", o.CPUs)
	}
	if o.Memory < leastMemory || o.Memory%nvram.MiB != 0 {
		return fmt.Errorf("%v of DRAM are not possible: take a multiple of 1 MiB, %v or more", o.Memory, leastMemory)
	}
	if o.Bin == "" {
		return fmt.Errorf("no folder with nvh and nvhd is given")
	}
	var err error
	o.Bin, err = filepath.Abs(o.Bin)
	return err
}

// checkPrograms finds the programs under test before a host is made for them.
func (o Options) checkPrograms() error {
	for _, name := range programs {
		if _, err := os.Stat(filepath.Join(o.Bin, name)); err != nil {
			return fmt.Errorf("find the program under test: %w: run make build", err)
		}
	}
	return nil
}

func setDefault[T comparable](value *T, to T) {
	var zero T
	if *value == zero {
		*value = to
	}
}

var hostName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

// CheckName tells whether a host can have this name.
func CheckName(name string) error {
	if !hostName.MatchString(name) {
		return fmt.Errorf("%q cannot be the name of a host: use up to 32 of a-z, 0-9 and -", name)
	}
	return nil
}

// poolName is the name of the n-th NVDIMM's pool.
func poolName(n int) string { return fmt.Sprintf("nv%d", n) }

// plan is what the inside does at a boot.
func (o Options) plan() plan.Plan {
	p := plan.Plan{POD: !o.NoDetector}
	for n, d := range o.NVDIMMs {
		p.NVDIMMs = append(p.NVDIMMs, plan.NVDIMM{Pool: poolName(n), Mode: d.Mode})
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# Written at the first boot of an emulated host.\nqemu = %q\n%s", qemus[o.QEMU], o.Config)
	for n := range o.NVDIMMs {
		fmt.Fprintf(&b, "\n[[pool]]\nname = %q\npath = %q\n", poolName(n), p.PoolPath(n))
	}
	p.Daemon = b.String()
	return p
}
