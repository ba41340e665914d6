package logind

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/nv-hypervisor/nv-hypervisor/pod"
)

// patience is how long a test waits for what must happen.
const patience = 30 * time.Second

// site is a private bus, and on it the logind of python3-dbusmock.
type site struct {
	t       *testing.T
	address string
	bus     *process
	logind  *process
}

// process is one that ends with its test.
type process struct {
	cmd  *exec.Cmd
	log  *lockedBuffer
	done chan struct{}
}

// lockedBuffer is written by exec and read by tests.
type lockedBuffer struct {
	mu  sync.Mutex
	all bytes.Buffer // guarded by mu
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.String()
}

// newBus starts a bus, which is the system bus of this test.
func newBus(t *testing.T) *site {
	t.Helper()
	dir, err := os.MkdirTemp("", "bus") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &site{t: t, address: "unix:path=" + filepath.Join(dir, "bus")}
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", s.address)
	s.startBus()
	return s
}

// newSite starts both.
func newSite(t *testing.T) *site {
	t.Helper()
	s := newBus(t)
	s.startLogind(time.Minute)
	return s
}

func (s *site) startBus() {
	s.t.Helper()
	s.bus = s.start("dbus-daemon", "--session", "--nofork", "--nopidfile", "--address="+s.address)
	eventually(s.t, "the bus", func() bool {
		conn, err := dbus.Connect(s.address)
		if err != nil {
			return false
		}
		return conn.Close() == nil
	})
}

// startLogind returns when logind is complete: one that waits for inhibitors for some time.
func (s *site) startLogind(delay time.Duration) {
	s.t.Helper()
	s.logind = s.start("/usr/bin/python3", "-m", "dbusmock", "--template", "logind")
	eventually(s.t, "logind", func() bool {
		return s.mock("AddProperty", manager, "InhibitDelayMaxUSec", dbus.MakeVariant(uint64(delay/time.Microsecond))) == nil
	})
}

// start runs a daemon until the test ends.
func (s *site) start(path string, args ...string) *process {
	s.t.Helper()
	p := &process{cmd: exec.Command(path, args...), log: &lockedBuffer{}, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.cmd.WaitDelay = time.Second
	if err := p.cmd.Start(); err != nil {
		s.t.Fatalf("%s: %v: run scripts/deps.sh", path, err)
	}
	go func() {
		defer close(p.done)
		p.cmd.Wait() // its log says more
	}()
	s.t.Cleanup(func() {
		p.kill()
		if s.t.Failed() {
			s.t.Logf("%s said:\n%s", path, p.log)
		}
	})
	return p
}

func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// client connects to the bus, beside the watcher.
func (s *site) client() *dbus.Conn {
	s.t.Helper()
	conn, err := dbus.Connect(s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close() })
	return conn
}

// mock tells the mock what to do.
func (s *site) mock(method string, args ...any) error {
	conn, err := dbus.Connect(s.address)
	if err != nil {
		return err
	}
	defer conn.Close()
	return conn.Object(login1, managerPath).Call("org.freedesktop.DBus.Mock."+method, dbus.FlagNoAutoStart, args...).Err
}

// announce has logind say PrepareForShutdown, as it does when a shutdown begins and when one is cancelled.
func (s *site) announce(start bool) {
	s.t.Helper()
	set := map[string]dbus.Variant{"PreparingForShutdown": dbus.MakeVariant(start)}
	if err := s.mock("UpdateProperties", manager, set); err != nil {
		s.t.Fatal(err)
	}
	if err := s.mock("EmitSignal", manager, "PrepareForShutdown", "b", []dbus.Variant{dbus.MakeVariant(start)}); err != nil {
		s.t.Fatal(err)
	}
}

// inhibitors are those that logind knows: what, who, why and mode of each.
func (s *site) inhibitors() []string {
	s.t.Helper()
	conn, err := dbus.Connect(s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	var list []struct {
		What, Who, Why, Mode string
		UID, PID             uint32
	}
	if err := conn.Object(login1, managerPath).Call(manager+".ListInhibitors", 0).Store(&list); err != nil {
		s.t.Fatal(err)
	}
	var lines []string
	for _, i := range list {
		lines = append(lines, fmt.Sprintf("%s/%s/%s/%s", i.What, i.Who, i.Why, i.Mode))
	}
	return lines
}

// expectInhibitors waits until logind knows n, all of them ours.
func (s *site) expectInhibitors(n int) {
	s.t.Helper()
	eventually(s.t, fmt.Sprintf("%d inhibitors", n), func() bool { return len(s.inhibitors()) == n })
	for _, i := range s.inhibitors() {
		if i != "shutdown/nvhd/saving the virtual machines/delay" {
			s.t.Errorf("inhibitor %s", i)
		}
	}
}

// eventually waits for what must become true.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %v for %s", patience, what)
		}
	}
}

// listener is a watcher that runs, and its reports.
type listener struct {
	*Watcher
	t       *testing.T
	reports chan pod.Report
	stop    func() // and waits
}

// listen makes a watcher and runs it until the test ends.
func listen(t *testing.T, config Config) *listener {
	t.Helper()
	w, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	l := &listener{Watcher: w, t: t, reports: make(chan pod.Report, 1000)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.Run(ctx, func(r pod.Report) { l.reports <- r })
	}()
	l.stop = func() { cancel(); <-ended }
	t.Cleanup(l.stop)
	return l
}

// expect takes the next report, which is of a condition.
func (l *listener) expect(condition pod.Condition) pod.Report {
	l.t.Helper()
	select {
	case r := <-l.reports:
		if r.Condition != condition || r.At.IsZero() || r.Runtime >= 0 || r.Charge >= 0 || (r.Done != nil) != (condition == pod.Going) {
			l.t.Fatalf("report %+v, want %q", r, condition)
		}
		return r
	case <-time.After(patience):
		l.t.Fatalf("no report of %q in %v; health: %+v", condition, patience, l.Health())
	}
	return pod.Report{}
}

// quiet makes sure that nothing is reported: not before the watcher has answered what comes now.
func (l *listener) quiet() {
	l.t.Helper()
	select {
	case r := <-l.reports:
		l.t.Fatalf("unexpected: %+v", r)
	case <-time.After(200 * time.Millisecond):
	}
}

// failing waits for an error in the health that says this.
func (l *listener) failing(says ...string) {
	l.t.Helper()
	eventually(l.t, fmt.Sprintf("a health that says %q", says), func() bool {
		h := l.Health()
		for _, s := range says {
			if !strings.Contains(h.Error, s) {
				return false
			}
		}
		return !h.Connected
	})
}
