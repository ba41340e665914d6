package powersupply

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// supply is what is read of one power supply. A number that is not there is negative.
type supply struct {
	name   string
	kind   string // the attribute type: Mains, USB, Battery, UPS …
	status string // Charging, Discharging, Not charging, Full, Unknown; "" if there is none
	level  string // capacity_level: Critical, Low, Normal, High, Full, Unknown; "" if there is none

	online                 int64 // 0: not; 1, 2: yes
	capacity               int64 // percent
	energyNow, energyFull  int64 // µWh
	powerNow               int64 // µW, drawn or stored
	chargeNow, currentNow  int64 // µAh, µA
	toEmptyNow, toEmptyAvg int64 // seconds
}

// stores tells whether the supply holds energy.
func (s *supply) stores() bool { return s.kind == "Battery" || s.kind == "UPS" }

// discharges tells whether the supply is being drained.
func (s *supply) discharges() bool {
	if s.kind == "UPS" && (s.status == "" || s.status == "Unknown") {
		return s.online == 0
	}
	return s.stores() && s.status == "Discharging"
}

// silent tells whether the supply says nothing of what it does.
func (s *supply) silent() bool {
	return (s.status == "" || s.status == "Unknown") && (s.kind != "UPS" || s.online < 0)
}

func (s *supply) low(percent int) bool {
	return s.level == "Low" || s.level == "Critical" || s.capacity >= 0 && s.capacity <= int64(percent) && percent > 0
}

// longest is more than any battery lasts; firmware that does not know says things like 65535 minutes.
const longest = 30 * 24 * time.Hour

// runtime is how long the supply lasts by itself, or negative.
func (s *supply) runtime() time.Duration {
	for _, seconds := range []int64{s.toEmptyNow, s.toEmptyAvg} {
		if d := time.Duration(min(seconds, int64(longest/time.Second))) * time.Second; seconds > 0 && d < longest {
			return d
		}
	}
	if d := over(s.energyNow, s.powerNow); d >= 0 {
		return d
	}
	return over(s.chargeNow, s.currentNow)
}

// over divides what is left, in µWh or µAh, by what is drawn, in µW or µA. It is negative when either is unknown.
func over(left, drawn int64) time.Duration {
	if left < 0 || drawn <= 0 {
		return -1
	}
	hours := float64(left) / float64(drawn)
	if hours >= longest.Hours() {
		return -1
	}
	return time.Duration(hours * float64(time.Hour)).Truncate(time.Second)
}

// readAll reads the supplies of the host in order of their names. It fails without any that stores energy: an adapter alone
// tells of an outage when the host is dark.
func readAll(root string, ignore []string) ([]supply, error) {
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, fmt.Errorf("%w: %w: is sysfs mounted?", ErrNone, err)
	}
	var all []supply
	for _, e := range entries {
		if slices.ContainsFunc(ignore, func(pattern string) bool { ok, _ := path.Match(pattern, e.Name()); return ok }) {
			continue
		}
		if s, ok := readOne(filepath.Join(root, e.Name())); ok {
			all = append(all, s)
		}
	}
	if !slices.ContainsFunc(all, func(s supply) bool { return s.stores() }) {
		return nil, fmt.Errorf("%w: %s has %d that count (those of mice and the ignored ones do not): "+
			"remove the detector from the configuration and use another, such as nut for a UPS", ErrNone, root, len(all))
	}
	return all, nil
}

// readOne reads one supply, and reports whether it counts. One that vanishes meanwhile has no type any more.
func readOne(dir string) (supply, bool) {
	s := supply{
		name: filepath.Base(dir), kind: text(dir, "type"), status: text(dir, "status"), level: text(dir, "capacity_level"),
		online: number(dir, "online"), capacity: number(dir, "capacity"),
		energyNow: number(dir, "energy_now"), energyFull: number(dir, "energy_full"), powerNow: magnitude(dir, "power_now"),
		chargeNow: number(dir, "charge_now"), currentNow: magnitude(dir, "current_now"),
		toEmptyNow: number(dir, "time_to_empty_now"), toEmptyAvg: number(dir, "time_to_empty_avg"),
	}
	if s.capacity > 100 {
		s.capacity = -1
	}
	return s, s.kind != "" && text(dir, "scope") != "Device" && number(dir, "present") != 0
}

// longestAttribute bounds what is read: an attribute is one short line.
const longestAttribute = 256

// text reads an attribute; "" if there is none. A driver that has nothing to say fails the read with ENODATA and the like.
func text(dir, attribute string) string {
	f, err := os.Open(filepath.Join(dir, attribute))
	if err != nil {
		return ""
	}
	defer f.Close()
	line := make([]byte, longestAttribute)
	n, err := f.Read(line)
	if err != nil {
		return ""
	}
	return strings.Map(printable, strings.TrimSpace(string(line[:n])))
}

// printable keeps a strange driver's text from reaching a terminal.
func printable(r rune) rune {
	if r < ' ' || r > '~' {
		return '?'
	}
	return r
}

// number reads an attribute that is not negative; -1 if there is none.
func number(dir, attribute string) int64 {
	n, err := strconv.ParseInt(text(dir, attribute), 10, 64)
	if err != nil || n < 0 {
		return -1
	}
	return n
}

// magnitude is number for what some drivers give a sign by its direction.
func magnitude(dir, attribute string) int64 {
	n, err := strconv.ParseInt(strings.TrimPrefix(text(dir, attribute), "-"), 10, 64)
	if err != nil || n < 0 {
		return -1
	}
	return n
}
