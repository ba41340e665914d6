package main

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/kmod/abi"
)

var unloadChecks = []check{
	{"does not unload while open, unloads when closed", unloadWhileOpen},
	{"loads and unloads under NMIs", unloadUnderNMIs},
}

func unloadWhileOpen(m *machine) error {
	f, err := open(unix.O_RDWR)
	if err != nil {
		return err
	}
	if err := wantError("unload", m.unload(), unix.EWOULDBLOCK); err != nil {
		return err
	}
	if err := f.selfTest(1); err != nil {
		return fmt.Errorf("after the refusal: %w", err)
	}
	f.close()
	if err := m.unload(); err != nil {
		return fmt.Errorf("unload: %w", err)
	}
	if _, err := open(unix.O_RDWR); !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("open after the unload: %w", err)
	}
	return m.load(m.parameters())
}

func unloadUnderNMIs(m *machine) error {
	mark, err := m.log.mark()
	if err != nil {
		return err
	}
	const nmis, every = 20, 100 * time.Millisecond
	for i := range nmis {
		m.askForNMI(time.Duration(i) * every)
	}
	claimed := uint64(0)
	for end := time.Now().Add(nmis*every + every); time.Now().Before(end); {
		n, err := useOnce()
		if err != nil {
			return err
		}
		claimed += n
		if err := m.unload(); err != nil {
			return fmt.Errorf("unload: %w", err)
		}
		if err := m.load(m.parameters()); err != nil {
			return fmt.Errorf("load: %w", err)
		}
	}
	m.say("figure NMIs claimed between loading and unloading: %d of %d", claimed, nmis)
	if claimed == 0 {
		return errors.New("none of the NMIs came while the module was in use")
	}
	return m.log.expectNoComplaint(mark)
}

func useOnce() (nmis uint64, err error) {
	f, err := open(unix.O_RDWR | unix.O_NONBLOCK)
	if err != nil {
		return 0, err
	}
	defer f.close()
	if _, err := f.readable(150 * time.Millisecond); err != nil {
		return 0, err
	}
	var s abi.Stats
	s, err = f.stats()
	return s.Events, err
}
