package logind

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/pod"
)

// fake is a logind that can also do what the mock cannot.
type fake struct {
	conn  *dbus.Conn
	mu    sync.Mutex
	err   *dbus.Error // guarded by mu; answer to Inhibit
	hang  bool        // guarded by mu; Inhibit says nothing
	given []*pipe     // guarded by mu; an inhibitor each
	block chan struct{}
}

// pipe is an inhibitor: who holds the end that was sent holds it.
type pipe struct{ ours, sent int }

// Inhibit is the method of the manager.
func (f *fake) Inhibit(what, who, why, mode string) (dbus.UnixFD, *dbus.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.hang {
		f.mu.Unlock()
		<-f.block
		f.mu.Lock()
	}
	if f.err != nil {
		return 0, f.err
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return 0, dbus.MakeFailedError(err)
	}
	f.given = append(f.given, &pipe{ours: fds[0], sent: fds[1]})
	return dbus.UnixFD(fds[1]), nil
}

// released tells whether of the inhibitors given out the last n are held, and no others. The watcher has reported that it
// has them, so the copy here is not needed any more.
func (f *fake) released(n int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, p := range f.given {
		p.forget()
		poll := []unix.PollFd{{Fd: int32(p.ours), Events: unix.POLLIN}}
		unix.Poll(poll, 0)
		if closed := poll[0].Revents&unix.POLLHUP != 0; closed != (i < len(f.given)-n) {
			return false
		}
	}
	return true
}

// forget closes the end that was sent.
func (p *pipe) forget() {
	if p.sent >= 0 {
		unix.Close(p.sent)
		p.sent = -1
	}
}

func (f *fake) end() {
	close(f.block)
	f.conn.Close()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.given {
		p.forget()
		unix.Close(p.ours)
	}
	f.given = nil
}

