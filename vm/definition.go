package vm

import (
	"fmt"
	"path/filepath"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/qemu"
)

// OnLost says what happens at recovery to a persistent VM that has no image
// that may be resumed.
type OnLost string

const (
	OnLostBoot OnLost = "boot" // cold-boot it
	OnLostHold OnLost = "hold" // leave it stopped, state "held", until an operator decides
)

// Definition is a VM as its operator defines it: by flags of `nvh create`, by a
// TOML file, or through the API.
type Definition struct {
	Name     string `toml:"name" json:"name"`
	Volatile bool   `toml:"volatile,omitempty" json:"volatile,omitempty"` // RAM in DRAM: paused at an outage, lost in it
	Pool     string `toml:"pool,omitempty" json:"pool,omitempty"`         // name of the pool that holds the RAM; empty: the host's default pool
	Priority int    `toml:"priority,omitempty" json:"priority"`           // 0..1000, higher is saved and resumed earlier
	OnLost   OnLost `toml:"on_lost,omitempty" json:"on_lost"`             // empty: "boot"
	// StateSize is the size of one of its two slots for volatile state; 0: 8 MiB.
	StateSize nvram.Bytes `toml:"state_size,omitempty" json:"state_size,omitempty"`

	qemu.Guest
}

// readDefinition reads the VM's definition as its operator left it.
func (v *VM) readDefinition() (Definition, error) {
	def, err := ReadDefinition(filepath.Join(v.dir(), DefinitionFile))
	if err == nil {
		err = def.Normalise()
	}
	if err != nil {
		return Definition{}, err
	}
	return def, nil
}

// checkFixed refuses a definition that changes what cannot change without new
// regions.
func (v *VM) checkFixed(def Definition) error {
	fixed := def.Name == v.name && def.Volatile == (v.pool == nil) && def.Pool == v.file.Pool
	if fixed && v.area != nil {
		id, unit := v.area.Identity(), v.pool.Info().Unit // regions are whole units
		fixed = (def.Memory+unit-1)/unit*unit == id.RAMSize && def.StateSize == id.SlotSize
	}
	if !fixed {
		return fmt.Errorf("name, pool, volatile, memory and state_size of a VM cannot change; create it anew: %w", ErrInvalid)
	}
	return nil
}

// lastDefinition is what the VM was last started with, from its launch record:
// that of a persistent VM is in its pool, that of a volatile one beside its QEMU.
func (v *VM) lastDefinition() (Definition, error) {
	var encoded []byte
	var err error
	if v.area != nil {
		encoded, err = v.area.Launch()
	} else {
		var f runtimeFile
		f, _, err = v.readRuntime()
		encoded = f.Launch
	}
	if err != nil {
		return Definition{}, err
	}
	lr, err := decodeLaunch(encoded)
	if err != nil {
		return Definition{}, err
	}
	def := lr.Definition
	def.Name, def.Pool, def.Volatile = v.name, v.file.Pool, v.pool == nil
	return def, def.Normalise()
}
