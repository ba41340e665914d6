package host

import (
	"context"
	"fmt"
	"strings"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/qemu"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

// The outcomes of a check.
const (
	statusOK   = "ok"
	statusWarn = "warn"
	statusFail = "fail"
)

// Doctor examines everything persistence depends on; each finding has a remedy.
func (h *Host) Doctor(ctx context.Context) ([]Check, error) {
	checks := []Check{h.checkKVM(), h.checkQEMU(ctx), h.checkRealtime()}
	checks = append(checks, h.checkPools(ctx)...)
	for _, v := range h.Ordered() {
		checks = append(checks, checkVM(v))
	}
	return checks, nil
}

func (h *Host) checkKVM() Check {
	if h.kvm != nil {
		return Check{"kvm", statusWarn, h.kvm.Error() + "; guests run under TCG", "Enable virtualisation in the firmware and load kvm_intel or kvm_amd."}
	}
	return Check{Name: "kvm", Status: statusOK, Detail: "/dev/kvm works"}
}

func (h *Host) checkQEMU(ctx context.Context) Check {
	b, err := qemu.Probe(ctx, h.config.QEMU)
	if err != nil {
		return Check{"qemu", statusFail, err.Error(), "Install qemu-system-x86, or set qemu in " + DefaultConfigPath + "."}
	}
	if err := b.Has(qemu.FeatureIgnoreShared); err != nil {
		return Check{"qemu", statusFail, err.Error(), "Install QEMU 7.2 or newer."}
	}
	return Check{Name: "qemu", Status: statusOK, Detail: fmt.Sprintf("%s, version %s", b.Path, b.Version)}
}

func (h *Host) checkRealtime() Check {
	switch {
	case !h.config.Realtime:
		return Check{"realtime", statusWarn, "switched off by configuration", "Set realtime = true: a busy host delays the save otherwise."}
	case !h.saver.Realtime():
		return Check{"realtime", statusWarn, "SCHED_FIFO was refused", "Run nvhd as root or with CAP_SYS_NICE."}
	case h.locked != nil:
		return Check{"realtime", statusWarn, "memory is not locked: " + h.locked.Error(), "Run nvhd as root or with CAP_IPC_LOCK."}
	}
	return Check{Name: "realtime", Status: statusOK, Detail: "the save runs at SCHED_FIFO in locked memory"}
}

func (h *Host) checkPools(ctx context.Context) []Check {
	pools, _ := h.Pools(ctx)
	var checks []Check
	for _, p := range pools {
		c := Check{Name: "pool " + p.Name, Status: statusOK, Detail: fmt.Sprintf("%s %s, %v free of %v", p.Kind, p.Path, p.Free, p.Size)}
		switch {
		case p.ID == (nvram.ID{}):
			c.Status, c.Detail, c.Remedy = statusFail, p.Warning, fmt.Sprintf("nvh nvram check %s tells what is wrong; nvh nvram init %s makes a new one.", p.Path, p.Path)
		case p.Kind == nvram.KindShm:
			c.Status, c.Remedy = statusWarn, "Memory of this kind survives processes, not the host: use NVDIMM, CXL or battery-backed memory for data you need."
			c.Detail += ", not persistent across a host boot"
		case p.Kind == nvram.KindFSDAX && !p.MapSync:
			c.Status, c.Remedy = statusFail, "Mount the file system with -o dax on a pmem device."
			c.Detail += ", MAP_SYNC was not granted"
		}
		checks = append(checks, c)
	}
	return checks
}

func checkVM(v *vm.VM) Check {
	info := v.Info()
	c := Check{Name: "vm " + info.Name, Status: statusOK, Detail: string(info.State)}
	if info.Reason != "" {
		c.Detail += ": " + info.Reason
	}
	switch info.State {
	case vm.Failed:
		c.Status, c.Remedy = statusFail, "See nvh logs "+info.Name+"; start it again with nvh start."
	case vm.Held:
		c.Status, c.Remedy = statusWarn, "Remove the cause and run nvh restore, or give the image up with nvh start --discard-image."
	}
	for _, d := range info.Definition.Disks {
		if d.Force {
			c.Status, c.Remedy = statusWarn, "Use cache none, or directsync if the disk has no power-loss protection."
			c.Detail += fmt.Sprintf("; disk %s is forced to cache %q: a resumed guest may miss writes it believes are on disk", d.Path, d.Cache)
		}
	}
	if len(info.Warnings) > 0 && c.Status == statusOK {
		c.Status, c.Remedy = statusWarn, "See nvh info "+info.Name+"."
		c.Detail += "; " + strings.Join(info.Warnings, "; ")
	}
	return c
}