func (f *fake) refuse(err *dbus.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

// newFake puts one on the bus.
func newFake(t *testing.T, s *site, preparing bool) *fake {
	t.Helper()
	f := &fake{conn: s.client(), block: make(chan struct{})}
	t.Cleanup(f.end)
	f.own(t, preparing)
	return f
}

func (f *fake) own(t *testing.T, preparing bool) {
	t.Helper()
	if err := f.conn.Export(f, managerPath, manager); err != nil {
		t.Fatal(err)
	}
	if err := f.conn.Export(properties{
		"InhibitDelayMaxUSec":  dbus.MakeVariant(uint64(1<<64 - 1)),
		"PreparingForShutdown": dbus.MakeVariant(preparing),
	}, managerPath, theBus+".Properties"); err != nil {
		t.Fatal(err)
	}
	if got, err := f.conn.RequestName(login1, dbus.NameFlagDoNotQueue); err != nil || got != dbus.RequestNameReplyPrimaryOwner {
		t.Fatalf("own %s: %v, %v", login1, got, err)
	}
}

// properties are those of the manager.
type properties map[string]dbus.Variant

// Get is the method of org.freedesktop.DBus.Properties.
func (p properties) Get(of, name string) (dbus.Variant, *dbus.Error) {
	v, ok := p[name]
	if of != manager || !ok {
		return v, dbus.NewError(theBus+".Error.UnknownProperty", nil)
	}
	return v, nil
}

func (f *fake) emit(t *testing.T, args ...any) {
	t.Helper()
	if err := f.conn.Emit(managerPath, manager+".PrepareForShutdown", args...); err != nil {
		t.Fatal(err)
	}
}

// Anybody may send a signal to anybody. It counts only if it is logind's.
func TestForgedShutdown(t *testing.T) {
	s := newBus(t)
	f := newFake(t, s, false)
	w := listen(t, Config{})
	if r := w.expect(pod.Mains); r.Detail != "logind will wait up to 8760h0m0s" {
		t.Errorf("detail %q", r.Detail)
	}
	forger := s.client()
	if err := forger.Emit(managerPath, manager+".PrepareForShutdown", true); err != nil {
		t.Fatal(err)
	}
	for _, name := range others(t, forger) {
		message := &dbus.Message{
			Type: dbus.TypeSignal,
			Headers: map[dbus.HeaderField]dbus.Variant{
				dbus.FieldPath:        dbus.MakeVariant(managerPath),
				dbus.FieldInterface:   dbus.MakeVariant(manager),
				dbus.FieldMember:      dbus.MakeVariant("PrepareForShutdown"),
				dbus.FieldDestination: dbus.MakeVariant(name),
				dbus.FieldSignature:   dbus.MakeVariant(dbus.SignatureOf(true)),
			},
			Body: []any{true},
		}
		forger.Send(message, nil)
	}
	w.quiet()
	f.emit(t, true)
	w.expect(pod.Going)
}

// others are the connections on the bus besides this one. One is the watcher's.
func others(t *testing.T, conn *dbus.Conn) (names []string) {
	t.Helper()
	var all []string
	if err := conn.BusObject().Call(theBus+".ListNames", 0).Store(&all); err != nil {
		t.Fatal(err)
	}
	for _, name := range all {
		if strings.HasPrefix(name, ":") && name != conn.Names()[0] {
			names = append(names, name)
		}
	}
	if len(names) < 2 {
		t.Fatalf("connections %v: the watcher's is missing", all)
	}
	return names
}

// A shutdown that began before the watcher connected is reported, though logind gives no inhibitor any more.
func TestLate(t *testing.T) {
	s := newBus(t)
	f := newFake(t, s, true)
	f.refuse(dbus.NewError(login1+".OperationInProgress", []any{"The operation inhibition has been requested for is already running"}))
	w := listen(t, Config{})
	r := <-w.reports
	if r.Condition != pod.Going || r.Done != nil {
		t.Errorf("report %+v, want one of a shutdown that nobody delays", r)
	}
	if err := w.Test(t.Context()); err == nil || !strings.Contains(err.Error(), "a shutdown is under way") {
		t.Errorf("test: %v", err)
	}
	f.refuse(nil)
	f.emit(t, false)
	w.expect(pod.Mains)
	if !f.released(1) {
		t.Error("no inhibitor is held after the shutdown was cancelled")
	}
}

// While the connection is lost the inhibitor is kept: a restarted logind honours it, and may have begun to shut down.
func TestInhibitorOutlivesLogind(t *testing.T) {
	s := newBus(t)
	f := newFake(t, s, false)
	w := listen(t, Config{})
	w.expect(pod.Mains)
	if _, err := f.conn.ReleaseName(login1); err != nil {
		t.Fatal(err)
	}
	w.expect(pod.Unknown)
	if !f.released(1) {
		t.Fatal("the inhibitor was given up with the connection")
	}
	f.refuse(dbus.NewError(login1+".OperationInProgress", nil))
	f.own(t, true)
	r := w.expect(pod.Going) // with Done
	r.Done()
	eventually(t, "the release", func() bool { return f.released(0) })
}

// The next inhibitor is held before the former is given up, and a program that is started inherits neither.
func TestInhibitorReplaced(t *testing.T) {
	s := newBus(t)
	f := newFake(t, s, false)
	w := listen(t, Config{})
	w.expect(pod.Mains)
	w.mu.Lock()
	fd := w.inhibitor.Fd()
	w.mu.Unlock()
	if flags, err := unix.FcntlInt(fd, unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("flags of the inhibitor %#x, %v: QEMU would hold it for ever", flags, err)
	}
	if _, err := f.conn.ReleaseName(login1); err != nil {
		t.Fatal(err)
	}
	w.expect(pod.Unknown)
	f.own(t, false)
	w.expect(pod.Mains)
	eventually(t, "one inhibitor of two", func() bool { return f.released(1) })
	f.mu.Lock()
	given := len(f.given)
	f.mu.Unlock()
	if given != 2 {
		t.Errorf("%d inhibitors were given out", given)
	}
	w.stop()
	eventually(t, "none", func() bool { return f.released(0) })
}

// What logind refuses, or says wrong, is in the health with a remedy.
func TestRefused(t *testing.T) {
	for name, says := range map[string]string{
		theBus + ".Error.AccessDenied":                     "run nvhd as root",
		theBus + ".Error.InteractiveAuthorizationRequired": "polkit",
		theBus + ".Error.NoReply":                          "journalctl",
		theBus + ".Error.UnknownMethod":                    "not systemd-logind",
	} {
		t.Run(name, func(t *testing.T) {
			s := newBus(t)
			f := newFake(t, s, false)
			f.refuse(dbus.NewError(name, []any{"no"}))
			w := listen(t, Config{})
			w.expect(pod.Unknown)
			w.failing("Inhibit: no", says)
			f.refuse(nil)
			w.expect(pod.Mains)
		})
	}
}

// Signals that are not what they should be end the session, which is made anew.
func TestWrongSignal(t *testing.T) {
	s := newBus(t)
	f := newFake(t, s, false)
	w := listen(t, Config{})
	w.expect(pod.Mains)
	for _, args := range [][]any{{}, {"yes"}, {true, true}} {
		f.emit(t, args...)
		if r := w.expect(pod.Unknown); !strings.Contains(r.Detail, "other arguments than one boolean") {
			t.Errorf("%v: %+v", args, r)
		}
		w.expect(pod.Mains)
	}
}

// A logind that does not answer is waited for as long as the caller likes, at most.
func TestSilent(t *testing.T) {
	s := newBus(t)
	f := newFake(t, s, false)
	f.mu.Lock()
	f.hang = true
	f.mu.Unlock()
	w := listen(t, Config{})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := w.Test(ctx); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("test: %v", err)
	}
	if r := w.expect(pod.Unknown); !strings.Contains(r.Detail, "does not answer") {
		t.Errorf("report %+v", r)
	}
	w.stop() // though it waits again
}

func TestConfig(t *testing.T) {
	if _, err := New(Config{MinDelay: -1}); err == nil || !strings.Contains(err.Error(), `write how long`) {
		t.Errorf("a negative delay: %v", err)
	}
	w, err := New(Config{})
	if err != nil || w.minDelay != DefaultMinDelay || w.Name() != "logind" || w.Tier() != pod.Planned || w.Health().Connected {
		t.Errorf("%+v, %v", w, err)
	}
	for delay, want := range map[time.Duration]string{30 * time.Second: "", 30*time.Second - 1: "InhibitDelayMaxSec=30 "} {
		if got := w.warning(delay); !strings.Contains(got, want) || (want == "") != (got == "") {
			t.Errorf("a delay of %v warns %q", delay, got)
		}
	}
}
