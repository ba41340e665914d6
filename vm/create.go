package vm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/internal/durable"
	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/qemu"
	"github.com/nv-hypervisor/nv-hypervisor/vm/record"
)

// DefaultStateSize is the size of one slot for volatile state. A VM without a
// graphics card needs 0.3 to 0.5 MB.
const DefaultStateSize = 8 * nvram.MiB

// foreignStateSize is the default for a foreign command line, which without
// -nodefaults has a graphics card with 16 MiB of its own.
const foreignStateSize = 32 * nvram.MiB

// maxPriority bounds Definition.Priority.
const maxPriority = 1000

// Normalise fills in the defaults and checks what can be checked without QEMU.
func (d *Definition) Normalise() error {
	if err := nvram.CheckName(d.Name); err != nil {
		return WithRemedy(fmt.Errorf("VM name %q: %w: %w", d.Name, ErrInvalid, err),
			"Use letters, digits, '_', '.' and '-', starting with a letter or a digit.")
	}
	if d.OnLost == "" {
		d.OnLost = OnLostBoot
	}
	if d.CPUs == 0 {
		d.CPUs = 1
	}
	if d.StateSize == 0 {
		d.StateSize = DefaultStateSize
		if len(d.Raw) > 0 {
			d.StateSize = foreignStateSize
		}
	}
	invalid := func(format string, args ...any) error {
		return fmt.Errorf("%s: %s: %w", d.Name, fmt.Sprintf(format, args...), ErrInvalid)
	}
	switch {
	case len(d.Name) > maxName:
		return invalid("the name is longer than %d bytes", maxName)
	case strings.Contains(d.Name, keptInfix):
		return invalid("names with %s are for images that were refused and kept aside", keptInfix)
	case d.OnLost != OnLostBoot && d.OnLost != OnLostHold:
		return invalid("on_lost is %q, use boot or hold", d.OnLost)
	case d.Priority < 0 || d.Priority > maxPriority:
		return invalid("priority %d is not between 0 and %d", d.Priority, maxPriority)
	case d.Volatile && d.Pool != "":
		return invalid("a volatile VM has its RAM in DRAM: leave out the pool %q", d.Pool)
	case d.Memory == 0:
		return invalid("memory is missing, for example memory = \"1G\"")
	case d.StateSize%(2*nvram.MiB) != 0 || d.StateSize > nvram.GiB:
		return invalid("state_size %v is not a multiple of 2 MiB up to 1 GiB", d.StateSize)
	}
	return nil
}

// maxName leaves room for the suffixes of region names.
const maxName = 40

// Create makes a VM: regions in the pool (nil: volatile), then its folder, whose
// vm.json, written last, makes it exist. A power cut before that leaves regions
// that were never used, which Sweep frees.
func Create(ctx context.Context, env *Env, pool Pool, def Definition) (*VM, error) {
	if err := def.Normalise(); err != nil {
		return nil, err
	}
	v := &VM{env: env, name: def.Name, pool: pool, def: def, state: Stopped, recovered: true}
	v.file = stateFile{UUID: newUUID(), Intent: IntentStopped, Created: time.Now().UTC(), Pool: def.Pool, Volatile: def.Volatile}
	if _, err := os.Stat(filepath.Join(v.dir(), stateFileName)); err == nil {
		return nil, fmt.Errorf("VM %s: %w", def.Name, ErrExists)
	}
	if err := (qemu.Runtime{Dir: v.runtimeDir()}).Check(); err != nil {
		return nil, WithRemedy(fmt.Errorf("VM %s: %w: %w", def.Name, ErrInvalid, err), "Choose a shorter name, or a shorter runtime_dir.")
	}
	if err := v.checkMemory(); err != nil {
		return nil, err
	}
	if _, err := v.pin(ctx); err != nil {
		return nil, err
	}
	if err := v.allocate(); err != nil {
		return nil, err
	}
	if err := v.persist(); err != nil {
		return nil, errors.Join(err, v.unallocate())
	}
	return v, nil
}

// persist writes the VM's folder.
func (v *VM) persist() error {
	err := durable.MkdirAll(v.dir(), 0o750)
	if err == nil {
		err = v.writeDefinition()
	}
	if err == nil {
		err = v.writeStateFile(v.file)
	}
	if err != nil {
		os.RemoveAll(v.dir())
		return WithRemedy(fmt.Errorf("%s: store the definition: %w", v.Name(), err),
			"Make room in the state directory, or make it writable; no VM was created.")
	}
	return nil
}

// pin resolves the definition into what QEMU is started with.
func (v *VM) pin(ctx context.Context) (qemu.Launch, error) {
	path := v.def.QEMU
	if path == "" {
		path = v.env.QEMU
	}
	binary, err := qemu.Probe(ctx, path)
	if err != nil {
		return qemu.Launch{}, fmt.Errorf("%s: %w", v.Name(), err)
	}
	launch, err := qemu.Pin(ctx, binary, v.Name(), v.file.UUID.String(), v.def.Guest)
	if err != nil {
		return qemu.Launch{}, fmt.Errorf("%s: %w: %w", v.Name(), ErrInvalid, err)
	}
	return launch, nil
}

