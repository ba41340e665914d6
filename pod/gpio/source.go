package gpio

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/pod"
	"github.com/nv-hypervisor/nv-hypervisor/vm/saver"
)

// Source is a requested line in the emergency tier.
type Source struct {
	line *line
	name string
}

var (
	_ pod.Source    = (*Source)(nil)
	_ saver.Starter = (*Source)(nil)
)

// Open requests the line. From here on edges are queued.
func Open(c Config) (*Source, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	if !c.Emergency() {
		return nil, fmt.Errorf("%s: it is configured for the battery tier: use New", c.name())
	}
	l, err := request(c)
	if err != nil {
		return nil, err
	}
	return &Source{line: l, name: c.name()}, nil
}

// FD implements pod.Source.
func (s *Source) FD() int { return s.line.fd }

// Name implements pod.Source.
func (s *Source) Name() string { return s.name }

// Decode implements pod.Source. Of several edges the last decides.
func (s *Source) Decode(p []byte) (pod.Event, int64) {
	now, sinceNS := s.line.decode(p)
	return announcement(now), sinceNS
}

// Start implements saver.Starter: a line that is active announces an outage, whose time is not known.
func (s *Source) Start() (pod.Event, int64) {
	if on, err := s.line.active(); err == nil && on {
		return saver.Outage, 0
	}
	return saver.None, 0
}

// Test reads the line. It says nothing of the wire: only pulling it does.
func (s *Source) Test() error {
	if _, err := s.line.active(); err != nil {
		return fmt.Errorf("%s: read the line: %w: %s", s.name, err, unplugged(err))
	}
	return nil
}

// Close implements pod.Source. It gives the line back.
func (s *Source) Close() error { return unix.Close(s.line.fd) }

func announcement(now level) pod.Event {
	switch now {
	case active:
		return saver.Outage
	case inactive:
		return saver.PowerBack
	}
	return saver.None
}

// unplugged is the remedy for a line that cannot be read.
func unplugged(err error) string {
	if errors.Is(err, unix.ENODEV) {
		return "the controller is gone: plug it in or load its driver, and restart nvhd"
	}
	return "see the kernel's log (dmesg)"
}
