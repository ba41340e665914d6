package nvdimm

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Domain is how far a store must get to survive a power cut: the attribute persistence_domain of a region
// (drivers/nvdimm/region_devs.c of the kernel; ACPI 6.5, section 5.2.26.9, platform capabilities).
type Domain string

// The domains, the weakest first.
const (
	DomainNone             Domain = "none"              // the platform does not say
	DomainMemoryController Domain = "memory_controller" // a store must be flushed from the CPU cache
	DomainCPUCache         Domain = "cpu_cache"         // a store is safe once it is in the CPU cache
)

// weakness orders domains.
var weakness = map[Domain]int{DomainNone: 0, DomainMemoryController: 1, DomainCPUCache: 2}

// Weakest is the domain of memory that consists of these regions.
func Weakest(regions []Region) Domain {
	if len(regions) == 0 {
		return DomainNone
	}
	least := DomainCPUCache
	for _, r := range regions {
		if weakness[r.Domain] < weakness[least] {
			least = r.Domain
		}
	}
	return least
}

// Region is memory that one DIMM makes up, or several that are interleaved.
type Region struct {
	Name     string    `json:"name"`
	Size     uint64    `json:"size"` // bytes
	Domain   Domain    `json:"persistence_domain"`
	NUMANode int       `json:"numa_node"` // -1: not known
	ReadOnly bool      `json:"read_only"`
	Active   bool      `json:"active"`    // a driver has it: its namespaces can be used
	BadBytes uint64    `json:"bad_bytes"` // known uncorrectable errors
	Mappings []Mapping `json:"mappings"`
}

// Mapping is the part of a DIMM that belongs to a region.
type Mapping struct {
	DIMM     string `json:"dimm"`
	Offset   uint64 `json:"offset"` // bytes, on the DIMM
	Size     uint64 `json:"size"`   // bytes
	Position int    `json:"position"`
}

// sectorSize is the unit of the attribute badblocks.
const sectorSize = 512

// Region reads one region by its name.
func (s System) Region(name string) (Region, error) {
	f := folder{path: s.path("sys/bus/nd/devices", name)}
	if _, err := os.Stat(f.path); err != nil {
		return Region{Name: name}, fmt.Errorf("NVDIMM region: %w", err)
	}
	r := Region{Name: name, Domain: Domain(f.text("persistence_domain")), NUMANode: f.numaNode(), Active: f.has("driver")}
	if _, known := weakness[r.Domain]; !known {
		r.Domain = DomainNone
	}
	r.Size, _ = f.number("size")
	readOnly, _ := f.number("read_only")
	r.ReadOnly = readOnly != 0
	count, _ := f.number("mappings")
	for i := range count {
		m, err := parseMapping(f.text(fmt.Sprintf("mapping%d", i)))
		if err != nil && f.err == nil {
			f.err = err
		}
		r.Mappings = append(r.Mappings, m)
	}
	var err error
	if r.BadBytes, err = parseBadBlocks(f.text("badblocks")); err != nil && f.err == nil {
		f.err = err
	}
	if f.err != nil {
		return r, fmt.Errorf("read the state of %s: %w", name, f.err)
	}
	return r, nil
}

// parseMapping reads "nmem0,0,17179869184,0": the DIMM, where the part starts on it, its size, its place in the interleave set.
func parseMapping(text string) (Mapping, error) {
	fields := strings.Split(text, ",")
	if len(fields) < 3 || !dimmName.MatchString(fields[0]) {
		return Mapping{}, fmt.Errorf("mapping %q: not DIMM,OFFSET,SIZE,POSITION", text)
	}
	m := Mapping{DIMM: fields[0]}
	var err error
	if m.Offset, err = strconv.ParseUint(fields[1], 0, 64); err != nil {
		return Mapping{}, fmt.Errorf("mapping %q: %w", text, err)
	}
	if m.Size, err = strconv.ParseUint(fields[2], 0, 64); err != nil {
		return Mapping{}, fmt.Errorf("mapping %q: %w", text, err)
	}
	if len(fields) > 3 { // since Linux 4.13
		if m.Position, err = strconv.Atoi(fields[3]); err != nil {
			return Mapping{}, fmt.Errorf("mapping %q: %w", text, err)
		}
	}
	return m, nil
}

// parseBadBlocks adds up lines of "SECTOR COUNT".
func parseBadBlocks(text string) (uint64, error) {
	var sum uint64
	for line := range strings.Lines(text) {
		_, count, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, err := strconv.ParseUint(strings.TrimSpace(count), 10, 32)
		if err != nil {
			return sum, fmt.Errorf("badblocks: line %q: %w", line, err)
		}
		sum += n * sectorSize
	}
	return sum, nil
}

// numaNode reads the node, which is -1 where the platform does not say.
func (f *folder) numaNode() int {
	if n, err := strconv.Atoi(f.text("numa_node")); err == nil {
		return n
	}
	return -1
}

// Problems tells what is wrong with the region itself, not with its DIMMs.
func (r Region) Problems() []Problem {
	var list []Problem
	if r.Domain == DomainNone {
		list = append(list, Problem{Where: r.Name, What: "the platform does not say what survives a power cut",
			Remedy: "find out from the vendor whether the memory controller's buffers are flushed (ADR)"})
	}
	if r.BadBytes > 0 {
		list = append(list, Problem{Where: r.Name, What: fmt.Sprintf("%d bytes cannot be read: a guest that touches them is killed", r.BadBytes),
			Remedy: "find them with 'ndctl list --regions --media-errors'; make room and write them anew, or replace the module"})
	}
	if r.ReadOnly {
		list = append(list, Problem{true, r.Name, "the region is read-only", "write 0 to its attribute read_only, or find out who made it so"})
	}
	return list
}
