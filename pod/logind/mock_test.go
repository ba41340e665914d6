package logind

import (
	"strings"
	"testing"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/pod"
)

// A shutdown is announced, and logind waits until everything is saved.
func TestShutdown(t *testing.T) {
	s := newSite(t)
	w := listen(t, Config{})
	r := w.expect(pod.Mains)
	if r.Detail != "logind will wait up to 1m0s" {
		t.Errorf("detail %q", r.Detail)
	}
	if h := w.Health(); !h.Connected || h.Error != "" || h.Warning != "" {
		t.Errorf("health %+v", h)
	}
	s.expectInhibitors(1)
	s.announce(true)
	r = w.expect(pod.Going)
	s.expectInhibitors(1) // held while the VMs are saved
	r.Done()
	s.expectInhibitors(0)
	r.Done()
	s.announce(true) // again, which is no news
	w.quiet()
	w.stop()
}

// A shutdown is cancelled after the save, and comes again.
func TestCancelled(t *testing.T) {
	s := newSite(t)
	w := listen(t, Config{})
	w.expect(pod.Mains)
	s.announce(true)
	first := w.expect(pod.Going)
	first.Done()
	s.expectInhibitors(0)
	s.announce(false)
	w.expect(pod.Mains)
	s.expectInhibitors(1)
	first.Done() // late: of no effect on the new one
	s.announce(true)
	second := w.expect(pod.Going)
	s.expectInhibitors(1)
	second.Done()
	s.expectInhibitors(0)
}

// A shutdown is cancelled before the save is done: the inhibitor stays.
func TestCancelledEarly(t *testing.T) {
	s := newSite(t)
	w := listen(t, Config{})
	w.expect(pod.Mains)
	s.announce(true)
	first := w.expect(pod.Going)
	s.announce(false)
	w.expect(pod.Mains)
	first.Done()
	s.expectInhibitors(1)
}

// A watcher that ends holds nothing.
func TestStop(t *testing.T) {
	s := newSite(t)
	w := listen(t, Config{})
	w.expect(pod.Mains)
	s.expectInhibitors(1)
	w.stop()
	s.expectInhibitors(0)
	if h := w.Health(); h.Connected || h.Error != "no longer watched" {
		t.Errorf("health %+v", h)
	}
}

// logind ends and comes back, with a shorter delay.
func TestLogindRestart(t *testing.T) {
	s := newSite(t)
	w := listen(t, Config{MinDelay: 20 * time.Second})
	w.expect(pod.Mains)
	s.logind.kill()
	w.expect(pod.Unknown)
	w.failing("systemctl start systemd-logind")
	if err := w.Test(t.Context()); err == nil || !strings.Contains(err.Error(), "systemctl start systemd-logind") {
		t.Errorf("test without logind: %v", err)
	}
	s.startLogind(5 * time.Second)
	w.expect(pod.Mains)
	s.expectInhibitors(1)
	h := w.Health()
	for _, says := range []string{"only 5s", "min_delay = 20s", "InhibitDelayMaxSec=20", "logind.conf.d", "restart systemd-logind"} {
		if !h.Connected || !strings.Contains(h.Warning, says) {
			t.Errorf("health %+v, want a warning that says %q", h, says)
		}
	}
	s.announce(true)
	w.expect(pod.Going).Done()
	s.expectInhibitors(0)
}

// The bus ends and comes back, and a shutdown has begun meanwhile.
func TestBusRestart(t *testing.T) {
	s := newSite(t)
	w := listen(t, Config{})
	w.expect(pod.Mains)
	s.bus.kill()
	w.expect(pod.Unknown)
	w.failing("dbus.service")
	if err := w.Test(t.Context()); err == nil || !strings.Contains(err.Error(), "dbus.service") {
		t.Errorf("test without a bus: %v", err)
	}
	s.logind.kill()
	s.startBus()
	w.failing("systemd-logind")
	s.startLogind(time.Minute)
	w.expect(pod.Mains)
	s.expectInhibitors(1)
	s.announce(true)
	w.expect(pod.Going).Done()
	s.expectInhibitors(0)
}

// No logind at first, as in a container, and no bus at all.
func TestMissing(t *testing.T) {
	s := newBus(t)
	w := listen(t, Config{})
	w.expect(pod.Unknown)
	w.failing("org.freedesktop.login1", "without systemd leave this detector out")
	w.quiet() // one loss is reported once
	s.startLogind(time.Minute)
	w.expect(pod.Mains)
	s.expectInhibitors(1)
	w.stop()

	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", s.address+".not")
	w = listen(t, Config{})
	w.expect(pod.Unknown)
	w.failing("connect to the system bus", "leave this detector out")
}

// Test goes the whole way and leaves nothing behind, nor announces anything.
func TestSelfTest(t *testing.T) {
	s := newSite(t)
	w := listen(t, Config{})
	w.expect(pod.Mains)
	s.expectInhibitors(1)
	if err := w.Test(t.Context()); err != nil {
		t.Error(err)
	}
	s.expectInhibitors(1)
	w.quiet()
}
