package host

import (
	"github.com/nv-hypervisor/nv-hypervisor/pod/gpio"
	"github.com/nv-hypervisor/nv-hypervisor/pod/logind"
	"github.com/nv-hypervisor/nv-hypervisor/pod/nut"
	"github.com/nv-hypervisor/nv-hypervisor/pod/powersupply"
	"github.com/nv-hypervisor/nv-hypervisor/pod/webhook"
)

// PodConfig are the detectors that are watched only if they are configured. Each package explains its keys.
type PodConfig struct {
	NUT         []nut.Config        `toml:"nut"`          // each a UPS
	GPIO        []gpio.Config       `toml:"gpio"`         // each a line
	PowerSupply *powersupply.Config `toml:"power_supply"` // nil: not watched
	Webhook     *webhook.Config     `toml:"webhook"`      // nil: nobody is listened to
	Logind      *logind.Config      `toml:"logind"`       // nil: not asked to wait
}
