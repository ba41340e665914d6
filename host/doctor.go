package host

import (
	"context"
	"fmt"
	"strings"

	"github.com/nv-hypervisor/nv-hypervisor/qemu"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

// The outcomes of a check: the host keeps its promises; it keeps them with a restriction; it does not keep them.
const (
	statusOK   = "ok"
	statusWarn = "warn"
	statusFail = "fail"
)

// Doctor examines everything persistence depends on; each finding has a remedy. doctor_pools.go has the checks of
// memory, doctor_disks.go those of disks, doctor_system.go those of the machine around.
func (h *Host) Doctor(ctx context.Context) ([]Check, error) {
	checks := []Check{h.checkKVM(), h.checkQEMU(ctx), h.checkUser(), h.checkRealtime()}
	checks = append(checks, h.checkStateDir(), h.checkSocket(), checkClock())
	detectors, err := h.Detectors(ctx)
	if err != nil {
		return nil, err
	}
	checks = append(checks, checkDetectors(detectors)...)
	for _, p := range h.allPools() {
		checks = append(checks, h.checkPool(ctx, p)...)
	}
	for _, v := range h.Ordered() {
		checks = append(checks, checkVM(v))
		checks = append(checks, h.checkDisks(v.Info())...)
	}
	return checks, nil
}

func ok(name, format string, args ...any) Check {
	return Check{Name: name, Status: statusOK, Detail: fmt.Sprintf(format, args...)}
}

func warned(name, detail, remedy string) Check { return Check{name, statusWarn, detail, remedy} }

func failed(name, detail, remedy string) Check { return Check{name, statusFail, detail, remedy} }

func (h *Host) checkKVM() Check {
	if h.kvm != nil {
		return warned("kvm", h.kvm.Error()+"; guests run under TCG", "Enable virtualisation in the firmware and load kvm_intel or kvm_amd.")
	}
	return ok("kvm", "/dev/kvm works")
}

func (h *Host) checkQEMU(ctx context.Context) Check {
	b, err := qemu.Probe(ctx, h.config.QEMU)
	if err != nil {
		return failed("qemu", err.Error(), "Install qemu-system-x86, or set qemu in "+DefaultConfigPath+".")
	}
	if err := b.Has(qemu.FeatureIgnoreShared); err != nil {
		return failed("qemu", err.Error(), "Install QEMU 7.2 or newer.")
	}
	return ok("qemu", "%s, version %s", b.Path, b.Version)
}

func checkVM(v *vm.VM) Check {
	info := v.Info()
	name := "vm " + info.Name
	detail := string(info.State)
	if info.Reason != "" {
		detail += ": " + info.Reason
	}
	switch {
	case info.State == vm.Failed:
		return failed(name, detail, "See nvh logs "+info.Name+"; start it again with nvh start.")
	case info.State == vm.Held:
		return warned(name, detail, "Remove the cause and run nvh restore, or give the image up with nvh start --discard-image.")
	case len(info.Warnings) > 0:
		return warned(name, detail+"; "+strings.Join(info.Warnings, "; "), "See nvh info "+info.Name+".")
	}
	return ok(name, "%s", detail)
}
