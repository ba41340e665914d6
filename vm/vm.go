// Package vm is one virtual machine: its definition, its life cycle, and its
// resume from NVRAM.
//
// After a crash at any point, of the daemon, of QEMU or of the host, Recover finds
// out from the VM's record in NVRAM and from the process table what may be done:
// adopt a QEMU that is still there, resume the image exactly once, boot cold, or
// hold the VM because something does not match. A guest never runs unless its
// record says so durably first (see package saver), so a record that says "saved"
// means that no guest instruction has run since.
//
// A VM is safe for concurrent use. Operations exclude each other; Info never waits
// for one.
package vm

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/qemu"
	"github.com/nv-hypervisor/nv-hypervisor/vm/record"
	"github.com/nv-hypervisor/nv-hypervisor/vm/saver"
)

// Env is what VMs need of their host.
type Env struct {
	Saver      *saver.Saver
	StateDir   string // durable: definitions and intents, one folder a VM
	RuntimeDir string // sockets and process ids, one folder a VM; gone after a boot
	QEMU       string // default binary
	BootID     record.UUID
	User       string // user that QEMU runs as; empty: the daemon's
	Log        *slog.Logger
	Caches     Caches
	StartLimit time.Duration // a VM that takes longer to be started, resumed or adopted is given up; 0: 3 min
	// Notify reports what happened to a VM; it must not block.
	Notify func(event, vm string, data map[string]string)
}

// Caches says how a host deals with CPU caches that lose their content with the power. The zero value is a host
// where none do.
type Caches struct {
	Volatile  func(Pool) bool // in front of this pool's memory; nil: nowhere
	Flushable func() bool     // the kernel can write all of them back within an outage; nil: it cannot
	Slow      bool            // VMs may run although it cannot: their RAM is then written back line by line
}

// Pool is the VM's view of the pool its RAM lies in; *nvram.Pool implements it.
type Pool interface {
	Alloc(...nvram.Request) ([]nvram.Region, error)
	Free(...string) error
	Rename(map[string]string) error
	Region(string) (nvram.Region, error)
	Regions() []nvram.Region
	Verify(nvram.Region) error
	Map(string) (*nvram.Mapping, error)
	Info() nvram.PoolInfo
	// Trusted is nil, or tells why no guest may be put into the memory.
	Trusted() error
	// DirtyShutdowns changes when the memory has lost data in a power cut.
	DirtyShutdowns() (uint64, error)
}

// VM is one virtual machine of this host.
type VM struct {
	env  *Env
	name string
	pool Pool // nil: volatile

	op sync.Mutex // held by the operation in progress

	// Changed only by an operation; mapping and area are nil for a volatile VM.
	mapping *nvram.Mapping
	area    *record.Area

	mu        sync.Mutex // guards what follows
	recovered bool       // made by this daemon, or Recover has been through
	def       Definition
	file      stateFile
	state     State
	reason    string
	refusal   string // why the image may not be resumed
	warnings  []string
	process   *qemu.Process
	target    *saver.Target
	launch    *qemu.Launch
	startedAt time.Time
	restarts  []time.Time   // automatic cold boots after QEMU died
	stopping  chan struct{} // closed when a save stops a guest that was asked to power off
	watchers  sync.WaitGroup
	closed    bool
}

// withLimit bounds what waits for QEMU: one that hangs must not keep others from
// being recovered, nor its VM from every other verb.
func (v *VM) withLimit(ctx context.Context) (context.Context, context.CancelFunc) {
	limit := v.env.StartLimit
	if limit <= 0 {
		limit = 3 * time.Minute // two of which QEMU gets to answer, on a host that starts many
	}
	return context.WithTimeout(ctx, limit)
}

func (v *VM) dir() string         { return filepath.Join(v.env.StateDir, v.Name()) }
func (v *VM) runtimeDir() string  { return filepath.Join(v.env.RuntimeDir, v.Name()) }
func (v *VM) ramName() string     { return v.Name() + ".ram" }
func (v *VM) stateName() string   { return v.Name() + ".state" }
func (v *VM) runtimePath() string { return filepath.Join(v.runtimeDir(), "process.json") }

// Name is the VM's name; it never changes.
func (v *VM) Name() string { return v.name }