// allocate reserves the VM's regions and formats its state region.
func (v *VM) allocate() error {
	if v.pool == nil {
		return nil
	}
	regions, err := v.pool.Alloc(
		nvram.Request{Name: v.ramName(), Size: v.def.Memory, Use: nvram.UseRAM},
		nvram.Request{Name: v.stateName(), Size: record.RegionSize(v.def.StateSize), Use: nvram.UseState},
	)
	if err != nil {
		return fmt.Errorf("%s: reserve NVRAM: %w", v.Name(), err)
	}
	m, err := v.mapState()
	if err != nil {
		return errors.Join(err, v.unallocate())
	}
	err = record.Format(m, record.Identity{
		VM: v.file.UUID, Name: v.Name(), RAM: regions[0].ID, RAMSize: regions[0].Size, SlotSize: v.def.StateSize,
	})
	var area *record.Area
	if err == nil {
		area, err = record.Open(m)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("%s: %w", v.Name(), err), m.Close(), v.unallocate())
	}
	v.setArea(m, area)
	return nil
}

func (v *VM) mapState() (*nvram.Mapping, error) {
	m, err := v.pool.Map(v.stateName())
	if err != nil {
		return nil, fmt.Errorf("%s: map the state region: %w", v.Name(), err)
	}
	if err := m.Populate(); err != nil { // no page fault shall wait in a save
		return nil, errors.Join(fmt.Errorf("%s: %w", v.Name(), err), m.Close())
	}
	return m, nil
}

// setArea changes what Info looks at.
func (v *VM) setArea(m *nvram.Mapping, area *record.Area) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.mapping, v.area = m, area
}

func (v *VM) unmapState() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.mapping != nil {
		v.mapping.Close()
		v.mapping, v.area = nil, nil
	}
}

func (v *VM) unallocate() error {
	if v.pool == nil {
		return nil
	}
	v.unmapState()
	return v.pool.Free(v.ramName(), v.stateName())
}

// Open loads a VM of this host from its folder. The VM is not looked for among
// the processes yet: that is Recover's part. A definition that was edited and
// cannot be used costs the VM nothing: it goes by the one it was last started with.
func Open(env *Env, pool Pool, name string) (*VM, error) {
	v := &VM{env: env, name: name, pool: pool, state: Stopped}
	var err error
	if v.file, err = readStateFile(v.dir()); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	def, fault := v.readDefinition()
	v.def = def
	if pool != nil {
		if err := v.openArea(); err != nil {
			return nil, errors.Join(err, fault)
		}
	}
	if fault == nil {
		fault = v.checkFixed(def)
	}
	if fault == nil {
		return v, nil
	}
	if v.def, err = v.lastDefinition(); err != nil {
		v.unmapState()
		return nil, errors.Join(fault, err)
	}
	v.mu.Lock()
	v.warn("the edited definition is not used: %v", fault)
	v.mu.Unlock()
	return v, nil
}

// openArea opens the VM's state region. A VM whose refused image was being put
// aside when the power failed has no regions: it gets new ones.
func (v *VM) openArea() error {
	_, err := v.pool.Region(v.stateName())
	if errors.Is(err, nvram.ErrNotFound) && len(v.kept()) > 0 && v.def.Memory > 0 {
		return v.allocate()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", v.Name(), err)
	}
	m, err := v.mapState()
	if err != nil {
		return err
	}
	area, err := record.Open(m)
	if err != nil {
		return errors.Join(fmt.Errorf("%s: %w", v.Name(), err), m.Close())
	}
	v.setArea(m, area)
	if id := area.Identity(); id.VM != v.file.UUID {
		v.unmapState()
		return fmt.Errorf("%s: the pool holds the VM with UUID %s, the definition is of %s: %w", v.Name(), id.VM, v.file.UUID, ErrInvalid)
	}
	return nil
}

// List names the VMs that have a folder below the state directory.
func List(stateDir string) ([]string, error) {
	entries, err := os.ReadDir(stateDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if _, err := os.Stat(filepath.Join(stateDir, e.Name(), stateFileName)); err == nil {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// kept names the regions of images that were refused and put aside.
func (v *VM) kept() []string {
	var names []string
	for _, r := range v.pool.Regions() {
		if strings.HasPrefix(r.Name, v.Name()+keptInfix) {
			names = append(names, r.Name)
		}
	}
	return names
}

const keptInfix = ".kept-"

// Remove deletes a VM without a process: its folder first, which ends its
// existence, then its regions. An image is only deleted when discard is set.
func (v *VM) Remove(discard bool) error {
	end, err := v.begin("rm")
	if err != nil {
		return err
	}
	defer end()
	if s := v.State(); s != Stopped && s != Held && s != Failed && s != Saved {
		return v.wrongState("rm", "Stop it first: nvh stop "+v.Name())
	}
	if v.Process() != nil {
		return v.wrongState("rm", "Its QEMU is still there: end the outage with nvh outage clear, and stop it.")
	}
	if !discard && v.area != nil {
		if rec, err := v.area.Latest(); err == nil && rec.Status == record.StatusSaved || len(v.kept()) > 0 {
			return WithRemedy(fmt.Errorf("%s: rm: it has a saved image: %w", v.Name(), ErrState),
				"Resume it with nvh start, or give the image up with nvh rm --discard-image.")
		}
	}
	if err := durable.RemoveAll(v.dir()); err != nil {
		return fmt.Errorf("%s: remove its folder: %w", v.Name(), err)
	}
	os.RemoveAll(v.runtimeDir())
	if v.pool == nil {
		return nil
	}
	names := append(v.kept(), v.ramName(), v.stateName())
	v.unmapState()
	return v.pool.Free(names...)
}
