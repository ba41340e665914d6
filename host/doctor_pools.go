package host

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/nvram/nvdimm"
	"github.com/nv-hypervisor/nv-hypervisor/qemu"
)

func (h *Host) allPools() []*pool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.pools)
}

// checkPool goes through the gates that stand between a pool and trust.
func (h *Host) checkPool(ctx context.Context, p *pool) []Check {
	name := "pool " + p.name
	if p.err != nil {
		return []Check{failed(name, p.err.Error(), fmt.Sprintf("nvh nvram check %s tells what is wrong; nvh nvram init %s makes a new one.", p.path, p.path))}
	}
	health, err := p.Pool.Health(p.system)
	if err != nil {
		return []Check{failed(name, err.Error(), "The kernel's answers below /sys/bus/nd are not understood: report this with a copy of them.")}
	}
	info := p.Pool.Info()
	checks := []Check{checkDurability(name, info), checkModules(name+": memory", p, health)}
	if info.Layout == nvram.LayoutSingle {
		checks = append(checks, h.checkOffset(ctx, name+": layout"))
	}
	if info.Kind == nvram.KindFSDAX || info.Kind == nvram.KindDevDAX {
		checks = append(checks, h.checkDomain(name+": domain", health), checkMapping(name+": mapping", info, health), checkPages(name+": pages", p))
	}
	return checks
}

// checkDurability says what the kind of the pool survives.
func checkDurability(name string, info nvram.PoolInfo) Check {
	detail := fmt.Sprintf("%s %s, %v free of %v", info.Kind, info.Path, info.Free, info.Size)
	switch info.Kind {
	case nvram.KindShm:
		return warned(name, detail+", not persistent across a host boot",
			"Memory of this kind survives processes, not the host: use NVDIMM, CXL or battery-backed memory for data you need.")
	case nvram.KindFile:
		return warned(name, detail+", persistent only where a battery gives the time to write the page cache back",
			"Make sure that the battery lasts for as long as writing all guest RAM to this disk takes.")
	}
	return ok(name, "%s, stores are made persistent by %s", detail, info.Persistence)
}

// checkModules judges the DIMMs, and what else forbids to trust the memory.
func checkModules(name string, p *pool, health nvram.Health) Check {
	detail := moduleSummary(health)
	var remedies []string
	for _, problem := range health.Problems {
		remedies = append(remedies, problem.Where+": "+problem.Remedy)
		if problem.Severity != nvram.SeverityError {
			detail += "; " + problem.Where + ": " + problem.What
		}
	}
	remedy := strings.Join(remedies, "; ")
	switch text := p.distrust(); {
	case text != "":
		return failed(name, "it "+text, remedy)
	case len(health.Problems) > 0:
		return warned(name, detail, remedy)
	}
	return ok(name, "%s", detail)
}

// moduleSummary names the DIMMs with what they count: "nmem0, nmem1, 7 dirty shutdowns".
func moduleSummary(health nvram.Health) string {
	if len(health.DIMMs) == 0 {
		return "no NVDIMM below it"
	}
	var names []string
	counted := false
	for _, d := range health.DIMMs {
		names = append(names, d.Name)
		counted = counted || d.DirtyShutdown != nil
	}
	text := strings.Join(names, ", ")
	if counted {
		return fmt.Sprintf("%s, %d dirty shutdowns", text, health.DirtyShutdown)
	}
	return text + ", dirty shutdowns not counted"
}

// checkOffset: in a pool of one file QEMU must be able to map from the middle.
func (h *Host) checkOffset(ctx context.Context, name string) Check {
	b, err := qemu.Probe(ctx, h.config.QEMU)
	if err == nil {
		err = b.Has(qemu.FeatureOffset)
	}
	if err != nil {
		return failed(name, "all regions lie in one file or device: "+err.Error(),
			"Set qemu in "+DefaultConfigPath+" to a QEMU 8.1 or newer, or use a pool that is a directory.")
	}
	return ok(name, "all regions lie in one file or device, which the installed QEMU can map")
}

// checkDomain: what loses the contents of the CPU caches must be able to flush all of them.
func (h *Host) checkDomain(name string, health nvram.Health) Check {
	detail := "persistence domain " + string(health.Domain)
	switch {
	case health.Domain == nvdimm.DomainCPUCache:
		return ok(name, "%s: CPU caches survive a power cut", detail)
	case h.cachesFlushable():
		return ok(name, "%s: nvh_pod flushes the CPU caches of all CPUs in an outage", detail)
	case h.config.SlowFlush:
		return warned(name, detail+": CPU caches are written back line by line, which takes as long as reading all guest RAM",
			"Load the kernel module nvh_pod and restart nvhd.")
	}
	return failed(name, detail+": a power cut loses what is in the CPU caches, and nothing can flush them in time: no guest may run in it",
		"Load the kernel module nvh_pod and restart nvhd; or, with a battery, set slow_flush = true in "+DefaultConfigPath+".")
}

// checkMapping: a store must reach the memory, and the file system must not move it.
func checkMapping(name string, info nvram.PoolInfo, health nvram.Health) Check {
	switch {
	case info.Kind == nvram.KindDevDAX:
		return ok(name, "a DAX device")
	case !health.DAX || !health.MapSync:
		detail := "MAP_SYNC was not granted"
		if !health.DAX {
			detail += ", files are not DAX"
		}
		return failed(name, detail, "Mount ext4 or xfs with -o dax on a pmem device.")
	}
	detail := "MAP_SYNC is granted"
	if fs := health.FileSystem; fs != nil {
		detail += fmt.Sprintf(", %s on %s, options %s", fs.Type, fs.Source, strings.Join(fs.Options, ","))
	}
	return ok(name, "%s", detail)
}

// checkPages measures in how large pages guest RAM is mapped.
func checkPages(name string, p *pool) Check {
	sample, err := p.MeasurePages()
	switch {
	case err != nil:
		return failed(name, err.Error(), "Look for media errors with ndctl list --regions --media-errors.")
	case sample.Sampled == 0:
		return ok(name, "nothing is allocated yet, so nothing was measured")
	case sample.Huge < sample.Sampled:
		return warned(name, fmt.Sprintf("%d of %d samples of %v are mapped in pages of that size, the others in small ones", sample.Huge, sample.Sampled, sample.Unit),
			"Make the file system anew with extents of 2 MiB, see docs/nvram.md; guests are correct but slower.")
	}
	return ok(name, "all %d samples are mapped in pages of %v", sample.Sampled, sample.Unit)
}
