// Package gpio is the detector on a wire: a line of a GPIO controller that a power supply, a UPS's relay or a capacitor's
// comparator drives. Active means that power fails, inactive that it is there.
//
// The line is requested from the kernel's character device (/dev/gpiochipN, version 2 of its interface, Linux 5.10) as an
// input with both edges. The kernel stamps each edge with CLOCK_MONOTONIC in its interrupt handler and queues it, so
// the time of an outage is that of the edge, not of the wake-up.
//
// Open makes a Source of the emergency tier: the saver's thread polls the line itself. New makes a Watcher of the battery tier,
// whose report package outage/policy judges. Which one a line is for says Config.Tier.
//
// # What may be relied on
//
//   - The level at the start counts: a line that is active when nvhd starts is an outage.
//   - The last state is never lost. The kernel's queue holds 64 edges and gives up the oldest; a gap in their numbers makes
//     us read the line itself. A Watcher also reads it every 5 s.
//   - A pulse that is over when it is read is no outage. Debounce is how long a level must last to count at all.
//   - Decode neither blocks nor allocates. After a gap it asks the controller, which is a register for one on
//     the board and a bus transfer of some 100 µs for an expander behind I2C: do not use those for this tier.
//   - A controller that is unplugged ends a Source; a Watcher reports unknown, within 5 s, and requests the line again when it is
//     back. Linux 6.1 does not survive that: it crashes when a controller with named lines is added after one was
//     unplugged in use. Do not use one on a cable there.
//
// # Configuration
//
//	chip       = "/dev/gpiochip0"  # or a controller's name or label; empty: the one that has a line of this name
//	line       = "POWER_FAIL"      # name of the line, or its number on the chip; gpioinfo lists them
//	active_low = false             # the line is low when power fails
//	bias       = ""                # "pull-up", "pull-down", "disabled"; empty: as the firmware left it
//	debounce   = "0s"              # at most 1s; done by the controller if it can, else by the kernel
//	tier       = "emergency"       # or "battery"
//	means      = "on-battery"      # what active means in the battery tier; or "low-battery", "going"
package gpio

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/pod"
)

// Config names a line and says what it means.
type Config struct {
	Chip      string        `toml:"chip"`       // path, name or label; empty: whichever has the line
	Line      string        `toml:"line"`       // name or number
	ActiveLow bool          `toml:"active_low"` // low means that power fails
	Bias      string        `toml:"bias"`       // pull-up, pull-down, disabled; empty: unchanged
	Debounce  time.Duration `toml:"debounce"`   // 0 to 1 s, in whole µs
	Tier      string        `toml:"tier"`       // emergency (also if empty) or battery
	Means     string        `toml:"means"`      // of active in the battery tier: on-battery (also if empty), low-battery, going
}

const (
	maxDebounce = time.Second
	consumer    = "nvhd" // as gpioinfo shows it
	// queued is how many edges the kernel keeps. A read of the saver, 4 KiB, takes them all.
	queued = 64
)

var (
	biases = map[string]uint64{"": 0, "pull-up": flagPullUp, "pull-down": flagPullDown, "disabled": flagBiasDisabled}
	means  = map[string]pod.Condition{
		"": pod.OnBattery, "on-battery": pod.OnBattery, "low-battery": pod.LowBattery, "going": pod.Going,
	}
)

// Emergency tells whether the line is for Open; otherwise it is for New.
func (c Config) Emergency() bool { return c.Tier != pod.Battery.String() }

// Check finds what is wrong with a configuration, without looking for the line.
func (c Config) Check() error {
	if c.Line == "" {
		return errors.New("gpio: line is not set: name one, or give its number; gpioinfo lists them")
	}
	if len(c.Line) >= nameSize {
		return fmt.Errorf("gpio: line %q is longer than the %d characters of a line's name", c.Line, nameSize-1)
	}
	if _, known := biases[c.Bias]; !known {
		return fmt.Errorf("gpio line %s: bias = %q: choose pull-up, pull-down or disabled, or leave it out", c.Line, c.Bias)
	}
	if c.Debounce < 0 || c.Debounce > maxDebounce || c.Debounce%time.Microsecond != 0 {
		return fmt.Errorf("gpio line %s: debounce = %q: choose whole microseconds, at most %v", c.Line, c.Debounce, maxDebounce)
	}
	if !slices.Contains([]string{"", pod.Emergency.String(), pod.Battery.String()}, c.Tier) {
		return fmt.Errorf("gpio line %s: tier = %q: choose emergency or battery", c.Line, c.Tier)
	}
	if _, known := means[c.Means]; !known {
		return fmt.Errorf("gpio line %s: means = %q: choose on-battery, low-battery or going", c.Line, c.Means)
	}
	if c.Emergency() && c.Means != "" {
		return fmt.Errorf("gpio line %s: means = %q is of the battery tier: set tier = \"battery\", or leave it out: in the emergency tier all is saved at once",
			c.Line, c.Means)
	}
	return nil
}

// name is what operators know the line by.
func (c Config) name() string {
	if c.Chip == "" {
		return "gpio " + c.Line
	}
	return "gpio " + c.Chip + " " + c.Line
}
