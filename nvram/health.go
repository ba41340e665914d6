package nvram

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/internal/blockdev"
	"github.com/nv-hypervisor/nv-hypervisor/nvram/nvdimm"
)

// Health is what the machine says of the memory that a pool lies in, at one moment.
type Health struct {
	Path    string          `json:"path"`
	Kind    Kind            `json:"kind,omitempty"` // empty: there is no pool
	Devices []string        `json:"devices"`        // below it: "pmem0", "dax0.0", "sda"
	Regions []nvdimm.Region `json:"regions"`
	DIMMs   []nvdimm.DIMM   `json:"dimms"`
	// Domain is the weakest persistence domain of the regions; none for kinds without NVDIMMs.
	Domain nvdimm.Domain `json:"persistence_domain"`
	// DirtyShutdown is the sum of what the DIMMs count. Each count only grows, so an equal sum says that none has
	// changed since, as long as the DIMMs are the same; one that does not count adds 0.
	DirtyShutdown uint64          `json:"dirty_shutdown"`
	FileSystem    *blockdev.Mount `json:"file_system,omitempty"` // nil for a device
	DAX           bool            `json:"dax"`                   // loads and stores reach the memory and not the page cache
	MapSync       bool            `json:"map_sync"`              // MAP_SYNC was granted: a cache line flush makes a store persistent
	Pages         *PageSample     `json:"pages,omitempty"`       // nil: not measured
	Problems      []Finding       `json:"problems"`              // those of severity error forbid to trust the pool
}

// Err joins the problems that forbid to trust the pool; they wrap ErrUnhealthy.
func (h Health) Err() error {
	var errs []error
	for _, p := range h.Problems {
		errs = append(errs, p.Err)
	}
	return errors.Join(errs...)
}

// Summary is the problems that forbid to trust the pool, in one line; empty if there is none.
func (h Health) Summary() string {
	var text []string
	for _, p := range h.Problems {
		if p.Severity == SeverityError {
			text = append(text, p.Where+": "+p.What)
		}
	}
	return strings.Join(text, "; ")
}

// Health examines the memory under the pool. It reads some small files and measures nothing. The error tells that the machine could not
// be asked; what it said is in the Health.
func (p *Pool) Health(system nvdimm.System) (Health, error) {
	return p.medium.health(system, p.kind, p.mapSync)
}

// HealthOf examines the memory under a path, whether or not there is a pool, and beside a process that uses it. Of a pool the page
// mappings are measured as well.
func HealthOf(path string, system nvdimm.System) (Health, error) {
	p, err := OpenReadOnly(path)
	if err == nil {
		defer p.Close() // opened to read: closing cannot lose anything
		h, err := p.Health(system)
		if err == nil {
			h.Pages, err = p.MeasurePages()
		}
		return h, err
	}
	if path, err = filepath.Abs(path); err != nil {
		return Health{}, err
	}
	f, err := os.OpenFile(path, unix.O_PATH, 0)
	if err != nil {
		return Health{}, err
	}
	defer f.Close() // opened to look at
	return (&medium{File: f, path: path}).health(system, "", false)
}

// Trusted is nil, or tells why nothing that must survive may be put into the pool, and no image in it be resumed. The error wraps
// ErrUnhealthy.
func (p *Pool) Trusted() error {
	h, err := p.Health(nvdimm.Host)
	if err != nil {
		return err
	}
	return inPool(p.medium.path, h.Err())
}

// DirtyShutdowns is Health.DirtyShutdown. It changes only when the machine boots.
func (p *Pool) DirtyShutdowns() (uint64, error) {
	h, err := p.Health(nvdimm.Host)
	return h.DirtyShutdown, err
}

func (m *medium) health(system nvdimm.System, kind Kind, mapSync bool) (Health, error) {
	h := Health{
		Path: m.path, Kind: kind, Devices: []string{}, Regions: []nvdimm.Region{}, DIMMs: []nvdimm.DIMM{},
		Domain: nvdimm.DomainNone, MapSync: mapSync, Problems: []Finding{},
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(m.Fd()), &st); err != nil {
		return h, inPool(m.path, err)
	}
	if err := h.findMemory(system, &st); err != nil {
		return h, inPool(m.path, fmt.Errorf("find the memory below it: %w", err))
	}
	if st.Mode&unix.S_IFMT == unix.S_IFCHR {
		h.DAX = true
	} else {
		h.findFileSystem(system, int(m.Fd()), st.Dev)
	}
	h.judge()
	return h, nil
}

