package powersupply

import (
	"bytes"
	"errors"
)

// errUevent is what parseUevent says of anything else.
var errUevent = errors.New("not a uevent of the kernel")

// uevent is the part of a kernel event that matters here.
type uevent struct {
	subsystem string
	synthetic string // SYNTH_UUID: who asked for it by writing to a file uevent; "0" if they did not say
}

// parseUevent reads what the kernel sends over NETLINK_KOBJECT_UEVENT (lib/kobject_uevent.c): "ACTION@DEVPATH", then
// "KEY=VALUE" strings, each ended by a zero byte. Messages of udev's own group begin otherwise and are refused.
func parseUevent(p []byte) (uevent, error) {
	header, rest, ended := bytes.Cut(p, []byte{0})
	action, path, ok := bytes.Cut(header, []byte("@"))
	if !ended || !ok || len(action) == 0 || len(path) == 0 || path[0] != '/' {
		return uevent{}, errUevent
	}
	var e uevent
	for len(rest) > 0 {
		var field []byte
		if field, rest, ended = bytes.Cut(rest, []byte{0}); !ended {
			return uevent{}, errUevent // cut short
		}
		key, value, _ := bytes.Cut(field, []byte("="))
		switch string(key) {
		case "SUBSYSTEM":
			e.subsystem = string(value)
		case "SYNTH_UUID":
			e.synthetic = string(value)
		}
	}
	return e, nil
}
