package e2e

import (
	"strings"
	"testing"

	"github.com/nv-hypervisor/nv-hypervisor/lab/rig"
	"github.com/nv-hypervisor/nv-hypervisor/qemu"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

// network runs the daemon in a network namespace of its own, made anew each time as at a boot of the host, with a tap
// device and a bridge that QEMU's helper may use. The helper's configuration lies over the machine's, for the daemon alone.
const network = `mount -t tmpfs tmpfs /mnt && mkdir /mnt/upper /mnt/work &&
mount -t overlay overlay -o lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work /etc &&
mkdir -p /etc/qemu && echo allow br0 > /etc/qemu/bridge.conf &&
ip link set lo up && ip link add br0 type bridge && ip link set br0 up && ip tuntap add tap0 mode tap && ip link set tap0 up &&
exec "$0" "$@"`

// A guest with an interface of each type is resumed with all of them; what cannot be attached is refused with a remedy.
func TestNetworks(t *testing.T) {
	eachQEMU(t, func(t *testing.T, opt rig.Options) {
		opt.Within = []string{"unshare", "--net", "--mount", "sh", "-c", network}
		r, ctx := boot(t, opt)
		d := r.Guest("db", memory)
		d.Nets = []qemu.Net{{Type: "user", Forward: []string{"tcp:127.0.0.1:2222-:22"}}, {Type: "tap", Device: "tap0"}, {Type: "bridge", Device: "br0"}}
		must(t, r.Launch(ctx, d))
		tick(t, ctx, r, "db", 2)
		must(t, r.Signal())
		_, err := r.AwaitState(ctx, "db", vm.Saved)
		must(t, err)
		must(t, r.Cut())
		before := len(r.Ticks("db"))
		must(t, r.Boot(ctx))
		continued(t, ctx, r, "db", before)

		bad := r.Guest("bad", memory)
		bad.Nets = []qemu.Net{{Type: "bridge", Device: "br9"}}
		if err := r.Launch(ctx, bad); err == nil || !strings.Contains(err.Error(), "bridge") {
			t.Errorf("a bridge that is not there: %v", err)
		}
	})
}
