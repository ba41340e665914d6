// Package signal is the detector that takes a Unix signal, SIGPWR by default, as
// the announcement of an outage: what init systems, UPS daemons and `kill` can send.
//
// The signal is read from a signalfd by the saver's thread. That needs it blocked
// in every thread of the process, and Go offers no way to do so after start; but
// it honours the mask a process is started with. Block therefore arranges the
// mask and executes the program again, once.
package signal

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/pod"
	"github.com/nv-hypervisor/nv-hypervisor/vm/saver"
)

// Source is a signalfd.
type Source struct {
	fd   int
	name string
}

// allowed are the signals that neither Go's runtime nor the shell has a use for.
var allowed = []unix.Signal{unix.SIGPWR, unix.SIGUSR1, unix.SIGUSR2}

// Parse finds a signal by name, with or without "SIG".
func Parse(name string) (unix.Signal, error) {
	full := strings.ToUpper(name)
	if !strings.HasPrefix(full, "SIG") {
		full = "SIG" + full
	}
	for _, s := range allowed {
		if unix.SignalName(s) == full {
			return s, nil
		}
	}
	return 0, fmt.Errorf("signal %q cannot announce an outage: use SIGPWR, SIGUSR1 or SIGUSR2", name)
}

// Block makes sure the signal is blocked in all threads of this process. If it is
// not yet, Block replaces the process by itself, with the same arguments,
// environment and pid, and does not return.
func Block(sig unix.Signal) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var old unix.Sigset_t
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, set(sig), &old); err != nil {
		return fmt.Errorf("block %s: %w", unix.SignalName(sig), err)
	}
	if has(&old, sig) {
		return nil
	}
	path, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own executable: %w", err)
	}
	return fmt.Errorf("execute %s again: %w", path, unix.Exec(path, os.Args, os.Environ()))
}

// Open makes the source. Block must have been called for the signal.
func Open(sig unix.Signal) (*Source, error) {
	var now unix.Sigset_t
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, nil, &now); err != nil {
		return nil, fmt.Errorf("read the signal mask: %w", err)
	}
	if !has(&now, sig) {
		return nil, fmt.Errorf("%s is not blocked: call Block first", unix.SignalName(sig))
	}
	fd, err := unix.Signalfd(-1, set(sig), unix.SFD_CLOEXEC|unix.SFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("signalfd: %w", err)
	}
	return &Source{fd: fd, name: "signal " + unix.SignalName(sig)}, nil
}

// FD implements pod.Source.
func (s *Source) FD() int { return s.fd }

// Name implements pod.Source.
func (s *Source) Name() string { return s.name }

// Decode implements pod.Source. The kernel does not say when a signal was sent.
func (s *Source) Decode(p []byte) (pod.Event, int64) {
	if len(p) < int(unsafe.Sizeof(unix.SignalfdSiginfo{})) {
		return saver.None, 0
	}
	return saver.Outage, 0
}

// Close implements pod.Source.
func (s *Source) Close() error { return unix.Close(s.fd) }

func set(sig unix.Signal) *unix.Sigset_t {
	var s unix.Sigset_t
	s.Val[(sig-1)/64] |= 1 << ((sig - 1) % 64)
	return &s
}

func has(s *unix.Sigset_t, sig unix.Signal) bool { return s.Val[(sig-1)/64]&(1<<((sig-1)%64)) != 0 }