// Priority orders saves and resumes, highest first.
func (v *VM) Priority() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.def.Priority
}

// Volatile tells whether the VM's RAM is DRAM.
func (v *VM) Volatile() bool { return v.pool == nil }

// State is the VM's place in its life cycle.
func (v *VM) State() State {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.state
}

// QEMULog is the path of QEMU's own messages.
func (v *VM) QEMULog() string { return filepath.Join(v.dir(), "qemu.log") }

// ConsoleLog is the path of everything the guest printed on its serial console.
func (v *VM) ConsoleLog() string { return filepath.Join(v.dir(), "console.log") }

// Process is the running QEMU, or nil.
func (v *VM) Process() *qemu.Process {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.process
}

// Info describes the VM.
func (v *VM) Info() Info {
	v.mu.Lock()
	defer v.mu.Unlock()
	info := Info{
		Name: v.name, UUID: v.file.UUID.String(), State: v.state, Reason: v.reason,
		Volatile: v.pool == nil, Pool: v.def.Pool, Priority: v.def.Priority, OnLost: v.def.OnLost,
		Memory: v.def.Memory, CPUs: v.def.CPUs, Warnings: v.warnings, Definition: v.def,
	}
	if v.launch != nil {
		info.Accel, info.Machine, info.QEMU = v.launch.Accel, v.launch.Machine, v.launch.Version
	}
	if v.process != nil {
		info.PID = v.process.PID()
	}
	if !v.startedAt.IsZero() {
		info.StartedAt = &v.startedAt
	}
	v.describeImage(&info)
	return info
}

func (v *VM) describeImage(info *Info) {
	if v.area == nil {
		return
	}
	info.Kept = v.kept()
	rec, err := v.area.Latest()
	if err != nil {
		return
	}
	info.Generation = rec.Generation
	if rec.Status == record.StatusSaved {
		info.Image = &ImageInfo{
			Generation: rec.Generation, SavedAt: rec.SavedAt, StateSize: nvram.Bytes(rec.StateLength),
			Outage: rec.Outage, Valid: v.refusal == "", Refusal: v.refusal,
		}
	}
}

// setState moves the VM along its life cycle and tells everybody.
func (v *VM) setState(s State, reason string) {
	v.setStateIf(func() bool { return true }, s, reason)
}

// setRuns notes that the guest was let run, or is ready to. A save may have stopped
// it since: then NoteSaved has the last word, come or still to come.
func (v *VM) setRuns(s State, reason string) {
	v.setStateIf(func() bool { return v.target == nil || v.target.Released() }, s, reason)
}

// setStateIf is setState where, with v.mu held, the condition holds.
func (v *VM) setStateIf(holds func() bool, s State, reason string) bool {
	v.mu.Lock()
	held := holds()
	changed := held && (v.state != s || v.reason != reason)
	if held {
		v.state, v.reason = s, reason
	}
	v.mu.Unlock()
	if changed {
		v.tellState(s, reason)
	}
	return held
}

func (v *VM) tellState(s State, reason string) {
	data := map[string]string{"state": string(s)}
	if reason != "" {
		data["reason"] = reason
	}
	v.env.Notify("state", v.Name(), data)
	v.env.Log.Info("vm state", "vm", v.Name(), "state", s, "reason", reason)
}

// begin takes the operation lock, or fails when another operation has it. Before
// Recover nobody knows whether the VM has an image or a QEMU.
func (v *VM) begin(verb string) (end func(), err error) {
	if !v.op.TryLock() {
		return nil, WithRemedy(fmt.Errorf("%s: %s: %w", v.Name(), verb, ErrBusy), "Wait for the operation in progress and try again.")
	}
	if !v.isRecovered() {
		v.op.Unlock()
		return nil, WithRemedy(fmt.Errorf("%s: %s: %w", v.Name(), verb, ErrBusy), "It waits to be recovered: try again in a moment.")
	}
	return v.op.Unlock, nil
}

func (v *VM) isRecovered() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.recovered
}

func (v *VM) setRecovered() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.recovered = true
}

// wrongState is the error of a verb that does not fit the state.
func (v *VM) wrongState(verb, remedy string) error {
	return WithRemedy(fmt.Errorf("%s: %s: the VM is %s: %w", v.Name(), verb, v.State(), ErrState), remedy)
}
