package powersupply

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/pod"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tree is a folder like /sys/class/power_supply.
type tree struct {
	t    *testing.T
	root string
}

func newTree(t *testing.T) tree { return tree{t, t.TempDir()} }

// put writes attributes of a supply, as the kernel ends them.
func (f tree) put(name string, attributes map[string]string) {
	f.t.Helper()
	dir := filepath.Join(f.root, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		f.t.Fatal(err)
	}
	for attribute, value := range attributes {
		// In one step, as an attribute changes.
		fresh := filepath.Join(f.root, "fresh")
		if err := os.WriteFile(fresh, []byte(value+"\n"), 0o644); err != nil {
			f.t.Fatal(err)
		}
		if err := os.Rename(fresh, filepath.Join(dir, attribute)); err != nil {
			f.t.Fatal(err)
		}
	}
}

func (f tree) laptop(online, status, capacity string) {
	f.put("BAT0", map[string]string{"type": "Battery", "status": status, "capacity": capacity})
	f.put("AC", map[string]string{"type": "Mains", "online": online})
}

func (f tree) watcher(c Config) *Watcher {
	f.t.Helper()
	c.Root = f.root
	w, err := New(c)
	if err != nil {
		f.t.Fatal(err)
	}
	return w
}

// running is a watcher that runs until the end of a test.
type running struct {
	t       *testing.T
	reports chan pod.Report
	stop    func()
}

func run(t *testing.T, w *Watcher) *running {
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{t: t, reports: make(chan pod.Report, 100)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.Run(ctx, func(p pod.Report) { r.reports <- p })
	}()
	r.stop = func() { cancel(); <-ended }
	t.Cleanup(r.stop)
	return r
}

// next waits for a report of a condition; others before it are errors.
func (r *running) next(want pod.Condition) pod.Report {
	r.t.Helper()
	select {
	case got := <-r.reports:
		if got.Condition != want {
			r.t.Fatalf("report %v (%s), want %v", got.Condition, got.Detail, want)
		}
		return got
	case <-time.After(15 * time.Second):
		r.t.Fatalf("no report; want %v", want)
	}
	panic("not reached")
}

// deaf is a host on which uevents cannot be heard.
func deaf() (listener, error) { return nil, errors.New("no netlink here") }

// mute is a host that sends no uevents.
func mute() (listener, error) { return silence{}, nil }

type silence struct{}

func (silence) listen(ctx context.Context, _ chan<- struct{}) error { <-ctx.Done(); return nil }
func (silence) roundTrip(ctx context.Context, _ string) error       { <-ctx.Done(); return ctx.Err() }

func TestConfigurationIsChecked(t *testing.T) {
	for want, c := range map[string]Config{
		"not an absolute path": {Root: "sys"},
		"choose 0 to 100":      {LowBattery: 101},
		"between 1s and 10m":   {Interval: time.Millisecond},
		"use * and ?":          {Ignore: []string{"["}},
	} {
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", c, err, want)
		}
	}
	w, err := New(Config{})
	if err != nil || w.config.Root != DefaultRoot || w.config.Interval != 10*time.Second {
		t.Errorf("%+v, %v", w, err)
	}
}

func TestUeventMakesItLook(t *testing.T) {
	f := newTree(t)
	f.laptop("1", "Full", "100")
	w := f.watcher(Config{Interval: 10 * time.Minute, LowBattery: 10})
	r := run(t, w)
	first := r.next(pod.Mains)
	if h := w.Health(); !h.Connected || h.Last.Condition != pod.Mains || h.Error != "" || h.Since.IsZero() {
		t.Errorf("health %+v", h)
	}
	f.laptop("0", "Discharging", "99")
	inject(t, "change@/devices/BAT0\x00ACTION=change\x00SUBSYSTEM=power_supply\x00")
	if second := r.next(pod.OnBattery); !second.At.After(first.At) {
		t.Errorf("at %v, mains at %v", second.At, first.At)
	}
	f.laptop("0", "Discharging", "9")
	inject(t, "change@/devices/BAT0\x00ACTION=change\x00SUBSYSTEM=power_supply\x00")
	r.next(pod.LowBattery)
	f.laptop("1", "Charging", "9")
	inject(t, "change@/devices/AC\x00ACTION=change\x00SUBSYSTEM=power_supply\x00")
	r.next(pod.Mains)
}

// inject has the kernel send a uevent of our making to all listeners of this network namespace, which root may since
// Linux 4.18 (uevent_net_rcv in lib/kobject_uevent.c).
func inject(t *testing.T, message string) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	header := make([]byte, unix.NLMSG_HDRLEN)
	binary.NativeEndian.PutUint32(header, uint32(len(header)+len(message)))
	binary.NativeEndian.PutUint16(header[4:], unix.NLMSG_MIN_TYPE)
	binary.NativeEndian.PutUint16(header[6:], unix.NLM_F_REQUEST)
	if err := unix.Sendto(fd, append(header, message...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		t.Fatal(err)
	}
}

