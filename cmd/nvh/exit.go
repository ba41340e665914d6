package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nv-hypervisor/nv-hypervisor/api"
	"github.com/nv-hypervisor/nv-hypervisor/nvram/nvdimm"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

// Exit codes. They are stable; docs/scripting.md lists them.
const (
	exitOK          = 0
	exitFailure     = 1   // anything that has no code of its own; `doctor` found a failure
	exitUsage       = 2   // the command line or a definition is wrong
	exitNotFound    = 3   // no such VM, pool, region or outage
	exitState       = 4   // wrong state for this verb, exists already, or busy
	exitUnreachable = 5   // no daemon answers
	exitRefused     = 6   // the image is doubtful and is not resumed
	exitPoolFull    = 7   // the pool has no room
	exitForbidden   = 8   // this user may not use the daemon
	exitPoolDamaged = 9   // not a pool, or one that cannot be trusted
	exitTimeout     = 10  // it took too long
	exitInterrupted = 130 // SIGINT or SIGTERM: 128 + 2, as shells do
)

// codeExits maps the API's error codes to exit codes.
var codeExits = map[api.Code]int{
	"usage":            exitUsage,
	"invalid":          exitUsage,
	"invalid_name":     exitUsage,
	"invalid_guest":    exitUsage,
	"too_large":        exitUsage,
	"not_found":        exitNotFound,
	"region_not_found": exitNotFound,
	"no_endpoint":      exitNotFound,
	"exists":           exitState,
	"region_exists":    exitState,
	"state":            exitState,
	"busy":             exitState,
	"pool_locked":      exitState,
	"qemu_gone":        exitState,
	"unreachable":      exitUnreachable,
	"refused":          exitRefused,
	"qemu_version":     exitRefused,
	"pool_full":        exitPoolFull,
	"forbidden":        exitForbidden,
	"pool_missing":     exitPoolDamaged,
	"pool_foreign":     exitPoolDamaged,
	"pool_truncated":   exitPoolDamaged,
	"pool_newer":       exitPoolDamaged,
	"pool_corrupt":     exitPoolDamaged,
	"pool_unhealthy":   exitPoolDamaged,
	"region_replaced":  exitPoolDamaged,
	"read_only":        exitState,
	"timeout":          exitTimeout,
	"interrupted":      exitInterrupted,
}

// defaultRemedies are for errors that do not bring a remedy of their own.
var defaultRemedies = map[api.Code]string{
	"usage":       "`nvh --help` lists the commands, `nvh COMMAND --help` explains one.",
	"not_found":   "`nvh ls` lists the VMs, `nvh outage ls` the timelines.",
	"state":       "`nvh info NAME` shows the VM's state.",
	"busy":        "Wait for the other verb, or look at `nvh events`.",
	"refused":     "`nvh info NAME` gives the reason; `nvh start --discard-image NAME` boots from scratch.",
	"pool_full":   "`nvh nvram ls` shows what takes the room.",
	"no_endpoint": "The daemon is of another version; compare with `nvh version`.",
}

// errUsage is the cause of an error in the command line.
var errUsage = errors.New("usage")

type usageError struct{ error }

func (e usageError) Is(target error) bool { return target == errUsage }
func (e usageError) Unwrap() error        { return e.error }

func usagef(text string, args ...any) error { return usageError{fmt.Errorf(text, args...)} }

func asUsage(err error) error { return usageError{err} }

// withRemedy adds one sentence that says what to do next.
func withRemedy(err error, sentence string) error { return vm.WithRemedy(err, sentence) }

// describe turns an error into what is reported: the API's form of it, with
// the causes that only exist on this side.
func describe(err error) *api.Error {
	e := api.Describe(err)
	switch {
	case errors.Is(err, errUsage):
		e.Code = "usage"
	case errors.Is(err, api.ErrUnreachable):
		e.Code = "unreachable"
	case errors.Is(err, context.Canceled):
		e.Code, e.Message = "interrupted", "interrupted"
	case errors.Is(err, errPoolDamaged):
		e.Code = "pool_corrupt"
	case errors.Is(err, nvdimm.ErrNoDIMM):
		e.Code = "not_found"
	case errors.Is(err, nvdimm.ErrActive), errors.Is(err, nvdimm.ErrInUse):
		e.Code = "busy"
	}
	if e.Remedy == "" {
		e.Remedy = defaultRemedies[e.Code]
	}
	return e
}

// report writes err to stderr and returns the exit code.
func (a *app) report(err error) int {
	e := describe(err)
	code, known := codeExits[e.Code]
	if !known {
		code = exitFailure
	}
	if a.format == formatJSON {
		line, _ := json.Marshal(struct {
			Error *api.Error `json:"error"`
			Exit  int        `json:"exit"`
		}{e, code})
		fmt.Fprintf(a.stderr, "%s\n", line)
		return code
	}
	fmt.Fprintf(a.stderr, "nvh: %s\n", oneLine(e.Message))
	if e.Remedy != "" {
		fmt.Fprintf(a.stderr, "remedy: %s\n", oneLine(e.Remedy))
	}
	return code
}
