package main

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/kmod/abi"
)

// latchChecks run in a machine whose port 0x61 always shows SERR# or IOCHK# asserted: what the module writes to the port is
// seen by whoever runs the machine.
var latchChecks = []check{
	{"loads", func(m *machine) error { return m.load(m.parameters()) }},
	{"with no reader the kernel handles it", func(m *machine) error {
		mark, err := m.log.mark()
		if err != nil {
			return err
		}
		m.askForNMI(0)
		return m.log.expect(mark, map[string]string{"serr": "NMI: PCI system error (SERR)", "io_check": "NMI: IOCK error"}[m.reasons])
	}},
	{"an NMI of this reason is an outage", latchedOutage},
}

func latchedOutage(m *machine) error {
	time.Sleep(3 * time.Second) // the kernel's own handler of IOCHK# takes two
	mark, err := m.log.mark()
	if err != nil {
		return err
	}
	f, err := open(unix.O_RDWR | unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	defer f.close()
	m.say("armed")
	m.askForNMI(0)
	e, err := f.next()
	if err != nil {
		return err
	}
	want := map[string]uint32{"serr": abi.ReasonSERR, "io_check": abi.ReasonIOCheck}[m.reasons]
	if e.Kind != abi.Outage || e.Reason != want {
		return fmt.Errorf("%+v, want reason %d", e, want)
	}
	settle()
	if line, err := m.log.find(mark, "NMI: "); err != nil || line != "" {
		return fmt.Errorf("the kernel says %q, %v", line, err)
	}
	return nil
}