// The round trip is through the real kernel: the fixture's file uevent is that of a device every Linux has.
func TestTestIsARoundTripThroughTheKernel(t *testing.T) {
	f := newTree(t)
	f.laptop("1", "Full", "100")
	if err := os.Symlink("/sys/devices/virtual/mem/null/uevent", filepath.Join(f.root, "AC", "uevent")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := f.watcher(Config{}).Test(ctx); err != nil {
		t.Error(err)
	}
}

func TestTestFails(t *testing.T) {
	f := newTree(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := f.watcher(Config{}).Test(ctx); !errors.Is(err, ErrNone) {
		t.Errorf("without supplies: %v", err)
	}
	f.laptop("1", "Full", "100")
	if err := f.watcher(Config{}).Test(ctx); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file uevent: %v", err)
	}
	f.put("AC", map[string]string{"uevent": ""}) // a file behind which is no kernel
	if err := f.watcher(Config{}).Test(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("no answer: %v", err)
	}
	w := f.watcher(Config{})
	w.dial = deaf
	if err := w.Test(ctx); err == nil || !strings.Contains(err.Error(), "no netlink here") {
		t.Errorf("deaf: %v", err)
	}
}

// Firmware without uevents is heard at the interval, and a report comes only when something changed.
func TestIntervalWithoutUevents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newTree(t)
		f.laptop("1", "Full", "100")
		w := f.watcher(Config{Interval: 30 * time.Second})
		w.dial = mute
		r := run(t, w)
		r.next(pod.Mains)
		f.laptop("0", "Discharging", "99")
		began := time.Now()
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := r.next(pod.OnBattery); got.At.Sub(began) > 30*time.Second {
			t.Errorf("known after %v", got.At.Sub(began))
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if len(r.reports) != 0 {
			t.Errorf("%d reports of nothing", len(r.reports))
		}
		r.stop()
	})
}

// An adapter that is gone while the battery does not discharge yet is looked at again after a second, and so is everything
// where there is no netlink.
func TestLooksAgainSoon(t *testing.T) {
	for name, dial := range map[string]func() (listener, error){"contradiction": mute, "deaf": deaf} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newTree(t)
				f.laptop("0", "Full", "100")
				w := f.watcher(Config{Interval: 10 * time.Minute})
				w.dial = dial
				r := run(t, w)
				r.next(pod.Mains)
				f.laptop("0", "Discharging", "100")
				time.Sleep(settling)
				synctest.Wait()
				r.next(pod.OnBattery)
				f.put("BAT0", map[string]string{"capacity": "98"})
				time.Sleep(settling)
				synctest.Wait()
				if again := len(r.reports) == 1; again != (name == "deaf") {
					t.Errorf("looked again: %v", again)
				}
				r.stop()
			})
		})
	}
}

func TestSuppliesThatComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newTree(t)
		f.put("mouse", map[string]string{"type": "Battery", "scope": "Device", "status": "Discharging"})
		w := f.watcher(Config{Ignore: []string{"ucsi*"}})
		w.dial = mute
		r := run(t, w)
		if got := r.next(pod.Unknown); !strings.Contains(got.Detail, "remove the detector") {
			t.Errorf("detail %q", got.Detail)
		}
		if h := w.Health(); h.Connected || !strings.Contains(h.Error, "use another") {
			t.Errorf("health %+v", h)
		}
		f.put("AC", map[string]string{"type": "Mains", "online": "1"}) // tells of an outage when it is dark
		time.Sleep(11 * time.Second)
		if got := r.next(pod.Unknown); !strings.Contains(got.Detail, "no battery or UPS") {
			t.Errorf("detail %q", got.Detail)
		}
		f.put("ucsi1", map[string]string{"type": "USB", "online": "1"})
		f.put("BAT0", map[string]string{"type": "Battery", "status": "Full"})
		time.Sleep(11 * time.Second)
		if got := r.next(pod.Mains); got.Detail != "AC online, BAT0 Full" {
			t.Errorf("detail %q", got.Detail)
		}
		if err := os.RemoveAll(filepath.Join(f.root, "BAT0")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(11 * time.Second)
		r.next(pod.Unknown)
		if h := w.Health(); h.Connected {
			t.Errorf("health %+v", h)
		}
		r.stop()
	})
}

func TestNameAndTier(t *testing.T) {
	w := newTree(t).watcher(Config{})
	if w.Name() != "power supply" || w.Tier() != pod.Battery {
		t.Errorf("%s, %v", w.Name(), w.Tier())
	}
}
