package qemu

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"regexp"
)

// forwardForm is QEMU's hostfwd=: protocol, host address and port, guest address and port.
var forwardForm = regexp.MustCompile(`^(tcp|udp):[0-9.]*:[0-9]{1,5}-[0-9.]*:[0-9]{1,5}$`)

// interfaceForm is what the kernel allows as the name of an interface (dev_valid_name),
// without the characters that have a meaning to QEMU.
var interfaceForm = regexp.MustCompile(`^[^/:,\s]{1,15}$`)

// netArgs is one virtio-net interface. It has no option ROM: that would be one
// more RAM block to save, only good for booting from the network.
func netArgs(i int, n Net, uuid string) ([]string, error) {
	backend, err := netBackend(i, n)
	if err != nil {
		return nil, err
	}
	mac := n.MAC
	if mac == "" {
		mac = deriveMAC(uuid, i)
	}
	hw, err := net.ParseMAC(mac)
	if err != nil || len(hw) != 6 {
		return nil, fmt.Errorf("mac %q is not of the form 52:54:00:12:34:56", mac)
	}
	if hw[0]&1 != 0 {
		return nil, fmt.Errorf("mac %s is a multicast address: its first byte must be even", mac)
	}
	device := fmt.Sprintf("virtio-net-pci,id=nic%[1]d,netdev=net%[1]d,mac=%[2]s,romfile=", i, hw)
	return []string{"-netdev", backend, "-device", device}, nil
}

func netBackend(i int, n Net) (string, error) {
	if n.Type != "user" && len(n.Forward) > 0 {
		return "", errors.New("forward is only possible with type user")
	}
	switch n.Type {
	case "user":
		if n.Device != "" {
			return "", errors.New("type user has no device")
		}
		backend := fmt.Sprintf("user,id=net%d", i)
		for _, f := range n.Forward {
			if !forwardForm.MatchString(f) {
				return "", fmt.Errorf("forward %q is not of the form tcp:127.0.0.1:2222-:22", f)
			}
			backend += ",hostfwd=" + f
		}
		return backend, nil
	case "tap", "bridge":
		if !interfaceForm.MatchString(n.Device) {
			return "", fmt.Errorf("type %s: device %q is not the name of an interface", n.Type, n.Device)
		}
		if n.Type == "bridge" {
			return fmt.Sprintf("bridge,id=net%d,br=%s", i, n.Device), nil
		}
		return fmt.Sprintf("tap,id=net%d,ifname=%s,script=no,downscript=no", i, n.Device), nil
	default:
		return "", fmt.Errorf("type %q: use user, tap or bridge", n.Type)
	}
}

// deriveMAC gives interface i of a VM an address of its own that stays the same
// for ever, with the prefix that QEMU's addresses have.
func deriveMAC(uuid string, i int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s/%d", uuid, i))
	return net.HardwareAddr{0x52, 0x54, 0x00, sum[0], sum[1], sum[2]}.String()
}
