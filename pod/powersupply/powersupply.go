// Package powersupply is the detector that watches what the kernel knows of the host's own power: mains adapters,
// batteries and attached UPSes below /sys/class/power_supply (Documentation/ABI/testing/sysfs-class-power). It needs no
// daemon and no configuration: a laptop, or a server with a battery module, tells of an outage by itself.
//
// The kernel sends a uevent over netlink when a supply changes. Each one of the subsystem power_supply makes the
// watcher read the supplies again; so does Interval, since some firmware changes a supply without a word. A lost uevent
// costs at most an Interval. Without netlink, as in a container, supplies are read every second.
//
// # What a set of supplies means
//
// Only supplies of the host count: those with scope "Device" are the batteries of mice and keyboards. A supply
// that is absent ("present" is 0) or whose name matches Ignore does not count either.
//
//   - mains: some adapter (any type but Battery and UPS) is online, or nothing discharges.
//   - on battery: no adapter is online, and a battery or UPS discharges. A UPS without a status discharges when it
//     is not online.
//   - low battery: as on battery, and every battery is low: its capacity_level is Low or Critical, or its capacity is at
//     most LowBattery percent. One battery of two that is still full carries the host.
//   - unknown: there is no battery and no UPS, so that nothing could outlast the mains; nothing can be read; or there are
//     batteries alone and no one of them knows its status.
//
// Adapter and battery change one after the other, so a moment in which no adapter is online and nothing discharges yet
// is looked at again after a second.
//
// Charge is weighted by energy where all batteries tell it. Runtime is the firmware's estimate (time_to_empty_now, else
// _avg), else what is left over what is drawn (energy_now and power_now, or charge_now and current_now). With several batteries
// it is their energy over their power, or the least of their estimates: batteries discharge together or in turn, and
// nothing tells which.
//
// # Configuration
//
//	low_battery = 10        # percent at which a battery is low, 0 to 100; 0: only when it says so itself
//	interval    = "10s"     # how often supplies are read without a uevent, 1s to 10m
//	ignore      = ["ucsi*"] # names of supplies that do not count, with * and ?
//	root        = "/sys/class/power_supply"
package powersupply

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/pod"
)

// DefaultRoot is where the kernel shows supplies.
const DefaultRoot = "/sys/class/power_supply"

// Config says how supplies are watched. Zero values of Root and Interval stand for their defaults.
type Config struct {
	Root       string        `toml:"root"`        // folder of the class; default DefaultRoot
	LowBattery int           `toml:"low_battery"` // percent, 0 to 100
	Interval   time.Duration `toml:"interval"`    // between two looks without a uevent; default 10 s
	Ignore     []string      `toml:"ignore"`      // names, in the notation of path.Match
}

// Watcher watches the power supplies of this host. It implements pod.Watcher, in the battery tier.
type Watcher struct {
	config Config
	log    pod.Logbook
	dial   func() (listener, error) // tests have others

	mu sync.Mutex
	on error // why uevents cannot be heard; nil if they can
}

var _ pod.Watcher = (*Watcher)(nil)

// listener is uevents, or what a test has for it. Each of its methods closes it.
type listener interface {
	listen(ctx context.Context, changed chan<- struct{}) error
	roundTrip(ctx context.Context, file string) error
}

// settling is how soon supplies are read again that contradict each other, or that send no uevents.
const settling = time.Second

// New checks a configuration. Whether there are supplies is found out by Run, as they may come and go.
func New(c Config) (*Watcher, error) {
	if c.Root == "" {
		c.Root = DefaultRoot
	}
	if c.Interval == 0 {
		c.Interval = 10 * time.Second
	}
	if !filepath.IsAbs(c.Root) {
		return nil, fmt.Errorf("power supply: root %q is not an absolute path: leave it out for %s", c.Root, DefaultRoot)
	}
	if c.LowBattery < 0 || c.LowBattery > 100 {
		return nil, fmt.Errorf("power supply: low_battery = %d is not a percentage: choose 0 to 100", c.LowBattery)
	}
	if c.Interval < time.Second || c.Interval > 10*time.Minute {
		return nil, fmt.Errorf("power supply: interval = %q: choose one between 1s and 10m", c.Interval)
	}
	for _, pattern := range c.Ignore {
		if _, err := filepath.Match(pattern, ""); err != nil {
			return nil, fmt.Errorf("power supply: ignore has %q: %w: use * and ? only", pattern, err)
		}
	}
	return &Watcher{config: c, dial: dialUevents}, nil
}

// Name implements pod.Watcher.
func (w *Watcher) Name() string { return "power supply" }

// Tier implements pod.Watcher.
func (w *Watcher) Tier() pod.Tier { return pod.Battery }

// Health implements pod.Watcher.
func (w *Watcher) Health() pod.Health { return w.log.Health() }

// Run implements pod.Watcher. It reports at its start, and whenever what it knows changes.
func (w *Watcher) Run(ctx context.Context, report func(pod.Report)) {
	changed := make(chan struct{}, 1)
	var listening sync.WaitGroup
	defer listening.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	socket, err := w.dial()
	w.noteSocket(err)
	if err == nil {
		listening.Go(func() { w.noteSocket(socket.listen(ctx, changed)) })
	}
	news := w.log.Reporter(report)
	for {
		soon := w.look(news)
		pause := w.config.Interval
		if soon || w.deaf() != nil {
			pause = settling
		}
		timer := time.NewTimer(pause)
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		timer.Stop()
	}
}

func (w *Watcher) noteSocket(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.on = err
}

// deaf returns why uevents cannot be heard.
func (w *Watcher) deaf() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.on
}

// look reads the supplies and tells what is new. It reports whether to look again soon.
func (w *Watcher) look(news *pod.Reporter) (soon bool) {
	r, soon, err := w.judge()
	if err != nil {
		w.log.Lost(err)
		news.Tell(pod.Report{Condition: pod.Unknown, Detail: err.Error(), Runtime: -1, Charge: -1})
		return false
	}
	w.log.Connected()
	news.Tell(r)
	return soon
}

func (w *Watcher) judge() (r pod.Report, soon bool, err error) {
	supplies, err := readAll(w.config.Root, w.config.Ignore)
	if err != nil {
		return pod.Report{}, false, err
	}
	r, soon = judge(supplies, w.config.LowBattery)
	return r, soon, nil
}

// Test implements pod.Watcher: it asks the kernel for a uevent of a supply (writing to its file uevent) and waits until
// that has come back over netlink. Every listener on the host sees it as a change of the supply, which it is not.
func (w *Watcher) Test(ctx context.Context) error {
	supplies, err := readAll(w.config.Root, w.config.Ignore)
	if err != nil {
		return err
	}
	if err := w.deaf(); err != nil {
		return fmt.Errorf("uevents are not heard, so supplies are read every %v: %w", settling, err)
	}
	socket, err := w.dial()
	if err != nil {
		return err
	}
	return socket.roundTrip(ctx, filepath.Join(w.config.Root, supplies[0].name, "uevent"))
}

// ErrNone: nothing here lasts longer than the mains.
var ErrNone = errors.New("this machine has no battery or UPS that the kernel knows of")
