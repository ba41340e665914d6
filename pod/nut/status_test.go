package nut

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/pod"
)

func TestCondition(t *testing.T) {
	input := func(volts string) map[string]string {
		return map[string]string{"input.voltage": volts, "input.transfer.low": "180", "input.voltage.nominal": "230"}
	}
	nominal := func(volts string) map[string]string {
		return map[string]string{"input.voltage": volts, "input.voltage.nominal": "120"}
	}
	for _, test := range []struct {
		status string
		more   map[string]string
		want   pod.Condition
		warns  string
	}{
		{status: "OL", want: pod.Mains},
		{status: "OL CHRG", want: pod.Mains},
		{status: "  OL   CHRG ", want: pod.Mains},
		{status: "OL LB", want: pod.Mains}, // an empty battery on mains is charged
		{status: "OL BOOST", want: pod.Mains},
		{status: "OB", want: pod.OnBattery},
		{status: "OB DISCHRG", want: pod.OnBattery},
		{status: "LB OB", want: pod.LowBattery},
		{status: "OB LB", want: pod.LowBattery},
		{status: "OL OB", want: pod.OnBattery}, // a contradiction: the worse
		{status: "FSD OL", want: pod.Going},
		{status: "FSD OB LB", want: pod.Going},
		{status: "OB FSD", want: pod.Going},
		{status: "FSD", want: pod.Going},
		{status: "FSD CAL OL", want: pod.Going, warns: "CAL"},

		{status: "OL CAL", want: pod.Mains, warns: "calibrated"},
		{status: "OB CAL", want: pod.Mains, warns: "calibrated"},
		{status: "OB TEST DISCHRG", want: pod.Mains, warns: "tested"},
		{status: "OB LB CAL", want: pod.LowBattery, warns: "calibrated"},
		{status: "OB LB CAL", more: input("229.5"), want: pod.Mains, warns: "calibrated"},
		{status: "OB CAL", more: input("0"), want: pod.OnBattery, warns: "calibrated"},
		{status: "OB CAL", more: input("179.9"), want: pod.OnBattery, warns: "calibrated"},
		{status: "OB LB CAL", more: input("0"), want: pod.LowBattery, warns: "calibrated"},
		{status: "OB CAL", more: nominal("95"), want: pod.OnBattery, warns: "calibrated"},
		{status: "OB LB TEST", more: nominal("97"), want: pod.Mains, warns: "tested"},
		{status: "OB LB TEST", more: map[string]string{"input.voltage": "230"}, want: pod.LowBattery, warns: "tested"}, // of how much?
		{status: "OB", more: input("230"), want: pod.OnBattery},                                                        // the UPS knows better

		{status: "OL RB", want: pod.Mains, warns: "must be replaced"},
		{status: "BYPASS", want: pod.Mains, warns: "end the bypass"},
		{status: "OL BYPASS", want: pod.Mains, warns: "end the bypass"},
		{status: "OB OVER", want: pod.OnBattery, warns: "take something off"},
		{status: "OL OFF", want: pod.Mains, warns: "switch it on"},
		{status: "ALARM OL", more: map[string]string{"ups.alarm": "Fan failure"}, want: pod.Mains, warns: `"Fan failure"`},

		{status: "OFF", want: pod.Unknown, warns: "switch it on"},
		{status: "WAIT", want: pod.Unknown, warns: "driver's log"},
		{status: "", want: pod.Unknown, warns: "does not tell"},
		{status: "LB", want: pod.Unknown, warns: "does not tell"},
		{status: "OLD OBSOLETE", want: pod.Unknown, warns: "does not tell"},
		{status: "ol", want: pod.Unknown, warns: "does not tell"},
	} {
		variables := map[string]string{"ups.status": test.status}
		maps.Copy(variables, test.more)
		r := read(variables)
		if r.condition != test.want {
			t.Errorf("%q with %v is %v, want %v", test.status, test.more, r.condition, test.want)
		}
		if !strings.Contains(r.warning, test.warns) || (test.warns == "") != (r.warning == "") {
			t.Errorf("%q warns %q, want %q", test.status, r.warning, test.warns)
		}
		if want := strings.Join(strings.Fields(test.status), " "); r.detail != want {
			t.Errorf("%q is shown as %q", test.status, r.detail)
		}
	}
}

func TestNumbers(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"1800": 30 * time.Minute, "0": 0, "12.5": 12500 * time.Millisecond, " 60 ": time.Minute, "2592000": longest,
		"": -1, "-1": -1, "NaN": -1, "Inf": -1, "1e300": -1, "2592001": -1, "soon": -1, "10 s": -1,
	} {
		if got := runtime(value); got != want {
			t.Errorf("runtime %q is %v, want %v", value, got, want)
		}
	}
	for value, want := range map[string]float64{
		"100": 100, "0": 0, "97.5": 97.5, "100.5": -1, "-3": -1, "NaN": -1, "": -1, "full": -1,
	} {
		if got := charge(value); got != want {
			t.Errorf("charge %q is %v, want %v", value, got, want)
		}
	}
}
