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
		if h.configured(c) {
			continue
		}
		h.addPool(&pool{name: c.Name, path: c.Path, system: h.config.system, imported: true})
	}
}

// configured tells whether an imported pool has found its way into the
// configuration. One that clashes with it is not opened.
func (h *Host) configured(imported PoolConfig) bool {
	for _, c := range h.config.Pools {
		switch {
		case c == imported, c.Name == imported.Name && c.Path == imported.Path:
			return true
		case c.Path == imported.Path:
			h.warn("imported pool %s is configured as pool %s: give it the name %s there, by which its VMs know it", imported.Name, c.Name, imported.Name)
			return true
		case c.Name == imported.Name:
			h.warn("imported pool %s at %s is not opened: another pool of that name is configured at %s; rename that one", imported.Name, imported.Path, c.Path)
			return true
		}
	}
	return false
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
		v, err := h.importVM(p, found)
		if err != nil {
			errs = append(errs, err)
		}
		if v == nil {
			continue
		}
		if _, _, err := v.Recover(ctx); err != nil {
			errs = append(errs, err)
		}
		imported = append(imported, v.Info())
	}
	return imported, errors.Join(errs...)
}

// importVM takes over one VM; it returns nil for one that this host has already.
func (h *Host) importVM(p *pool, found vm.Found) (*vm.VM, error) {
	h.mu.Lock()
	have, taken := h.vms[found.Name], h.creating[found.Name]
	if have == nil && !taken {
		h.creating[found.Name] = true
	}
	h.mu.Unlock()
	switch {
	case have != nil && have.Info().UUID == found.UUID():
		return nil, nil
	case have != nil || taken:
		return nil, vm.WithRemedy(fmt.Errorf("VM %s of pool %s: another VM has that name: %w", found.Name, p.name, vm.ErrExists),
			"Move or remove the other one, and import the pool again.")
	}
	v, err := vm.Import(h.env, p, found, p.name)
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.creating, found.Name)
	if err != nil {
		return nil, err
	}
	h.vms[found.Name] = v
	delete(h.broken, found.Name)
	return v, nil
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
