package nvdimm

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// Flag is a word of a DIMM's health, as the kernel writes it.
type Flag string

// The flags of the ACPI NFIT ("NVDIMM state flags" of ACPI 6.5, section 5.2.26.3; flags_show in the kernel's
// drivers/acpi/nfit/core.c) and, at the end, those that only POWER has (Documentation/ABI/testing/sysfs-bus-papr-pmem).
const (
	FlagSaveFailed     Flag = "save_fail"    // the last save to flash failed
	FlagRestoreFailed  Flag = "restore_fail" // the last restore from flash failed
	FlagFlushFailed    Flag = "flush_fail"   // what was in the platform's buffers was lost at the last power cut
	FlagNotArmed       Flag = "not_armed"    // the next power cut loses the content
	FlagMapFailed      Flag = "map_fail"     // the firmware could not map the module
	FlagHealthObserved Flag = "smart_event"  // the module has reported a change of its health
	FlagHealthNotified Flag = "smart_notify" // the firmware will report changes: no sign of anything wrong
	FlagEncrypted      Flag = "encrypted"
	FlagLocked         Flag = "locked" // the content cannot be reached before it is unlocked
	FlagScrubbed       Flag = "scrub"  // the content was erased
)

// lossOf says what the flags cost that forbid to trust a DIMM, and what to do about it.
var lossOf = map[Flag]struct{ what, remedy string }{
	FlagSaveFailed:    {"the module did not save its content at the last power cut", "check its energy source; take what was in it from elsewhere"},
	FlagRestoreFailed: {"the module did not restore its content after the last power cut", "replace it; take what was in it from elsewhere"},
	FlagFlushFailed:   {"the last power cut lost writes on their way to the module", "check the power supply's hold-up time; take what was in it from elsewhere"},
	FlagNotArmed:      {"the next power cut loses the module's content", "let its energy source charge, or replace it"},
	FlagMapFailed:     {"the firmware could not map the module", "check its seat and the firmware's settings"},
	FlagLocked:        {"the module is locked", "unlock it with ndctl setup-passphrase and the kernel's keys, see ndctl(1)"},
	FlagScrubbed:      {"the module's content was erased", "unlock it, then initialise the pool anew"},
}

// harmless are the flags that need nobody.
var harmless = []Flag{FlagHealthNotified, FlagEncrypted}

// ParseFlags reads the attribute "flags": words, in any number. Words of newer kernels are kept.
func ParseFlags(text string) []Flag {
	list := []Flag{}
	for _, word := range strings.Fields(text) {
		if f := Flag(word); !slices.Contains(list, f) {
			list = append(list, f)
		}
	}
	return list
}

// DIMM is one memory module.
type DIMM struct {
	Name   string `json:"name"`             // the kernel's: "nmem0"
	ID     string `json:"id,omitempty"`     // of the module itself, wherever it is plugged in: "8680-57341200-0001"
	Handle string `json:"handle,omitempty"` // of its socket and channel
	Serial string `json:"serial,omitempty"`
	State  string `json:"state"` // "active": a region uses it; "idle"; "disabled": no driver
	Flags  []Flag `json:"flags"`
	// FlagsKnown is false where the firmware tells nothing of the module's health.
	FlagsKnown bool `json:"flags_known"`
	// DirtyShutdown counts the power cuts in which the module lost data; nil where it does not count.
	DirtyShutdown *uint64 `json:"dirty_shutdown"`
}

// families are the folders in which the kinds of firmware keep a DIMM's health: ACPI, POWER, CXL.
var families = []string{"nfit", "papr", "cxl"}

// DIMM reads one module by its name. The error wraps ErrNoDIMM if there is none.
func (s System) DIMM(name string) (DIMM, error) {
	if !dimmName.MatchString(name) {
		return DIMM{Name: name}, fmt.Errorf("%q: %w: a DIMM is called nmem0, nmem1 …", name, ErrNoDIMM)
	}
	f := folder{path: s.path("sys/bus/nd/devices", name)}
	if _, err := os.Stat(f.path); err != nil {
		return DIMM{Name: name}, fmt.Errorf("%s: %w", name, ErrNoDIMM)
	}
	d := DIMM{Name: name, State: f.text("state"), Flags: []Flag{}}
	for _, family := range families {
		if !f.has(family) {
			continue
		}
		if d.FlagsKnown = f.has(family + "/flags"); d.FlagsKnown {
			d.Flags = ParseFlags(f.text(family + "/flags"))
		}
		d.ID, d.Handle, d.Serial = f.text(family+"/id"), f.text(family+"/handle"), f.text(family+"/serial")
		if n, ok := f.number(family + "/dirty_shutdown"); ok {
			d.DirtyShutdown = &n
		}
		break
	}
	if f.err != nil {
		return d, fmt.Errorf("read the state of %s: %w", name, f.err)
	}
	return d, nil
}

// Problem is one thing about memory that an operator should know.
type Problem struct {
	Fatal  bool   // the memory must not be trusted
	Where  string // "nmem0", "region0"
	What   string
	Remedy string
}

// Problems tells what is wrong with the module.
func (d DIMM) Problems() []Problem {
	var list []Problem
	if !d.FlagsKnown {
		list = append(list, Problem{Where: d.Name, What: "the firmware does not tell whether the module is healthy",
			Remedy: "watch it by its vendor's tool"})
	}
	for _, f := range d.Flags {
		loss, fatal := lossOf[f]
		switch {
		case fatal:
			list = append(list, Problem{true, d.Name, string(f) + ": " + loss.what, loss.remedy})
		case f == FlagHealthObserved:
			list = append(list, Problem{Where: d.Name, What: string(f) + ": the module reports a change of its health",
				Remedy: "see 'ndctl list --dimms --health'"})
		case !slices.Contains(harmless, f):
			list = append(list, Problem{Where: d.Name, What: string(f) + ": a flag that this version does not know",
				Remedy: "see the kernel's documentation of the attribute flags"})
		}
	}
	return list
}
