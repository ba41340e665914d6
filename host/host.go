// Package host is the daemon's core: it owns the pools, the VMs and the outage
// detectors of one machine, and brings the VMs back after a crash.
//
// What holds after a crash of the daemon at any point: every QEMU goes on running
// and the next daemon adopts it; every change of the set of VMs happened completely
// or not at all; and everything a resume needs is in the pools, so that a pool can
// be imported by a host that has never seen its VMs.
//
// A Host is safe for concurrent use.
package host

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/internal/durable"
	"github.com/nv-hypervisor/nv-hypervisor/outage"
	"github.com/nv-hypervisor/nv-hypervisor/outage/policy"
	"github.com/nv-hypervisor/nv-hypervisor/pod"
	"github.com/nv-hypervisor/nv-hypervisor/pod/webhook"
	"github.com/nv-hypervisor/nv-hypervisor/qemu"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
	"github.com/nv-hypervisor/nv-hypervisor/vm/record"
	"github.com/nv-hypervisor/nv-hypervisor/vm/saver"
)

// Host is one machine's VMs and what they lie in.
type Host struct {
	config  Config
	version string
	log     *slog.Logger
	lock    *os.File
	saver   *saver.Saver
	store   *outage.Store
	clock   *outage.Clock
	outages *outage.Controller
	env     *vm.Env
	events  bus
	kvm     error // why there is no KVM
	locked  error // why memory is not locked

	testing sync.Mutex // one test of the detectors at a time

	mu         sync.Mutex // guards what follows
	pools      []*pool
	vms        map[string]*vm.VM
	creating   map[string]bool  // names Create works on
	broken     map[string]error // VMs whose folder or region cannot be opened
	warnings   []string
	detectors  []pod.Source
	hardware   saver.Hardware   // nil: the kernel gives no help
	power      *policy.Runner   // of the detectors that leave time; nil: there are none
	recovering bool             // until Recover is through
	webhook    *webhook.Watcher // nil: there is none
}

// Open takes possession of the state directory and the pools, and starts the
// saver. No VM is touched before Recover.
func Open(config Config, version string, log *slog.Logger) (_ *Host, err error) {
	h := &Host{
		config: config, version: version, log: log, vms: map[string]*vm.VM{},
		recovering: true, creating: map[string]bool{}, broken: map[string]error{}, kvm: qemu.KVM(),
	}
	defer func() {
		if err != nil {
			h.Close()
		}
	}()
	if err := h.openFolders(); err != nil {
		return nil, err
	}
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	h.clock = &outage.Clock{BootID: boot.String()}
	if h.store, err = outage.OpenStore(filepath.Join(config.StateDir, "timelines")); err != nil {
		return nil, err
	}
	if h.saver, err = saver.New(saver.Config{
		Realtime: config.Realtime, InFlight: config.InFlight, Park: time.Duration(config.Park),
	}); err != nil {
		return nil, err
	}
	h.env = &vm.Env{
		Saver: h.saver, StateDir: h.vmsDir(), RuntimeDir: filepath.Join(config.RuntimeDir, "vms"),
		QEMU: config.QEMU, User: config.QEMUUser, BootID: boot, Log: log, Notify: h.events.publish,
		Caches: vm.Caches{Volatile: cachesVolatile, Flushable: h.cachesFlushable, Slow: config.SlowFlush},
	}
	h.outages = outage.New(h.saver, h.store, h, h.clock, log, h.parallel())
	if config.Realtime {
		h.lockMemory()
	}
	h.openPools()
	if err := h.openVMs(); err != nil {
		return nil, err
	}
	h.sweepPools()
	h.warnAboutHost()
	return h, nil
}

func (h *Host) vmsDir() string { return filepath.Join(h.config.StateDir, "vms") }

func (h *Host) parallel() int {
	if h.config.Parallel > 0 {
		return h.config.Parallel
	}
	return runtime.NumCPU()
}

