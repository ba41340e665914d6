package vm

import (
	"errors"
	"fmt"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
)

// checkMemory refuses to run a guest in memory that has lost data or will lose it in the
// next outage. No guest is better than one that believes it cannot be lost.
func (v *VM) checkMemory() error {
	if v.pool == nil {
		return nil
	}
	err := v.pool.Trusted()
	if err == nil {
		return nil
	}
	err = fmt.Errorf("%s: %w", v.Name(), err)
	if !errors.Is(err, nvram.ErrUnhealthy) {
		return err
	}
	return WithRemedy(err, fmt.Sprintf("See nvh nvram health %s; put the memory in order, or choose another pool. "+
		"To run guests in it all the same, set trust_unhealthy = true for the pool in /etc/nvh/nvhd.toml.", v.def.Pool))
}

// dirtyShutdowns is stored in each save and compared at the resume: an image in memory that
// has lost data in between is never resumed.
func (v *VM) dirtyShutdowns() (uint64, error) {
	if v.pool == nil {
		return 0, nil
	}
	n, err := v.pool.DirtyShutdowns()
	if err != nil {
		return 0, fmt.Errorf("%s: count the dirty shutdowns of its memory: %w", v.Name(), err)
	}
	return n, nil
}
