package kmod_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/kmod/abi"
	"github.com/nv-hypervisor/nv-hypervisor/pod"
	"github.com/nv-hypervisor/nv-hypervisor/pod/kmod"
	"github.com/nv-hypervisor/nv-hypervisor/vm/saver"
)

// The module itself is tested in a machine of its own (package kmod at the module's sources); here is what needs none.

func events(t *testing.T, list ...abi.Event) []byte {
	t.Helper()
	var b bytes.Buffer
	for _, e := range list {
		if err := binary.Write(&b, binary.NativeEndian, e); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func TestDecode(t *testing.T) {
	outage := func(at uint64) abi.Event { return abi.Event{Kind: abi.Outage, TimeNS: at} }
	back := func(at uint64) abi.Event { return abi.Event{Kind: abi.PowerBack, TimeNS: at} }
	test := func(at uint64) abi.Event { return abi.Event{Kind: abi.SelfTest, TimeNS: at} }
	lost := func(e abi.Event) abi.Event { e.Lost = 3; return e }
	for name, c := range map[string]struct {
		read  []byte
		event pod.Event
		at    int64
	}{
		"nothing":                    {nil, saver.None, 0},
		"less than an event":         {events(t, outage(5))[:31], saver.None, 0},
		"outage":                     {events(t, outage(5)), saver.Outage, 5},
		"power back":                 {events(t, back(5)), saver.PowerBack, 5},
		"self-test":                  {events(t, test(5)), saver.Test, 5},
		"kind of a later version":    {events(t, abi.Event{Kind: 99, TimeNS: 5}), saver.None, 0},
		"the first of two outages":   {events(t, outage(5), outage(7)), saver.Outage, 5},
		"outage, then power back":    {events(t, outage(5), back(7)), saver.PowerBack, 7},
		"power back, then outage":    {events(t, back(5), outage(7)), saver.Outage, 7},
		"self-tests around":          {events(t, test(1), outage(5), test(9)), saver.Outage, 5},
		"lost before a self-test":    {events(t, lost(test(9))), saver.Outage, 0},
		"lost before an outage":      {events(t, lost(outage(9))), saver.Outage, 0},
		"lost before power was back": {events(t, lost(back(9))), saver.PowerBack, 9},
	} {
		var d kmod.Device
		if event, at := d.Decode(c.read); event != c.event || at != c.at {
			t.Errorf("%s: %v at %d, want %v at %d", name, event, at, c.event, c.at)
		}
	}
}

func TestOpenSaysWhatToDo(t *testing.T) {
	_, err := kmod.Open(filepath.Join(t.TempDir(), "nvh_pod"))
	if !errors.Is(err, kmod.ErrNotLoaded) || !strings.Contains(err.Error(), "modprobe nvh_pod") {
		t.Errorf("no device: %v", err)
	}
	_, err = kmod.Open("/dev/null")
	if !errors.Is(err, kmod.ErrVersion) || !strings.Contains(err.Error(), "other device") {
		t.Errorf("/dev/null: %v", err)
	}
	plain := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := kmod.Open(plain); !errors.Is(err, kmod.ErrVersion) {
		t.Errorf("a plain file: %v", err)
	}
}

func TestOpenWithoutPermission(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nvh_pod")
	if err := os.WriteFile(path, nil, 0); err != nil {
		t.Fatal(err)
	}
	// Root may open everything, so as far as files go this thread becomes another user's for a moment.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if _, err := unix.SetfsuidRetUid(65534); err != nil {
		t.Fatal(err)
	}
	_, err := kmod.Open(path)
	if _, err := unix.SetfsuidRetUid(os.Getuid()); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(err, unix.EACCES) || !strings.Contains(err.Error(), "run as root") {
		t.Error(err)
	}
}

func TestDecodeDoesNotAllocate(t *testing.T) {
	var d kmod.Device
	read := events(t, abi.Event{Kind: abi.SelfTest}, abi.Event{Kind: abi.Outage, TimeNS: 1})
	if n := testing.AllocsPerRun(100, func() { d.Decode(read) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestParkRefusesLimits(t *testing.T) {
	var d kmod.Device // no descriptor is touched
	for _, limit := range []time.Duration{-1, 0, kmod.MaxPark + 1} {
		if _, err := d.Park(limit); !errors.Is(err, unix.EINVAL) {
			t.Errorf("%v: %v", limit, err)
		}
	}
}
