package e2e

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// upsd is Debian's NUT server with one UPS, whose state is a file: what is written there it announces a second later.
type upsd struct {
	t       *testing.T
	dir     string
	address string
	server  *exec.Cmd
	words   int // said so far
}

const (
	nutDriver = "/lib/nut/dummy-ups"
	nutServer = "/lib/nut/upsd"
)

func newUPSD(t *testing.T) *upsd {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "nut-") // short: the driver's socket lies in it
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	address := l.Addr().String()
	must(t, l.Close())
	host, port, err := net.SplitHostPort(address)
	must(t, err)
	u := &upsd{t: t, dir: dir, address: address}
	for name, content := range map[string]string{
		"ups.conf":   "maxretry = 1\n[rack]\ndriver = dummy-ups\nport = " + dir + "/rack.dev\npollinterval = 1\n",
		"upsd.conf":  "LISTEN " + host + " " + port + "\n",
		"upsd.users": "",
	} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	u.says("OL")
	u.run(nutDriver, "-F", "-u", "root", "-a", "rack")
	u.await("the driver's socket", func() bool { _, err := os.Stat(filepath.Join(dir, "dummy-ups-rack")); return err == nil })
	u.start()
	return u
}

// run starts a daemon in the foreground, until the end of the test.
func (u *upsd) run(path string, args ...string) *exec.Cmd {
	u.t.Helper()
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), "NUT_CONFPATH="+u.dir, "NUT_STATEPATH="+u.dir, "NUT_ALTPIDPATH="+u.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		u.t.Fatalf("%s: %v: run scripts/deps.sh", path, err)
	}
	u.t.Cleanup(func() { stopCommand(cmd) })
	return cmd
}

func stopCommand(cmd *exec.Cmd) {
	cmd.Process.Kill()
	cmd.Wait()
}

func (u *upsd) await(what string, reached func() bool) {
	u.t.Helper()
	for end := time.Now().Add(30 * time.Second); !reached(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			u.t.Fatalf("waited in vain for %s", what)
		}
	}
}

// start starts the server; kill ends it, as a crash would.
func (u *upsd) start() {
	u.t.Helper()
	u.server = u.run(nutServer, "-F", "-u", "root")
	u.await("upsd", func() bool {
		c, err := net.Dial("tcp", u.address)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

func (u *upsd) kill() { stopCommand(u.server) }

// says sets the state of the UPS, and more variables as "name: value".
func (u *upsd) says(status string, more ...string) {
	u.t.Helper()
	path := filepath.Join(u.dir, "rack.dev")
	lines := append([]string{"ups.status: " + status}, more...)
	must(u.t, os.WriteFile(path+".new", []byte(strings.Join(lines, "\n")+"\n"), 0o600))
	// The driver reads the file again when the second of its last change is another.
	u.words++
	at := time.Now().Add(time.Duration(u.words) * time.Second)
	must(u.t, os.Chtimes(path+".new", at, at))
	must(u.t, os.Rename(path+".new", path)) // the driver never reads half of it
}

// ups is what the configuration calls it, and nvh pod ls.
func (u *upsd) ups() string { return "rack@" + u.address }

func (u *upsd) detector() string { return "nut " + u.ups() }
