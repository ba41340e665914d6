package nut

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/pod"
)

// An outage as a UPS shows it, from mains to a spent battery and back.
func TestOutage(t *testing.T) {
	t.Parallel()
	s := newSite(t, false)
	s.status("OL CHRG", "battery.charge: 97.5", "battery.runtime: 1800")
	w := listen(t, s.config())
	for {
		r := w.expect(pod.Mains)
		if r.Detail == "OL CHRG" {
			if r.Charge != 97.5 || r.Runtime != 30*time.Minute || r.Done != nil || r.At.IsZero() {
				t.Errorf("on mains: %+v", r)
			}
			break
		}
	}
	if h := w.Health(); !h.Connected || h.Error != "" || h.Warning != "" || h.Last.Condition != pod.Mains {
		t.Errorf("health on mains: %+v", h)
	}
	if n := s.logins(); n != 1 {
		t.Errorf("upsd waits for %d clients", n)
	}

	s.status("OB DISCHRG", "battery.charge: 60", "battery.runtime: 200")
	r := w.expect(pod.OnBattery)
	if r.Charge != 60 || r.Runtime != 200*time.Second || r.Detail != "OB DISCHRG" || r.Done != nil {
		t.Errorf("on battery: %+v", r)
	}
	began := r.At
	s.status("OB DISCHRG", "battery.charge: 50", "battery.runtime: 100")
	if r = w.expect(pod.OnBattery); r.Runtime != 100*time.Second || !r.At.Equal(began) {
		t.Errorf("later on battery: %+v, began %v", r, began)
	}
	s.status("OB LB DISCHRG", "battery.charge: 20", "battery.runtime: 30")
	r = w.expect(pod.LowBattery)
	if r.Done == nil {
		t.Fatal("nobody waits at low battery")
	}
	r.Done()
	eventually(t, "the logout", func() bool { return s.logins() == 0 })
	if h := w.Health(); !h.Connected { // it goes on listening
		eventually(t, "the next connection", func() bool { return w.Health().Connected })
	}

	s.status("OL CHRG", "battery.charge: 20")
	if r = w.expect(pod.Mains); r.Runtime >= 0 && r.Runtime != 30*time.Second {
		t.Errorf("back on mains: %+v", r)
	}
	eventually(t, "the login after power came back", func() bool { return s.logins() == 1 })
	w.stop()
	if n := s.logins(); n != 0 {
		t.Errorf("a watcher that has ended leaves %d logins", n)
	}
}

// quiet keeps upsmon from writing to everybody's terminal.
var quiet = func() (lines string) {
	for _, event := range []string{"ONLINE", "ONBATT", "LOWBATT", "FSD", "COMMOK", "COMMBAD", "SHUTDOWN", "REPLBATT", "NOCOMM", "NOPARENT"} {
		lines += "NOTIFYFLAG " + event + " IGNORE\n"
	}
	return lines
}()

// The whole way of a forced shutdown, with the real upsmon as the UPS's primary: it announces FSD, waits for the host
// that is logged in, and goes on only when that host has saved its VMs.
func TestForcedShutdown(t *testing.T) {
	t.Parallel()
	s := newSite(t, false)
	w := listen(t, s.config())
	w.expect(pod.Mains)
	down := filepath.Join(s.dir, "down")
	s.write("upsmon.conf", "MONITOR dummy@127.0.0.1:"+s.port+" 1 primary primary primary\nMINSUPPLIES 1\n"+
		"SHUTDOWNCMD \"touch "+down+"\"\nPOLLFREQ 1\nPOLLFREQALERT 1\nHOSTSYNC 120\nFINALDELAY 0\n"+
		"POWERDOWNFLAG "+s.dir+"/killpower\nRUN_AS_USER root\n"+quiet)
	s.start(upsmonPath, "-F", "-p")
	eventually(t, "upsmon's login", func() bool { return s.logins() == 2 })

	s.status("OB LB")
	r := w.expect(pod.Going)
	if r.Done == nil || !strings.HasPrefix(r.Detail, "FSD") {
		t.Fatalf("forced shutdown: %+v", r)
	}
	time.Sleep(3 * time.Second) // three rounds of upsmon
	if _, err := os.Stat(down); err == nil {
		t.Fatal("upsmon shuts down though this host has not said that it is done")
	}
	r.Done()
	eventually(t, "upsmon's shutdown", func() bool { _, err := os.Stat(down); return err == nil })
}

// `upsmon -c fsd`: an operator forces the shutdown with power present.
func TestForcedOnMains(t *testing.T) {
	t.Parallel()
	s := newSite(t, false)
	w := listen(t, s.config())
	w.expect(pod.Mains)
	c, err := s.dial()
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	if err := c.login(t.Context(), "primary", "primary", "dummy"); err != nil {
		t.Fatal(err)
	}
	if err := c.tell(t.Context(), "FSD", "dummy"); err != nil {
		t.Fatal(err)
	}
	if r := w.expect(pod.Going); r.Detail != "FSD OL" {
		t.Errorf("forced: %+v", r)
	}
}

// upsd is killed and comes back.
func TestServerRestart(t *testing.T) {
	t.Parallel()
	s := newSite(t, false)
	w := listen(t, s.config())
	w.expect(pod.Mains)
	s.upsd.kill()
	r := w.expect(pod.Unknown)
	if r.Runtime >= 0 || r.Charge >= 0 || r.Done != nil {
		t.Errorf("a loss: %+v", r)
	}
	w.failing("connection refused", "start upsd on 127.0.0.1")
	if err := w.Test(t.Context()); err == nil || !strings.Contains(err.Error(), "start upsd") {
		t.Errorf("test without a server: %v", err)
	}
	s.startUpsd()
	w.expect(pod.Mains)
	if err := w.Test(t.Context()); err != nil {
		t.Error(err)
	}
	eventually(t, "the login", func() bool { return s.logins() == 1 })
}

