package vm

import (
	"errors"
	"fmt"

	"github.com/nv-hypervisor/nv-hypervisor/vm/saver"
)

// cachesVolatile tells whether the VM's RAM is safe only once the CPU caches were written back.
func (v *VM) cachesVolatile() bool {
	volatile := v.env.Caches.Volatile
	return v.pool != nil && volatile != nil && volatile(v.pool)
}

func (v *VM) cachesFlushable() bool {
	flushable := v.env.Caches.Flushable
	return flushable != nil && flushable()
}

// checkCaches refuses to let a VM run that could not be saved in an outage: that must
// not be discovered in the dark.
func (v *VM) checkCaches() error {
	if !v.cachesVolatile() || v.cachesFlushable() || v.env.Caches.Slow {
		return nil
	}
	return WithRemedy(fmt.Errorf("%s: the CPU caches in front of its pool lose their content with the power, and nothing on this host can write them back within an outage: %w",
		v.Name(), ErrState),
		"Load the kernel module nvh_pod and restart nvhd; or, with a battery, set slow_flush = true in "+
			"/etc/nvh/nvhd.toml, which writes RAM back line by line and takes as long as reading all of it.")
}

// prepareCaches tells the saver how the VM's RAM becomes durable.
func (v *VM) prepareCaches(opt *saver.Options) {
	opt.VolatileCaches = v.cachesVolatile()
	opt.FlushRAM, opt.SlowFlush = v.flushRAM, v.env.Caches.Slow
}

// flushRAM writes the guest's RAM back line by line. A line flush reaches the caches of
// all CPUs (Intel SDM, volume 2: CLWB), so it need not run where the guest ran.
func (v *VM) flushRAM() error {
	m, err := v.pool.Map(v.ramName())
	if err != nil {
		return err
	}
	m.Flush(0, len(m.Bytes()))
	return errors.Join(m.Fence(), m.Close())
}
