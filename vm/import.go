package vm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/vm/record"
)

// Found is a VM that a pool holds, whether or not this host knows it.
type Found struct {
	Name   string
	Status record.Status
	used   bool // it was started at least once
	uuid   record.UUID
	launch launchRecord
	err    error // why it cannot be imported
}

// Discover lists the VMs in a pool by their state regions.
func Discover(pool Pool) []Found {
	var list []Found
	for _, r := range pool.Regions() {
		name, ok := strings.CutSuffix(r.Name, ".state")
		if !ok || r.Use != nvram.UseState || strings.Contains(name, keptInfix) {
			continue
		}
		list = append(list, inspect(pool, r, name))
	}
	return list
}

func inspect(pool Pool, r nvram.Region, name string) Found {
	f := Found{Name: name}
	m, err := pool.Map(r.Name)
	if err != nil {
		f.err, f.used = err, true
		return f
	}
	defer m.Close()
	area, err := record.Open(m)
	if errors.Is(err, record.ErrNotArea) {
		f.err = err // its creation was cut short
		return f
	}
	if err != nil {
		f.err, f.used = err, true
		return f
	}
	f.uuid = area.Identity().VM
	rec, err := area.Latest()
	if err != nil {
		f.err, f.used = err, true
		return f
	}
	f.Status, f.used = rec.Status, rec.Status != record.StatusNone
	encoded, err := area.Launch()
	if err == nil {
		f.launch, err = decodeLaunch(encoded)
	}
	f.err = err
	return f
}

// UUID tells it from another VM of its name.
func (f Found) UUID() string { return f.uuid.String() }

// Used tells whether the VM ever ran, so that its regions hold something.
func (f Found) Used() bool { return f.used }

// Import makes a VM of this host from what its pool holds. Nothing in the pool is
// changed. It is meant to be saved: nothing resumes it but its operator.
func Import(env *Env, pool Pool, f Found, poolName string) (*VM, error) {
	if f.err != nil {
		return nil, fmt.Errorf("%s: import: %w", f.Name, f.err)
	}
	def := f.launch.Definition
	def.Pool = poolName
	if def.Name != f.Name {
		return nil, fmt.Errorf("%s: import: its launch record is of VM %q: %w", f.Name, def.Name, ErrInvalid)
	}
	if err := def.Normalise(); err != nil {
		return nil, err
	}
	v := &VM{env: env, name: def.Name, pool: pool, def: def, state: Stopped}
	v.file = stateFile{UUID: f.uuid, Intent: IntentSaved, Created: time.Now().UTC(), Pool: poolName}
	if f.Status == record.StatusStopped {
		v.file.Intent = IntentStopped
	}
	if _, err := os.Stat(filepath.Join(v.dir(), stateFileName)); err == nil {
		return nil, fmt.Errorf("VM %s: import: %w", f.Name, ErrExists)
	}
	if err := v.openArea(); err != nil {
		return nil, err
	}
	if err := v.persist(); err != nil {
		v.unmapState()
		return nil, err
	}
	return v, nil
}

// Sweep frees the regions of VMs whose creation was cut short: never started, and
// unknown to this host.
func Sweep(pool Pool, known func(name string) bool) ([]string, error) {
	var freed []string
	for _, f := range Discover(pool) {
		if f.used || known(f.Name) {
			continue
		}
		names := []string{f.Name + ".state"}
		if _, err := pool.Region(f.Name + ".ram"); err == nil {
			names = append(names, f.Name+".ram")
		}
		if err := pool.Free(names...); err != nil {
			return freed, err
		}
		freed = append(freed, f.Name)
	}
	return freed, nil
}
