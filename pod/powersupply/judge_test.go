package powersupply

import (
	"testing"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/pod"
)

func TestWhatSuppliesMean(t *testing.T) {
	type files = map[string]string
	ac := func(online string) files { return files{"type": "Mains", "online": online} }
	battery := func(status, capacity string, more ...string) files {
		f := files{"type": "Battery", "status": status, "capacity": capacity}
		for i := 0; i < len(more); i += 2 {
			f[more[i]] = more[i+1]
		}
		return f
	}
	for name, c := range map[string]struct {
		supplies map[string]files
		want     pod.Condition
		soon     bool
		runtime  time.Duration
		charge   float64
		detail   string
	}{
		"mains": {map[string]files{"AC": ac("1"), "BAT0": battery("Charging", "63")},
			pod.Mains, false, -1, 63, "AC online, BAT0 Charging 63%"},
		"weak adapter": {map[string]files{"AC": ac("1"), "BAT0": battery("Discharging", "3")},
			pod.Mains, false, -1, 3, "AC online, BAT0 Discharging 3%"},
		"programmable adapter": {map[string]files{"ucsi": {"type": "USB", "online": "2"}, "BAT0": battery("Discharging", "50")},
			pod.Mains, false, -1, 50, "BAT0 Discharging 50%, ucsi online"},
		"on battery": {map[string]files{"AC": ac("0"), "BAT0": battery("Discharging", "63", "time_to_empty_now", "1800")},
			pod.OnBattery, false, 30 * time.Minute, 63, "AC offline, BAT0 Discharging 63%"},
		"one of two adapters": {map[string]files{"AC": ac("0"), "USB": {"type": "USB", "online": "1"}, "BAT0": battery("Discharging", "63")},
			pod.Mains, false, -1, 63, "AC offline, BAT0 Discharging 63%, USB online"},
		"between the two changes": {map[string]files{"AC": ac("0"), "BAT0": battery("Full", "100")},
			pod.Mains, true, -1, 100, "AC offline, BAT0 Full 100%"},
		"low by percent": {map[string]files{"AC": ac("0"), "BAT0": battery("Discharging", "10")},
			pod.LowBattery, false, -1, 10, "AC offline, BAT0 Discharging 10%"},
		"low by level": {map[string]files{"BAT0": battery("Discharging", "63", "capacity_level", "Critical")},
			pod.LowBattery, false, -1, 63, "BAT0 Discharging 63% (Critical)"},
		"low, yet mains": {map[string]files{"AC": ac("1"), "BAT0": battery("Charging", "2", "capacity_level", "Low")},
			pod.Mains, false, -1, 2, "AC online, BAT0 Charging 2% (Low)"},
		"one of two batteries low": {map[string]files{"BAT0": battery("Discharging", "2"), "BAT1": battery("Unknown", "90")},
			pod.OnBattery, false, -1, 46, "BAT0 Discharging 2%, BAT1 Unknown 90%"},
		"battery alone, full": {map[string]files{"BAT0": battery("Not charging", "80")},
			pod.Mains, false, -1, 80, "BAT0 Not charging 80%"},
		"battery alone, silent": {map[string]files{"BAT0": battery("Unknown", "80")},
			pod.Unknown, false, -1, 80, "BAT0 Unknown 80%"},
		"UPS by online": {map[string]files{"ups": {"type": "UPS", "online": "0", "capacity": "40"}},
			pod.OnBattery, false, -1, 40, "ups offline 40%"},
		"UPS online": {map[string]files{"ups": {"type": "UPS", "online": "1", "capacity": "40"}},
			pod.Mains, false, -1, 40, "ups online 40%"},
		"UPS by status": {map[string]files{"ups": {"type": "UPS", "online": "1", "status": "Discharging", "capacity": "40"}},
			pod.OnBattery, false, -1, 40, "ups Discharging 40%"},
		"UPS beside a mains adapter": {map[string]files{"AC": ac("1"), "ups": {"type": "UPS", "online": "0"}},
			pod.Mains, false, -1, -1, "AC online, ups offline"},
		"mouse": {map[string]files{"AC": ac("0"), "BAT0": battery("Full", "90"), "hidpp": battery("Discharging", "3", "scope", "Device")},
			pod.Mains, true, -1, 90, "AC offline, BAT0 Full 90%"},
		"empty bay": {map[string]files{"BAT0": battery("Discharging", "30"), "BAT1": battery("Unknown", "0", "present", "0")},
			pod.OnBattery, false, -1, 30, "BAT0 Discharging 30%"},
		"energy over power": {map[string]files{"BAT0": battery("Discharging", "50", "energy_now", "20000000", "power_now", "-40000000")},
			pod.OnBattery, false, 30 * time.Minute, 50, "BAT0 Discharging 50%"},
		"charge over current": {map[string]files{"BAT0": battery("Discharging", "50", "charge_now", "1000000", "current_now", "4000000")},
			pod.OnBattery, false, 15 * time.Minute, 50, "BAT0 Discharging 50%"},
		"two batteries, energies": {map[string]files{
			"BAT0": battery("Discharging", "50", "energy_now", "10000000", "energy_full", "20000000", "power_now", "40000000"),
			"BAT1": battery("Unknown", "75", "energy_now", "30000000", "energy_full", "40000000", "power_now", "0")},
			pod.OnBattery, false, time.Hour, 100 * 4.0 / 6, "BAT0 Discharging 50%, BAT1 Unknown 75%"},
		"two batteries, estimates": {map[string]files{
			"BAT0": battery("Discharging", "50", "time_to_empty_avg", "600"),
			"BAT1": battery("Discharging", "70", "time_to_empty_now", "900")},
			pod.OnBattery, false, 10 * time.Minute, 60, "BAT0 Discharging 50%, BAT1 Discharging 70%"},
		"estimate that means nothing": {map[string]files{"BAT0": battery("Discharging", "50", "time_to_empty_now", "3932100")},
			pod.OnBattery, false, -1, 50, "BAT0 Discharging 50%"},
		"nonsense": {map[string]files{"BAT0": battery("Discharging", "4000000000", "time_to_empty_now", "soon", "energy_now", "-5",
			"power_now", "9223372036854775808")},
			pod.OnBattery, false, -1, -1, "BAT0 Discharging"},
		"control characters": {map[string]files{"BAT0": battery("\x1b[31mred", "50")},
			pod.Mains, false, -1, 50, "BAT0 ?[31mred 50%"},
	} {
		t.Run(name, func(t *testing.T) {
			tree := newTree(t)
			for name, files := range c.supplies {
				tree.put(name, files)
			}
			supplies, err := readAll(tree.root, nil)
			if err != nil {
				t.Fatal(err)
			}
			got, soon := judge(supplies, 10)
			if got.Condition != c.want || soon != c.soon {
				t.Errorf("%v, look again soon: %v; want %v, %v", got.Condition, soon, c.want, c.soon)
			}
			if got.Runtime != c.runtime || got.Charge != c.charge {
				t.Errorf("runtime %v, charge %v; want %v, %v", got.Runtime, got.Charge, c.runtime, c.charge)
			}
			if got.Detail != c.detail {
				t.Errorf("detail %q, want %q", got.Detail, c.detail)
			}
		})
	}
}

// Without low_battery only the battery itself says that it is low.
func TestLowBatteryOff(t *testing.T) {
	s := supply{kind: "Battery", status: "Discharging", capacity: 0, online: -1}
	if r, _ := judge([]supply{s}, 0); r.Condition != pod.OnBattery {
		t.Errorf("%v", r.Condition)
	}
}