// What the driver no longer tells is not taken for what it told last.
func TestStale(t *testing.T) {
	t.Parallel()
	s := newSite(t, false)
	w := listen(t, s.config())
	w.expect(pod.Mains)

	s.ups.signal(t, syscall.SIGSTOP)
	w.expect(pod.Unknown)
	w.failing("DATA-STALE", "restart the driver")
	if n := s.logins(); n != 1 {
		t.Errorf("%d logins while the data are stale: the connection should be kept", n)
	}
	if err := w.Test(t.Context()); err == nil || !strings.Contains(err.Error(), "DATA-STALE") {
		t.Errorf("test with stale data: %v", err)
	}
	s.ups.signal(t, syscall.SIGCONT)
	w.expect(pod.Mains)

	s.ups.kill()
	w.expect(pod.Unknown)
	w.failing("DRIVER-NOT-CONNECTED", "upsdrvctl start dummy")
	s.status("OB")
	s.startDriver()
	w.expect(pod.OnBattery)
}

// A wrong password is an error with a remedy, not a crash nor silence, and the right one is taken up without a restart.
func TestWrongPassword(t *testing.T) {
	t.Parallel()
	s := newSite(t, false)
	s.write("password", "wrong\n")
	w := listen(t, s.config())
	w.expect(pod.Unknown)
	w.failing("ACCESS-DENIED", `user "nvh"`, "upsd.users", "upsmon secondary")
	if err := w.Test(t.Context()); err == nil || !strings.Contains(err.Error(), "upsd.users") || strings.Contains(err.Error(), "wrong") {
		t.Errorf("test with a wrong password: %v", err)
	}
	s.write("password", testPassword+"\n")
	w.expect(pod.Mains)
}

// Without a user the watcher listens, and says what that means.
func TestListenOnly(t *testing.T) {
	t.Parallel()
	s := newSite(t, false)
	config := s.config()
	config.User, config.PasswordFile = "", ""
	w := listen(t, config)
	w.expect(pod.Mains)
	if h := w.Health(); !strings.Contains(h.Warning, "does not wait for this host") {
		t.Errorf("health: %+v", h)
	}
	if err := w.Test(t.Context()); err != nil {
		t.Error(err)
	}
	s.status("OB LB")
	if r := w.expect(pod.LowBattery); r.Done != nil {
		t.Error("somebody waits for a client that is not logged in")
	}
}

// A name that upsd does not know is answered with those that it does.
func TestUnknownUPS(t *testing.T) {
	t.Parallel()
	s := newSite(t, false)
	config := s.config()
	config.UPS = "other@127.0.0.1:" + s.port
	w := listen(t, config)
	w.failing("UNKNOWN-UPS", `no UPS "other" (it has dummy)`, "ups.conf")
}

// The real server's quoting is read back.
func TestQuoting(t *testing.T) {
	t.Parallel()
	s := newSite(t, false)
	c, err := s.dial()
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	words, err := c.ask(t.Context(), "GET", "UPSDESC", "dummy")
	if want := `rack "7" #2, c:\ups`; err != nil || len(words) != 3 || words[2] != want {
		t.Errorf("GET UPSDESC: %q, %v; want %q", words, err, want)
	}
	if _, err := c.variable(t.Context(), "dummy", "no.such"); err == nil || !strings.Contains(err.Error(), "VAR-NOT-SUPPORTED") {
		t.Errorf("GET VAR of nothing: %v", err)
	}
}

// Encryption, in every combination of what is asked for and what is offered.
func TestTLS(t *testing.T) {
	t.Parallel()
	secure, plain := newSite(t, true), newSite(t, false)
	other := newSite(t, true)
	for _, test := range []struct {
		name   string
		site   *site
		tls    TLS
		host   string
		caFile string
		fails  []string // empty: connected
	}{
		{"offered, and there", secure, TLSOffered, "localhost", "", nil},
		{"offered, and not there", plain, TLSOffered, "localhost", "", nil},
		{"off", secure, TLSOff, "localhost", "", nil},
		{"required and verified", secure, TLSRequired, "localhost", "ca.pem", nil},
		{"required, and not there", plain, TLSRequired, "localhost", "", []string{"FEATURE-NOT-CONFIGURED", "CERTPATH", `tls = "offered"`}},
		{"another authority", other, TLSRequired, "localhost", "../" + filepath.Base(secure.dir) + "/ca.pem", []string{"STARTTLS", "ca_file"}},
		{"the system's authorities", secure, TLSRequired, "localhost", "", []string{"STARTTLS", "ca_file"}},
		{"another name", secure, TLSRequired, "127.0.0.1", "ca.pem", []string{"STARTTLS", "subjectAltName 127.0.0.1"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			config := test.site.config()
			config.UPS, config.TLS = "dummy@"+test.host+":"+test.site.port, test.tls
			if test.caFile != "" {
				config.CAFile = filepath.Join(test.site.dir, test.caFile)
			}
			w := listen(t, config)
			if test.fails != nil {
				w.failing(test.fails...)
				return
			}
			w.expect(pod.Mains)
			if err := w.Test(t.Context()); err != nil {
				t.Error(err)
			}
			w.stop()
			encrypted := test.tls != TLSOff && test.site.tls
			if said := strings.Contains(test.site.upsd.log.String(), "(SSL)"); said != encrypted && test.tls != TLSOff {
				t.Errorf("upsd logged an encrypted login: %v, want %v", said, encrypted)
			}
		})
	}
}