// openFolders makes the state and runtime folders and locks the first against a
// second daemon.
func (h *Host) openFolders() error {
	for _, dir := range []string{h.config.StateDir, h.vmsDir(), h.config.RuntimeDir, filepath.Join(h.config.RuntimeDir, "vms")} {
		if err := durable.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make %s: %w", dir, err)
		}
	}
	path := filepath.Join(h.config.StateDir, "lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("lock the state directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return vm.WithRemedy(fmt.Errorf("state directory %s is in use by another nvhd: %w", h.config.StateDir, err),
			"Stop the other one, or use another state_dir.")
	}
	h.lock = f
	return nil
}

// lockMemory keeps the daemon's pages in memory: a page fault in the hot path
// could wait for a disk that is losing power.
func (h *Host) lockMemory() {
	// MCL_ONFAULT, because Go reserves address space it does not use.
	const onFault = 4
	h.locked = unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | onFault)
}

func (h *Host) warnAboutHost() {
	if h.kvm != nil {
		h.warn("KVM is not available (%v): guests run under TCG, binary translation, many times slower", h.kvm)
	}
	if h.config.implicit {
		h.warn("no pool is configured: using %s, which survives processes but NOT the host; configure NVRAM in %s", builtinPool, DefaultConfigPath)
	}
	if h.config.Realtime && !h.saver.Realtime() {
		h.warn("real-time priority was refused: a busy host may delay the save; run nvhd with CAP_SYS_NICE")
	}
	if h.locked != nil {
		h.warn("memory could not be locked (%v): run nvhd with CAP_IPC_LOCK", h.locked)
	}
}

func (h *Host) warn(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	h.mu.Lock()
	h.warnings = append(h.warnings, text)
	h.mu.Unlock()
	h.log.Warn(text)
	h.events.publish("warning", "", map[string]string{"warning": text})
}

// Notify publishes an event.
func (h *Host) Notify(event, vm string, data map[string]string) { h.events.publish(event, vm, data) }

// Close lets go of everything; guests go on running.
func (h *Host) Close() error {
	if r := h.runner(); r != nil {
		r.Close()
	}
	for _, v := range h.Ordered() {
		v.Close()
	}
	if h.saver != nil {
		h.saver.Close()
		if h.outages != nil {
			h.outages.Wait()
		}
	}
	var errs []error
	for _, p := range h.pools {
		if p.Pool != nil {
			errs = append(errs, p.Pool.Close())
		}
	}
	if h.lock != nil {
		errs = append(errs, h.lock.Close())
	}
	h.events.close()
	return errors.Join(errs...)
}

// VM finds a VM by name; nil when there is none.
func (h *Host) VM(name string) *vm.VM {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.vms[name]
}

// Ordered lists the VMs, highest priority first, then by name.
func (h *Host) Ordered() []*vm.VM {
	h.mu.Lock()
	defer h.mu.Unlock()
	var list []*vm.VM
	for _, v := range h.vms {
		list = append(list, v)
	}
	slices.SortFunc(list, func(a, b *vm.VM) int {
		if d := b.Priority() - a.Priority(); d != 0 {
			return d
		}
		return strings.Compare(a.Name(), b.Name())
	})
	return list
}

// find is VM, with an error that explains.
func (h *Host) find(name string) (*vm.VM, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if v := h.vms[name]; v != nil {
		return v, nil
	}
	if err := h.broken[name]; err != nil {
		return nil, vm.WithRemedy(fmt.Errorf("VM %s cannot be opened: %w: %w", name, vm.ErrState, err),
			"Make its pool available, or repair its folder, and restart nvhd.")
	}
	return nil, vm.WithRemedy(fmt.Errorf("VM %q: %w", name, vm.ErrNotFound), "List the VMs with nvh ls.")
}

// bootID is the kernel's id of this boot.
func bootID() (record.UUID, error) {
	content, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return record.UUID{}, fmt.Errorf("read the boot id: %w", err)
	}
	return vm.ParseUUID(strings.TrimSpace(string(content)))
}
