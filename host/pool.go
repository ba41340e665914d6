package host

import (
	"context"
	"fmt"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/nvram/nvdimm"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

// pool is an open NVRAM pool, the name this host knows it by, and how far it trusts it. It is what its VMs see.
type pool struct {
	name           string
	path           string
	imported       bool
	trustUnhealthy bool
	system         nvdimm.System // what tells of the memory's health
	*nvram.Pool
	err error // why it is not open
}

var _ vm.Pool = (*pool)(nil)

// Trusted is the health gate: nil, or why nothing in the pool is resumed and no guest started in it. The modules are asked
// every time, so a module that recovers, or fails while the host runs, is noticed.
func (p *pool) Trusted() error {
	if p.trustUnhealthy {
		return nil
	}
	h, err := p.Pool.Health(p.system)
	if err == nil {
		err = h.Err()
	}
	if err != nil {
		return fmt.Errorf("pool %s: %w", p.name, err)
	}
	return nil
}

// DirtyShutdowns is stored in each save.
func (p *pool) DirtyShutdowns() (uint64, error) {
	h, err := p.Pool.Health(p.system)
	return h.DirtyShutdown, err
}

// distrust says what is wrong with the memory of an open pool and what follows; empty: nothing.
func (p *pool) distrust() string {
	h, err := p.Pool.Health(p.system)
	text := h.Summary()
	if err != nil {
		text = err.Error()
	}
	switch {
	case text == "":
		return ""
	case p.trustUnhealthy:
		return "is used because of trust_unhealthy, although its memory is not healthy: " + text
	}
	return "is not trusted, its VMs are held: " + text
}

func (p *pool) status() PoolStatus {
	s := PoolStatus{Name: p.name}
	if p.err != nil {
		s.Path, s.Warning = p.path, p.err.Error()
		return s
	}
	s.PoolInfo, s.Trusted, s.Warning = p.Pool.Info(), p.Trusted() == nil, p.distrust()
	if s.Warning == "" && s.Kind == nvram.KindShm {
		s.Warning = "survives processes, not the host"
	}
	return s
}

// cachesVolatile tells whether the CPU caches in front of a pool lose their content with the power. Where the
// platform does not say, they do.
func cachesVolatile(of vm.Pool) bool {
	p, ours := of.(*pool)
	if !ours {
		return false
	}
	h, err := p.Pool.Health(p.system)
	return err != nil || h.DAX && h.Domain != nvdimm.DomainCPUCache
}

// PoolHealth examines the memory under a pool; "" is the default pool.
func (h *Host) PoolHealth(_ context.Context, name string) (PoolHealth, error) {
	p, err := h.pool(name)
	if err != nil {
		return PoolHealth{}, err
	}
	health, err := p.Pool.Health(p.system)
	if err != nil {
		return PoolHealth{}, fmt.Errorf("pool %s: %w", p.name, err)
	}
	if health.Pages, err = p.MeasurePages(); err != nil {
		return PoolHealth{}, fmt.Errorf("pool %s: %w", p.name, err)
	}
	unhealthy := health.Err() != nil
	return PoolHealth{Name: p.name, Trusted: !unhealthy || p.trustUnhealthy, Forced: unhealthy && p.trustUnhealthy, Health: health}, nil
}
