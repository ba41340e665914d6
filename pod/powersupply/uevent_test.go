package powersupply

import (
	"bytes"
	"testing"
)

func TestParseUevent(t *testing.T) {
	const path = "change@/devices/LNXSYSTM:00/PNP0C0A:00/power_supply/BAT0\x00"
	for name, c := range map[string]struct {
		message string
		want    uevent
		fails   bool
	}{
		"power supply":      {path + "ACTION=change\x00SUBSYSTEM=power_supply\x00POWER_SUPPLY_STATUS=Discharging\x00SEQNUM=4711\x00", uevent{subsystem: "power_supply"}, false},
		"synthetic":         {path + "SUBSYSTEM=power_supply\x00SYNTH_UUID=0\x00", uevent{"power_supply", "0"}, false},
		"header alone":      {path, uevent{}, false},
		"no value":          {path + "SUBSYSTEM\x00", uevent{}, false},
		"nothing":           {"", uevent{}, true},
		"cut in the header": {"change@/dev", uevent{}, true},
		"cut in a field":    {path + "SUBSYSTEM=power_sup", uevent{}, true},
		"udev":              {"libudev\x00\xfe\xed\xca\xfe\x28\x00\x00\x00SUBSYSTEM=power_supply\x00", uevent{}, true},
		"no path":           {"change@\x00SUBSYSTEM=power_supply\x00", uevent{}, true},
		"no action":         {"@/devices\x00SUBSYSTEM=power_supply\x00", uevent{}, true},
	} {
		got, err := parseUevent([]byte(c.message))
		if got != c.want || (err != nil) != c.fails {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func FuzzParseUevent(f *testing.F) {
	f.Add([]byte("change@/devices/x\x00ACTION=change\x00SUBSYSTEM=power_supply\x00SYNTH_UUID=1-2\x00"))
	f.Add([]byte("add@/\x00=\x00\x00SUBSYSTEM\x00"))
	f.Add([]byte("libudev\x00\xfe\xed\xca\xfe"))
	f.Fuzz(func(t *testing.T, p []byte) {
		before := bytes.Clone(p)
		e, err := parseUevent(p)
		if !bytes.Equal(p, before) {
			t.Error("the message was changed")
		}
		if err != nil {
			if e != (uevent{}) {
				t.Errorf("%+v beside an error", e)
			}
			return
		}
		// What was found is there, as a whole field.
		for key, value := range map[string]string{"SUBSYSTEM": e.subsystem, "SYNTH_UUID": e.synthetic} {
			if value != "" && !bytes.Contains(p, []byte("\x00"+key+"="+value+"\x00")) {
				t.Errorf("%s %q is not in %q", key, value, p)
			}
		}
	})
}
