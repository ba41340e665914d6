package nut

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/pod"
)

// What Debian's packages nut-server and nut-client put here. The programs of the same names in /sbin only ask
// /etc/nut/nut.conf whether they are enabled.
const (
	upsdPath   = "/lib/nut/upsd"
	driverPath = "/lib/nut/dummy-ups"
	upsmonPath = "/lib/nut/upsmon"
)

// patience is how long a test waits for what must happen.
const patience = 30 * time.Second

// A password with all that NUT's configuration and protocol need escaped.
const (
	testUser     = "nvh"
	testPassword = `a "b" c\d #e=f`
)

// site is a real upsd with a dummy driver, in a folder and on a port of its own.
type site struct {
	t    *testing.T
	dir  string
	port string
	tls  bool
	upsd *process
	ups  *process // the driver
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

// newSite writes the configuration of NUT and starts the driver and upsd.
func newSite(t *testing.T, encrypted bool) *site {
	t.Helper()
	dir, err := os.MkdirTemp("", "nut") // the driver's socket is in it: t.TempDir is too long
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &site{t: t, dir: dir, port: freePort(t), tls: encrypted}
	escaped := strings.NewReplacer(`\`, `\\`, `"`, `\"`, `#`, `\#`).Replace(testPassword)
	s.write("ups.conf", "maxretry = 1\n[dummy]\ndriver = dummy-ups\nport = "+dir+"/dummy.dev\npollinterval = 1\n"+
		`desc = "rack \"7\" \#2, c:\\ups"`+"\n")
	s.write("upsd.users", "[nvh]\npassword = \""+escaped+"\"\nupsmon secondary\n"+
		"[primary]\npassword = primary\nupsmon primary\nactions = SET\n")
	conf := "LISTEN 127.0.0.1 " + s.port + "\nMAXAGE 2\n"
	if encrypted {
		s.certify()
		conf += "CERTPATH " + dir + "/certs\nCERTIDENT \"upsd\" \"secret\"\nDISABLE_WEAK_SSL true\n"
	}
	s.write("upsd.conf", conf)
	s.write("password", testPassword+"\n")
	s.status("OL")
	s.startDriver()
	s.startUpsd()
	return s
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

func (s *site) write(name, content string) {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil { // the driver never reads half of it
		s.t.Fatal(err)
	}
}

// certify makes a certificate for localhost, signed by itself, in the form that upsd over NSS reads.
func (s *site) certify() {
	s.t.Helper()
	certs := filepath.Join(s.dir, "certs")
	if err := os.Mkdir(certs, 0o700); err != nil {
		s.t.Fatal(err)
	}
	s.write("pin", "secret\n")
	s.write("noise", strings.Repeat("what certutil calls noise is only mixed in; ", 10))
	pin, noise := filepath.Join(s.dir, "pin"), filepath.Join(s.dir, "noise")
	s.command("certutil", "-N", "-d", certs, "-f", pin)
	s.command("certutil", "-S", "-x", "-n", "upsd", "-s", "CN=localhost", "-8", "localhost", "-t", "u,u,u", "-m", "1", "-d", certs, "-f", pin, "-z", noise)
	s.write("ca.pem", s.command("certutil", "-L", "-n", "upsd", "-a", "-d", certs))
}

// command runs a program that ends by itself, and returns its output.
func (s *site) command(name string, args ...string) string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = s.environment()
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
	return string(out)
}

func (s *site) environment() []string {
	return append(os.Environ(), "NUT_CONFPATH="+s.dir, "NUT_STATEPATH="+s.dir, "NUT_ALTPIDPATH="+s.dir)
}

// start runs a daemon in the foreground until the test ends.
func (s *site) start(path string, args ...string) *process {
	s.t.Helper()
	p := &process{cmd: exec.Command(path, args...), log: &lockedBuffer{}, done: make(chan struct{})}
	p.cmd.Env = s.environment()
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

func (p *process) signal(t *testing.T, sig os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

func (s *site) startDriver() {
	s.t.Helper()
	s.ups = s.start(driverPath, "-F", "-u", "root", "-a", "dummy")
	eventually(s.t, "the driver's socket", func() bool {
		_, err := os.Stat(filepath.Join(s.dir, "dummy-ups-dummy"))
		return err == nil
	})
}

// startUpsd returns when upsd knows the UPS.
func (s *site) startUpsd() {
	s.t.Helper()
	s.upsd = s.start(upsdPath, "-F", "-u", "root")
	eventually(s.t, "upsd", func() bool {
		c, err := s.dial()
		if err != nil {
			return false
		}
		defer c.close()
		_, err = c.variables(s.t.Context(), "dummy")
		return err == nil
	})
}

// dial is a client beside the watcher's.
func (s *site) dial() (*client, error) {
	conn, err := net.DialTimeout("tcp", "127.0.0.1:"+s.port, patience)
	if err != nil {
		return nil, err
	}
	return newClient(conn, patience), nil
}

// status makes the UPS show these words, and what else is given as "name: value".
func (s *site) status(words string, more ...string) {
	s.t.Helper()
	s.write("dummy.dev", strings.Join(append([]string{"ups.status: " + words}, more...), "\n")+"\n")
}

// logins is how many clients upsd would wait for.
func (s *site) logins() int {
	s.t.Helper()
	c, err := s.dial()
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.close()
	clients, err := c.list(s.t.Context(), "CLIENT", "dummy") // also while the data are stale
	if err != nil {
		s.t.Fatal(err)
	}
	return len(clients)
}

func (s *site) config() Config {
	return Config{
		UPS: "dummy@127.0.0.1:" + s.port, User: testUser, PasswordFile: filepath.Join(s.dir, "password"), Interval: MinInterval,
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
	return run(t, w)
}

func run(t *testing.T, w *Watcher) *listener {
	ctx, cancel := context.WithCancel(t.Context())
	l := &listener{Watcher: w, t: t, reports: make(chan pod.Report, 10_000)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.Run(ctx, func(r pod.Report) { l.reports <- r })
	}()
	l.stop = func() { cancel(); <-ended }
	t.Cleanup(l.stop)
	return l
}

// expect passes over reports until there is one of a condition.
func (l *listener) expect(condition pod.Condition) pod.Report {
	l.t.Helper()
	late := time.NewTimer(patience)
	defer late.Stop()
	for {
		select {
		case r := <-l.reports:
			if r.Condition == condition {
				return r
			}
		case <-late.C:
			l.t.Fatalf("no report of %q in %v; health: %+v", condition, patience, l.Health())
		}
	}
}

// failing waits for an error in the health that says this.
func (l *listener) failing(says ...string) pod.Health {
	l.t.Helper()
	var h pod.Health
	eventually(l.t, fmt.Sprintf("a health that says %q", says), func() bool {
		h = l.Health()
		for _, s := range says {
			if !strings.Contains(h.Error, s) {
				return false
			}
		}
		return !h.Connected
	})
	return h
}
