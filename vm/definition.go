package vm

import (
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
