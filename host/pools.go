package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/nv-hypervisor/nv-hypervisor/internal/durable"
	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

// openPools opens what is configured and what was imported. A pool that cannot be
// opened costs its own VMs only.
func (h *Host) openPools() {
	if h.config.implicit {
		if err := makeBuiltinPool(builtinPool); err != nil {
			h.warn("%v", err)
		}
	}
	for _, c := range h.config.Pools {
		h.addPool(&pool{name: c.Name, path: c.Path, system: h.config.system, trustUnhealthy: c.TrustUnhealthy})
	}
	imported, err := h.readImported()
	if err != nil {
		h.warn("imported pools are not opened: %v", err)
	}
	for _, c := range imported {
		h.addPool(&pool{name: c.Name, path: c.Path, system: h.config.system, imported: true})
	}
}

func (h *Host) addPool(p *pool) {
	p.Pool, p.err = nvram.Open(p.path)
	if p.err != nil {
		if errors.Is(p.err, nvram.ErrNotPool) || errors.Is(p.err, fs.ErrNotExist) {
			p.err = vm.WithRemedy(p.err, fmt.Sprintf("Initialise it with nvh nvram init %s.", p.path))
		}
		h.warn("pool %s is not available: %v", p.name, p.err)
	} else if text := p.distrust(); text != "" {
		h.warn("pool %s %s", p.name, text)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pools = append(h.pools, p)
}

// pool finds a pool by name; "" is the default pool, the first one.
func (h *Host) pool(name string) (*pool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.pools {
		if p.name != name && name != "" {
			continue
		}
		if p.err != nil {
			return nil, fmt.Errorf("pool %s is not available: %w", p.name, p.err)
		}
		return p, nil
	}
	return nil, vm.WithRemedy(fmt.Errorf("pool %q: %w", name, vm.ErrNotFound), "List the pools with nvh nvram ls, or configure it in "+DefaultConfigPath+".")
}

// Pools describes the pools.
func (h *Host) Pools(context.Context) ([]PoolStatus, error) {
	h.mu.Lock()
	pools := slices.Clone(h.pools)
	h.mu.Unlock()
	list := []PoolStatus{}
	for i, p := range pools {
		s := p.status()
		s.Default = i == 0
		list = append(list, s)
	}
	return list, nil
}

func (h *Host) importedPath() string { return filepath.Join(h.config.StateDir, "imported-pools.json") }

func (h *Host) readImported() ([]PoolConfig, error) {
	content, err := os.ReadFile(h.importedPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []PoolConfig
	if err := json.Unmarshal(content, &list); err != nil {
		return nil, fmt.Errorf("%s: %w", h.importedPath(), err)
	}
	return list, nil
}

// ImportPool opens a pool from elsewhere, or takes a pool that is open already,
// and takes over the VMs in it that this host does not know. They are left as they
// are, saved or held: `nvh start` resumes them.
func (h *Host) ImportPool(ctx context.Context, path, name string) ([]vm.Info, error) {
	path = filepath.Clean(path)
	p, err := h.openImport(path, name)
	if err != nil {
		return nil, err
	}
	imported := []vm.Info{}
	var errs []error
	for _, found := range vm.Discover(p) {
		if h.VM(found.Name) != nil {
			continue
		}
		v, err := vm.Import(h.env, p, found, p.name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		h.mu.Lock()
		h.vms[v.Name()] = v
		delete(h.broken, v.Name())
		h.mu.Unlock()
		if _, _, err := v.Recover(ctx); err != nil {
			errs = append(errs, err)
		}
		imported = append(imported, v.Info())
	}
	return imported, errors.Join(errs...)
}

func (h *Host) openImport(path, name string) (*pool, error) {
	h.mu.Lock()
	for _, p := range h.pools {
		if p.path == path && p.err == nil {
			h.mu.Unlock()
			return p, nil
		}
	}
	h.mu.Unlock()
	if name == "" {
		name = filepath.Base(path)
	}
	if err := nvram.CheckName(name); err != nil {
		return nil, fmt.Errorf("pool name: %w: %w", vm.ErrInvalid, err)
	}
	if _, err := h.pool(name); err == nil || !errors.Is(err, vm.ErrNotFound) {
		return nil, vm.WithRemedy(fmt.Errorf("pool %s: %w", name, vm.ErrExists), "Import it under another name with --name.")
	}
	opened, err := nvram.Open(path)
	if err != nil {
		return nil, err
	}
	p := &pool{name: name, path: path, system: h.config.system, imported: true, Pool: opened}
	if err := h.rememberImport(p); err != nil {
		return nil, errors.Join(err, opened.Close())
	}
	h.mu.Lock()
	h.pools = append(h.pools, p)
	h.mu.Unlock()
	return p, nil
}

func (h *Host) rememberImport(p *pool) error {
	list, err := h.readImported()
	if err != nil {
		return err
	}
	content, err := json.MarshalIndent(append(list, PoolConfig{Name: p.name, Path: p.path}), "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(h.importedPath(), content, 0o640)
}
