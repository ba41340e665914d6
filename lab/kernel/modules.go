package kernel

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Modules are the modules of one unpacked kernel package. The package has no modules.dep (the system's depmod makes
// it), so what a module needs is read from the module itself.
type Modules struct {
	files   map[string]string // path of each loadable module
	builtin map[string]bool   // what other kernels have as a module and this one has built in
}

// FindModules looks for the modules below a folder, lib/modules of the unpacked package.
func FindModules(dir string) (Modules, error) {
	m := Modules{files: map[string]string{}, builtin: map[string]bool{}}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimSuffix(filepath.Base(path), ".xz")
		if bare, ok := strings.CutSuffix(name, ".ko"); ok {
			m.files[ModuleName(bare)] = path
		}
		if name == "modules.builtin" {
			return m.readBuiltin(path)
		}
		return nil
	})
	return m, err
}

func (m Modules) readBuiltin(path string) error {
	content, err := os.ReadFile(path)
	for line := range strings.Lines(string(content)) {
		m.builtin[ModuleName(strings.TrimSuffix(filepath.Base(strings.TrimSpace(line)), ".ko"))] = true
	}
	return err
}

// ModuleName gives a module the name that dependencies use: file names use - and _ as they like, the kernel takes
// them for the same.
func ModuleName(name string) string { return strings.ReplaceAll(name, "-", "_") }

// Order appends a module, after what it depends on, to the modules already in order. What is built in is not appended.
func (m Modules) Order(order []string, module string) ([]string, error) {
	module = ModuleName(module)
	if slices.Contains(order, module) {
		return order, nil
	}
	if _, loadable := m.files[module]; !loadable && m.builtin[module] {
		return order, nil
	}
	content, err := m.Read(module)
	if err != nil {
		return nil, err
	}
	depends, err := Dependencies(content)
	if err != nil {
		return nil, fmt.Errorf("kernel module %s: %w", module, err)
	}
	for _, d := range depends {
		if order, err = m.Order(order, d); err != nil {
			return nil, err
		}
	}
	return append(order, module), nil
}

// Read returns a module as the kernel loads it, unpacked if the package has it packed.
func (m Modules) Read(module string) ([]byte, error) {
	path, ok := m.files[ModuleName(module)]
	if !ok {
		return nil, fmt.Errorf("kernel module %s: not in the kernel package", module)
	}
	if filepath.Ext(path) != ".xz" {
		return os.ReadFile(path)
	}
	content, err := exec.Command("xz", "--decompress", "--stdout", path).Output()
	if errors.Is(err, exec.ErrNotFound) {
		err = fmt.Errorf("%w: run make deps", err)
	}
	if err != nil {
		return nil, fmt.Errorf("unpack kernel module %s: %w", module, err)
	}
	return content, nil
}

// Dependencies reads the "depends=" entry of a module's .modinfo section: strings ended by zero bytes.
func Dependencies(module []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return nil, err
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("no .modinfo section")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	for entry := range strings.SplitSeq(string(info), "\x00") {
		if list, ok := strings.CutPrefix(entry, "depends="); ok && list != "" {
			return strings.Split(list, ","), nil
		}
	}
	return nil, nil
}
