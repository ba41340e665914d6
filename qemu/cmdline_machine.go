package qemu

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
)

// memory reads -m: a size, whose unit is MiB when it has none.
func (p *parser) memory(value string) error {
	for i, o := range splitOptions(value) {
		switch {
		case o.key == "size" || (o.key == "" && i == 0):
			size, err := parseMemory(o.value)
			if err != nil {
				return fmt.Errorf("-m %s: %w", value, err)
			}
			p.guest.Memory = size
		case o.key == "slots" || o.key == "maxmem":
			return fmt.Errorf("-m %s: memory hotplug is not possible, added memory would not lie in the pool: leave out slots and maxmem", value)
		default:
			return fmt.Errorf("-m %s: %q is not understood", value, o.key+o.value)
		}
	}
	return nil
}

// parseMemory reads a size as QEMU's -m does: a number, possibly with a fraction,
// and a unit that is a power of 1024.
func parseMemory(s string) (nvram.Bytes, error) {
	digits := strings.TrimRight(s, "bBkKmMgGtT")
	shift := 20
	switch strings.ToUpper(s[len(digits):]) {
	case "B":
		shift = 0
	case "K":
		shift = 10
	case "", "M":
	case "G":
		shift = 30
	case "T":
		shift = 40
	default:
		return 0, fmt.Errorf("%q is not a size", s)
	}
	if strings.Trim(digits, "0123456789.") != "" {
		return 0, fmt.Errorf("%q is not a size", s)
	}
	if n, err := strconv.ParseUint(digits, 10, 62); err == nil && n <= math.MaxInt64>>shift {
		return nvram.Bytes(n << shift), nil
	}
	n, err := strconv.ParseFloat(digits, 64)
	if err != nil || n*float64(uint64(1)<<shift) >= math.MaxInt64 {
		return 0, fmt.Errorf("%q is not a size", s)
	}
	return nvram.Bytes(n * float64(uint64(1)<<shift)), nil
}

// cpus reads -smp. A topology is kept as it is.
func (p *parser) cpus(value string) error {
	numbers := make(map[string]int)
	topology := false
	for i, o := range splitOptions(value) {
		key := o.key
		if key == "" && i == 0 {
			key = "cpus"
		}
		n, err := strconv.Atoi(o.value)
		if err != nil || n < 1 || n > 1<<16 {
			return fmt.Errorf("-smp %s: %q is not a number of CPUs", value, o.value)
		}
		numbers[key] = n
		topology = topology || key != "cpus"
	}
	count := numbers["cpus"]
	if count == 0 {
		count = numbers["maxcpus"]
	}
	if count == 0 {
		count = 1
		for _, level := range []string{"drawers", "books", "sockets", "dies", "clusters", "modules", "cores", "threads"} {
			if n := numbers[level]; n > 0 && count <= 1<<20/n {
				count *= n
			}
		}
	}
	if numbers["maxcpus"] > count {
		return fmt.Errorf("-smp %s: CPU hotplug is not possible, a resumed machine would lack the added CPUs: leave out maxcpus", value)
	}
	p.guest.CPUs = count
	if topology {
		p.keep("-smp", value)
	}
	return nil
}

// machine reads -machine and -M. Pin refuses the properties that are ours.
func (p *parser) machine(value string) error {
	for i, o := range splitOptions(value) {
		switch {
		case o.key == "type" || (o.key == "" && i == 0):
			p.guest.Machine = o.value
		case o.key == "accel":
			p.accels = append(p.accels, strings.Split(o.value, ":")...)
		case o.key == "memory-backend":
			return fmt.Errorf("-machine %s: memory-backend is not possible: the RAM lies in the VM's pool", value)
		case o.key == "":
			p.properties = append(p.properties, o.value)
		default:
			p.properties = append(p.properties, o.key+"="+escape(o.value))
		}
	}
	return nil
}

// accel reads -accel, which may be given several times in order of preference.
func (p *parser) accel(value string) error {
	p.accels = append(p.accels, strings.TrimPrefix(value, "accel="))
	return nil
}

// chooseAccel is the first wanted accelerator that works here. When none does,
// the first is kept, so that Pin says why it does not.
func (p *parser) chooseAccel() string {
	for _, a := range p.accels {
		name, _, _ := strings.Cut(a, ",")
		if name == "tcg" || (name == "kvm" && KVM() == nil) {
			return a
		}
	}
	if len(p.accels) > 0 {
		return p.accels[0]
	}
	return ""
}

func (p *parser) object(value string) error {
	parameters := splitOptions(value)
	if len(parameters) == 0 || !strings.HasPrefix(parameters[0].value, "memory-backend-") {
		p.keep("-object", value)
		return nil
	}
	if id, _ := lookup(parameters, "id"); id == ramID {
		return fmt.Errorf("-object %s: the id %q is ours: choose another one", value, ramID)
	}
	share, _ := lookup(parameters, "share")
	if parameters[0].value != "memory-backend-file" && share != "off" && (share != "" || parameters[0].value == "memory-backend-memfd") {
		return fmt.Errorf("-object %s: shared memory that is not a file would be lost in a power cut: use share=off", value)
	}
	p.keep("-object", value)
	return nil
}

func (p *parser) numa(value string) error {
	parameters := splitOptions(value)
	for _, key := range []string{"mem", "memdev"} {
		if _, ok := lookup(parameters, key); ok {
			return fmt.Errorf("-numa %s: %s is not possible: the RAM is one piece in the VM's pool", value, key)
		}
	}
	p.keep("-numa", value)
	return nil
}

func (p *parser) device(value string) error {
	driver := value
	if parameters := splitOptions(value); len(parameters) > 0 && !strings.HasPrefix(value, "{") {
		driver = parameters[0].value
	}
	if strings.Contains(driver, "vfio-") || strings.Contains(driver, "virtio-9p") {
		return fmt.Errorf("-device %s: its state cannot be saved: use an emulated or virtio device", value)
	}
	p.keep("-device", value)
	return nil
}
