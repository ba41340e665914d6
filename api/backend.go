// Package api is the daemon's interface to the outside: JSON over HTTP on a
// unix socket, a stream of server-sent events, and a client that speaks it.
//
// What a caller can rely on:
//
//   - Only root, the daemon's own user and members of one configured group are
//     served; who a peer is comes from the kernel when it connects.
//   - A request is either understood completely or refused: unknown fields,
//     trailing data, duplicate keys and text that is not UTF-8 are errors.
//   - A verb that changes something runs to its end once it was accepted, even
//     when its client goes away; its result is then only in the event stream.
//   - An error keeps its cause over the wire: errors.Is against the sentinels
//     of packages vm and nvram is the same in the daemon and in the client.
//   - No client, however slow or hostile, holds a lock or memory beyond its own
//     bounded request; the outage path never waits for this package.
package api

import (
	"context"
	"encoding/json"
	"io"

	"github.com/nv-hypervisor/nv-hypervisor/host"
	"github.com/nv-hypervisor/nv-hypervisor/outage"
	"github.com/nv-hypervisor/nv-hypervisor/pod/webhook"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

// Backend is what the API needs of the daemon. Client is the same interface
// over a socket. Implementations are safe for concurrent use.
type Backend interface {
	Status(ctx context.Context) (host.Status, error)
	Doctor(ctx context.Context) ([]host.Check, error)

	// Detectors lists what announces outages. TestDetectors tests the one of a name, or
	// with "" all that can be; without any it is vm.ErrNotFound.
	Detectors(ctx context.Context) ([]host.Detector, error)
	TestDetectors(ctx context.Context, name string) ([]host.DetectorTest, error)

	// Announce says how the power is, to the webhook's watcher; without one it is
	// vm.ErrNotFound, out of order vm.ErrState.
	Announce(ctx context.Context, e webhook.Event) (webhook.Answer, error)

	List(ctx context.Context) ([]vm.Info, error)
	Info(ctx context.Context, name string) (vm.Info, error)
	Create(ctx context.Context, d vm.Definition) (vm.Info, error)
	// Remove deletes a stopped VM and its region. A VM with a saved image is
	// refused with vm.ErrState unless discardImage is set.
	Remove(ctx context.Context, name string, discardImage bool) error
	// Start resumes a valid image, cold-boots where there is none, and refuses
	// a doubtful one with vm.ErrRefused.
	Start(ctx context.Context, name string, o host.StartOptions) (vm.Info, error)
	Stop(ctx context.Context, name string, o host.StopOptions) (vm.Info, error)
	Pause(ctx context.Context, name string) (vm.Info, error)
	Unpause(ctx context.Context, name string) (vm.Info, error)

	// Save stops the guest, writes its volatile state and commits it; QEMU ends.
	Save(ctx context.Context, name string) (outage.Timeline, error)
	// Restore continues a saved VM; without an image it fails with vm.ErrState.
	Restore(ctx context.Context, name string) (outage.Timeline, error)
	SuspendAll(ctx context.Context) (outage.Timeline, error)

	Monitor(ctx context.Context, name string, req host.MonitorRequest) (json.RawMessage, error)
	// Console attaches to the guest's serial console; vm.ErrBusy when somebody
	// else is attached. It ends with io.EOF when QEMU does.
	Console(ctx context.Context, name string) (io.ReadWriteCloser, error)
	// Log reads the log "qemu" or "console" from its beginning. With follow,
	// Read waits for more; Close unblocks it.
	Log(ctx context.Context, name, which string, follow bool) (io.ReadCloser, error)

	// Simulate announces an outage, Clear its end.
	Simulate(ctx context.Context) (outage.Timeline, error)
	Clear(ctx context.Context) (outage.Timeline, error)
	Outages(ctx context.Context) ([]outage.Timeline, error)
	// Outage finds a timeline by its id, a unique prefix of it, or "latest".
	Outage(ctx context.Context, id string) (outage.Timeline, error)

	// Subscribe delivers every event from now on, in order of Sequence, until
	// ctx is done; then the channel is closed.
	Subscribe(ctx context.Context) (<-chan host.Event, error)

	Pools(ctx context.Context) ([]host.PoolStatus, error)
	// PoolHealth examines the memory under a pool and measures its page mappings.
	PoolHealth(ctx context.Context, name string) (host.PoolHealth, error)
	// ImportPool opens a pool that came from elsewhere and takes over its VMs.
	ImportPool(ctx context.Context, path, name string) ([]vm.Info, error)
}

// Names of the logs of a VM.
const (
	LogQEMU    = "qemu"
	LogConsole = "console"
)

// importRequest is the body of the pool import.
type importRequest struct {
	Path string `json:"path"`
	Name string `json:"name,omitempty"`
}