func (h *Health) findMemory(system nvdimm.System, st *unix.Stat_t) error {
	below, err := system.Below(st)
	if err != nil {
		return err
	}
	h.Devices = append(h.Devices, below.Devices...)
	h.Regions = append(h.Regions, below.Regions...)
	h.Domain = nvdimm.Weakest(h.Regions)
	for _, r := range h.Regions {
		for _, mapping := range r.Mappings {
			if slices.ContainsFunc(h.DIMMs, func(d nvdimm.DIMM) bool { return d.Name == mapping.DIMM }) {
				continue
			}
			d, err := system.DIMM(mapping.DIMM)
			if err != nil {
				return err
			}
			h.DIMMs = append(h.DIMMs, d)
			if d.DirtyShutdown != nil {
				h.DirtyShutdown += *d.DirtyShutdown
			}
		}
	}
	return nil
}

// findFileSystem learns how the file system is mounted, and of the file itself whether its pages are the memory's: the mount option dax
// alone does not say, see the kernel's Documentation/filesystems/dax.rst. A directory, where there is no pool yet, has no pages.
func (h *Health) findFileSystem(system nvdimm.System, fd int, dev uint64) {
	if mount, err := blockdev.MountOf(string(system), dev); err == nil {
		h.FileSystem = &mount
	}
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS, &st); err != nil {
		return
	}
	h.DAX = st.Attributes&unix.STATX_ATTR_DAX != 0
	if fs := h.FileSystem; fs != nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
		h.DAX = fs.Has("dax") || fs.Has("dax=always")
	}
}

// judge finds out what is wrong.
func (h *Health) judge() {
	for _, d := range h.DIMMs {
		h.report(d.Problems())
	}
	for _, r := range h.Regions {
		h.report(r.Problems())
	}
	switch h.Kind {
	case KindFSDAX:
		h.judgeFileSystem()
	case KindDevDAX:
		if len(h.Regions) == 0 {
			h.report([]nvdimm.Problem{{Where: h.where(), What: "the kernel knows no NVDIMM behind the device: it may be ordinary memory",
				Remedy: "use a device that 'ndctl list --device-dax' shows, unless you know that this memory keeps its content"}})
		}
	}
}

func (h *Health) judgeFileSystem() {
	switch {
	case !h.DAX:
		h.report([]nvdimm.Problem{{Fatal: true, Where: h.where(), What: "the file system does not map the memory itself (no DAX): a power cut loses what is in the page cache",
			Remedy: "mount ext4 or xfs with -o dax on a pmem device, or make the pool of kind file"}})
	case !h.MapSync:
		h.report([]nvdimm.Problem{{Fatal: true, Where: h.where(), What: "MAP_SYNC was not granted: a power cut may lose the file system's record of where the data is",
			Remedy: "use ext4 or xfs on a pmem device that can flush itself"}})
	case len(h.DIMMs) == 0:
		h.report([]nvdimm.Problem{{Where: h.where(), What: "the kernel knows no DIMM behind it, so nothing tells whether the memory is healthy",
			Remedy: "watch it by its vendor's tool"}})
	}
}

// where names what the pool lies on.
func (h *Health) where() string {
	if len(h.Devices) == 0 {
		return h.Path
	}
	return strings.Join(h.Devices, ", ")
}

func (h *Health) report(list []nvdimm.Problem) {
	for _, p := range list {
		f := Finding{Severity: SeverityWarning, Where: p.Where, What: p.What, Remedy: p.Remedy}
		if p.Fatal {
			f.Severity, f.Err = SeverityError, &problem{ErrUnhealthy, p.Where + ": " + p.What, p.Remedy}
		}
		h.Problems = append(h.Problems, f)
	}
}
