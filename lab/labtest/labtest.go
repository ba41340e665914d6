// Package labtest turns a scenario on an emulated host into a dozen readable lines of a test.
//
//	h := labtest.Start(t, lab.Options{})
//	h.Launch("db")
//	h.AwaitRunning("db")
//	h.NMI()
//	h.AwaitSaved("db")
//	h.Cut()
//	h.PowerOn()
//	h.Continued("db")
//
// Every step that fails ends the test, which then keeps the host's logs and images and says with which command
// line they can be booted again. No host outlives its test, and none outlives the test program.
package labtest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/lab"
	"github.com/nv-hypervisor/nv-hypervisor/lab/guest"
)

// Host is an emulated host in a test.
type Host struct {
	*lab.Host
	t      testing.TB
	ctx    context.Context
	guests map[string]*guestState
}

// guestState is what a test knows of a guest.
type guestState struct {
	last guest.Tick // the last that was seen
}

// Start makes a host and boots it.
func Start(t testing.TB, o lab.Options) *Host {
	t.Helper()
	if o.Bin == "" {
		o.Bin = Programs(t)
	}
	ctx := contextOf(t)
	folder := Folder(t)
	inner, err := lab.Create(ctx, filepath.Join(folder, "host"), o)
	if err != nil {
		t.Fatal(err)
	}
	h := adopt(ctx, t, inner, (*Host).end)
	h.PowerOn()
	return h
}

// contextOf ends shortly before the test program would be ended by its -timeout, so that no host is left behind.
func contextOf(t testing.TB) context.Context {
	const margin = time.Minute
	ctx, cancel := context.WithCancel(context.Background())
	if d, ok := t.(interface{ Deadline() (time.Time, bool) }); ok {
		if end, limited := d.Deadline(); limited {
			ctx, cancel = context.WithDeadline(context.Background(), end.Add(-margin))
		}
	}
	t.Cleanup(cancel)
	return ctx
}

// CutCopy returns a host whose power was cut at this instant, while h goes on; see lab.Host.CutCopy. It lives in a folder of this name beside
// that of h; an earlier one is overwritten. Examine examines it.
func (h *Host) CutCopy(name string) (*lab.Host, lab.Frozen) {
	h.t.Helper()
	copied, frozen, err := h.Host.CutCopy(h.ctx, h.Beside(name))
	h.must(err)
	return copied, frozen
}

// Standby makes what copies of power cuts of h can wake up from; see lab.Standby.
func (h *Host) Standby() *lab.Standby {
	h.t.Helper()
	copied, _, err := h.Host.CutCopy(h.ctx, h.Beside("standby"))
	h.must(err)
	s, err := lab.NewStandby(h.ctx, copied)
	h.must(err)
	return s
}

// Beside is a folder beside that of the host, which is removed with it at the end of the test.
func (h *Host) Beside(name string) string {
	return filepath.Join(filepath.Dir(h.Folder()), name)
}

// Seen is the last that each guest has printed.
type Seen map[string]guest.Tick

// Seen is what is known of the guests now.
func (h *Host) Seen() Seen {
	seen := Seen{}
	for name, g := range h.guests {
		seen[name] = g.last
	}
	return seen
}

// Examine gives a test a duplicate of a copy of a power cut, in a folder where an earlier one may be, and says what its guests had
// printed before. At the end of the test its power is off, and the folder is left for the next.
func Examine(t testing.TB, copied *lab.Host, folder string, seen Seen) *Host {
	t.Helper()
	inner, err := copied.Duplicate(folder)
	if err != nil {
		t.Fatal(err)
	}
	h := adopt(contextOf(t), t, inner, (*Host).switchOff)
	for name, last := range seen {
		h.guests[name] = &guestState{last: last}
	}
	return h
}

// adopt takes over a host whose power is off.
func adopt(ctx context.Context, t testing.TB, inner *lab.Host, end func(*Host)) *Host {
	inner.Tie()
	h := &Host{Host: inner, t: t, ctx: ctx, guests: map[string]*guestState{}}
	t.Cleanup(func() { end(h) })
	return h
}

// Folder is an empty folder for hosts, in memory if there is room. It is removed at the end of the test.
func Folder(t testing.TB) string {
	t.Helper()
	base := "/dev/shm"
	if free, err := freeBytes(base); err != nil || free < 4<<30 {
		base = os.TempDir()
	}
	folder, err := os.MkdirTemp(base, "nvh-lab-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(folder); err != nil {
			t.Error(err)
		}
	})
	return folder
}

// end removes the host.
func (h *Host) end() {
	h.switchOff()
	if err := h.Remove(); err != nil {
		h.t.Error(err)
	}
}

// switchOff ends the host; of a failed test it keeps what is needed to look into it.
func (h *Host) switchOff() {
	if err := h.Host.Cut(); err != nil {
		h.t.Error(err)
	}
	if h.t.Failed() {
		h.keep()
	}
}

func (h *Host) keep() {
	kept, err := os.MkdirTemp("", "nvh-lab-failed-")
	if err == nil {
		err = h.Keep(context.WithoutCancel(h.ctx), kept) // also when the test is out of time
	}
	if err != nil {
		h.t.Logf("the host's files are not kept: %v", err)
		return
	}
	h.t.Logf("the host's logs and images are kept in %[1]s; boot it again with %[1]s/power-on.sh, repeat the test with: go test -run '^%s$'",
		kept, strings.ReplaceAll(h.t.Name(), "/", "$/^"))
}

// Context is that of the scenario.
func (h *Host) Context() context.Context { return h.ctx }

func (h *Host) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// PowerOn gives the host its power back and waits until nvhd serves.
func (h *Host) PowerOn() {
	h.t.Helper()
	start := time.Now()
	report, err := h.Boot(h.ctx)
	h.must(err)
	h.t.Logf("nvhd serves %.1f s after power on (%s)", time.Since(start).Seconds(), report)
}

// Wake gives the host its power back as PowerOn does, but for the boot of the kernel.
func (h *Host) Wake(s *lab.Standby) {
	h.t.Helper()
	start := time.Now()
	h.must(s.Wake(h.ctx, h.Host))
	report, err := h.AwaitReady(h.ctx)
	h.must(err)
	h.t.Logf("nvhd serves %.1f s after waking up (%s)", time.Since(start).Seconds(), report)
}

// Cut pulls the plug.
func (h *Host) Cut() {
	h.t.Helper()
	h.must(h.Host.Cut())
}

// Run runs a command inside and returns what it printed.
func (h *Host) Run(args ...string) string {
	h.t.Helper()
	out, err := h.Host.Run(h.ctx, args...)
	h.must(err)
	return out
}

// poll asks until it is so.
func (h *Host) poll(what string, within time.Duration, done func() (bool, error)) {
	h.t.Helper()
	deadline := time.Now().Add(within)
	for {
		ok, err := done()
		if ok && err == nil {
			return
		}
		if err == nil && time.Now().After(deadline) {
			err = fmt.Errorf("it takes longer than %v", within)
		}
		if err != nil {
			h.t.Fatal(h.Explain(fmt.Errorf("wait for %s: %w", what, err)))
		}
		time.Sleep(100 * time.Millisecond)
	}
}
