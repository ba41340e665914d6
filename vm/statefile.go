package vm

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/nv-hypervisor/nv-hypervisor/internal/durable"
	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/vm/record"
)

// Intent is what the operator wants of the VM, across daemon and host restarts.
type Intent string

const (
	IntentStopped Intent = "stopped"
	IntentRunning Intent = "running"
	IntentPaused  Intent = "paused"
	IntentSaved   Intent = "saved" // saved by `nvh save`: resume it only when asked
)

// stateFile is vm.json beside the definition: what must outlive the daemon and
// is not in NVRAM.
type stateFile struct {
	UUID    record.UUID `json:"-"`
	UUIDHex string      `json:"uuid"`
	Intent  Intent      `json:"intent"`
	Created time.Time   `json:"created"`

	// Where its RAM lies. It is kept here because the definition may be edited.
	Pool     string `json:"pool,omitempty"`
	Volatile bool   `json:"volatile,omitempty"`

	// Generation is the highest seen of the VM in this RAM region. It is written
	// after the guest runs, so it may be behind the record in NVRAM but is never
	// ahead of it, unless NVRAM was put back to an earlier state.
	Generation uint64   `json:"generation"`
	RAM        nvram.ID `json:"ram"`
}

// DefinitionFile is the name of the file an operator may edit; it takes effect at
// the next cold boot.
const DefinitionFile = "definition.toml"

const stateFileName = "vm.json"

// newUUID makes a random (version 4) UUID.
func newUUID() (u record.UUID) {
	rand.Read(u[:]) // never fails
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	return u
}

// ParseUUID reads the usual form of a UUID.
func ParseUUID(s string) (u record.UUID, err error) {
	raw, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(raw) != len(u) {
		return u, fmt.Errorf("%q is not a UUID", s)
	}
	copy(u[:], raw)
	return u, nil
}

// ReadDefinition reads a TOML definition, strictly: an unknown key is an error.
func ReadDefinition(path string) (Definition, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return Definition{}, err
	}
	var d Definition
	meta, err := toml.Decode(string(content), &d)
	if err != nil {
		return Definition{}, fmt.Errorf("%s: %w: %w", path, ErrInvalid, err)
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return Definition{}, fmt.Errorf("%s: unknown key %q: %w", path, unknown[0], ErrInvalid)
	}
	return d, nil
}

// writeDefinition stores the definition of a new VM.
func (v *VM) writeDefinition() error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# VM %s. Edits take effect at its next cold boot.\n", v.name)
	if err := toml.NewEncoder(&b).Encode(v.def); err != nil {
		return fmt.Errorf("%s: encode definition: %w", v.Name(), err)
	}
	return durable.WriteFile(filepath.Join(v.dir(), DefinitionFile), b.Bytes(), 0o640)
}

func (v *VM) writeStateFile(f stateFile) error {
	f.UUIDHex = f.UUID.String()
	content, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(v.dir(), stateFileName), append(content, '\n'), 0o640)
}

func readStateFile(dir string) (stateFile, error) {
	path := filepath.Join(dir, stateFileName)
	content, err := os.ReadFile(path)
	if err != nil {
		return stateFile{}, err
	}
	var f stateFile
	if err := json.Unmarshal(content, &f); err != nil {
		return stateFile{}, fmt.Errorf("%s: %w", path, err)
	}
	if f.UUID, err = ParseUUID(f.UUIDHex); err != nil {
		return stateFile{}, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

// Home tells where the RAM of a VM of this host lies: in the pool of that name, or,
// if it is volatile, in DRAM.
func Home(stateDir, name string) (pool string, volatile bool, err error) {
	f, err := readStateFile(filepath.Join(stateDir, name))
	return f.Pool, f.Volatile, err
}

// setIntent makes the intent durable.
func (v *VM) setIntent(i Intent) error {
	v.mu.Lock()
	f := v.file
	v.mu.Unlock()
	if f.Intent == i {
		return nil
	}
	f.Intent = i
	if err := v.writeStateFile(f); err != nil {
		return WithRemedy(fmt.Errorf("%s: remember that it shall be %s: %w", v.Name(), i, err),
			"Make room in the state directory, or make it writable; nothing was changed.")
	}
	v.mu.Lock()
	v.file = f
	v.mu.Unlock()
	return nil
}

// noteGeneration remembers how far the VM has come.
func (v *VM) noteGeneration() error {
	if v.area == nil {
		return nil
	}
	rec, err := v.area.Latest()
	if err != nil {
		return err
	}
	v.mu.Lock()
	f := v.file
	v.mu.Unlock()
	ram := v.area.Identity().RAM
	if f.RAM == ram && rec.Generation <= f.Generation {
		return nil
	}
	f.Generation, f.RAM = rec.Generation, ram
	if err := v.writeStateFile(f); err != nil {
		return err
	}
	v.mu.Lock()
	v.file = f
	v.mu.Unlock()
	return nil
}

// generation is the highest this host has seen of the VM in its present RAM region.
func (v *VM) generation() uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.file.RAM != v.area.Identity().RAM {
		return 0
	}
	return v.file.Generation
}

func (v *VM) intent() Intent {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.file.Intent
}

// runtimeFile names the QEMU that serves the VM. It lies in the runtime folder:
// after a host boot it is gone, as the process is.
type runtimeFile struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"start_time"` // clock ticks since boot, field 22 of /proc/PID/stat
	Launch    []byte `json:"launch"`     // the launch record it was started with
}

func (v *VM) readRuntime() (runtimeFile, bool, error) {
	content, err := os.ReadFile(v.runtimePath())
	if errors.Is(err, fs.ErrNotExist) {
		return runtimeFile{}, false, nil
	}
	if err != nil {
		return runtimeFile{}, false, err
	}
	var f runtimeFile
	if err := json.Unmarshal(content, &f); err != nil {
		return runtimeFile{}, false, fmt.Errorf("%s: %w", v.runtimePath(), err)
	}
	return f, true, nil
}

func (v *VM) writeRuntime(f runtimeFile) error {
	content, err := json.Marshal(f)
	if err != nil {
		return err
	}
	return durable.WriteFile(v.runtimePath(), content, 0o600)
}
