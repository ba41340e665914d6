package host

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

// Monitor passes one command to a VM's QEMU. Commands that would let a guest run
// or end behind the daemon's back are refused: a guest that runs after its save was
// committed would be resumed from a past it has left.
func (h *Host) Monitor(ctx context.Context, name string, req MonitorRequest) (json.RawMessage, error) {
	v, err := h.find(name)
	if err != nil {
		return nil, err
	}
	command, args, err := req.parse()
	if err != nil {
		return nil, err
	}
	if err := checkMonitor(req, command); err != nil {
		return nil, err
	}
	p := v.Process()
	if s := v.State(); p == nil || (s != vm.Running && s != vm.Paused) {
		return nil, fmt.Errorf("%s: monitor: the VM is %s: %w", name, v.State(), vm.ErrState)
	}
	var reply json.RawMessage
	if err := p.QMP().Execute(ctx, command, args, &reply); err != nil {
		return nil, fmt.Errorf("%s: monitor: %w", name, err)
	}
	return reply, nil
}

func (r MonitorRequest) parse() (command string, args any, err error) {
	if (r.HMP == "") == (len(r.QMP) == 0) {
		return "", nil, fmt.Errorf("monitor: give either an HMP line or a QMP command: %w", vm.ErrInvalid)
	}
	if r.HMP != "" {
		return "human-monitor-command", map[string]string{"command-line": r.HMP}, nil
	}
	var q struct {
		Execute   string          `json:"execute"`
		Arguments json.RawMessage `json:"arguments"`
	}
	if err := json.Unmarshal(r.QMP, &q); err != nil || q.Execute == "" {
		return "", nil, fmt.Errorf("monitor: not a QMP command like {\"execute\":\"query-status\"}: %w", vm.ErrInvalid)
	}
	if len(q.Arguments) == 0 {
		return q.Execute, nil, nil
	}
	return q.Execute, q.Arguments, nil
}

// ours are monitor commands that the daemon keeps for itself, and what to use
// instead. HMP accepts c for cont and q for quit.
var ours = map[string]string{
	"cont": "nvh resume", "c": "nvh resume", "stop": "nvh pause", "s": "nvh pause",
	"quit": "nvh stop --force", "q": "nvh stop --force",
	"migrate": "nvh save", "migrate_cancel": "nvh save", "migrate-incoming": "nvh restore", "migrate_incoming": "nvh restore",
	"migrate-set-capabilities": "nvh save", "migrate_set_capability": "nvh save",
	"migrate-set-parameters": "nvh save", "migrate_set_parameter": "nvh save",
	"savevm": "nvh save", "loadvm": "nvh restore", "snapshot-save": "nvh save", "snapshot-load": "nvh restore",
	"xen-save-devices-state": "nvh save", "xen-load-devices-state": "nvh restore",
	"remove-fd": "nvh save", "closefd": "nvh save", "human-monitor-command": "nvh monitor NAME with the HMP line itself",
}

func checkMonitor(r MonitorRequest, command string) error {
	if r.HMP != "" {
		fields := strings.Fields(r.HMP)
		if len(fields) == 0 {
			return fmt.Errorf("monitor: empty line: %w", vm.ErrInvalid)
		}
		command = fields[0]
	}
	if instead, is := ours[command]; is {
		return vm.WithRemedy(fmt.Errorf("monitor: %s is the daemon's own business: %w", command, vm.ErrInvalid), "Use "+instead+".")
	}
	return nil
}

// Console attaches to the guest's serial console. QEMU serves one client at a time.
func (h *Host) Console(ctx context.Context, name string) (io.ReadWriteCloser, error) {
	v, err := h.find(name)
	if err != nil {
		return nil, err
	}
	p := v.Process()
	if p == nil {
		return nil, fmt.Errorf("%s: console: the VM is %s: %w", name, v.State(), vm.ErrState)
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", p.ConsolePath())
	if err != nil {
		return nil, fmt.Errorf("%s: console: %w", name, err)
	}
	return conn, nil
}

// Log reads QEMU's log or what the guest printed on its console.
func (h *Host) Log(_ context.Context, name, which string, follow bool) (io.ReadCloser, error) {
	v, err := h.find(name)
	if err != nil {
		return nil, err
	}
	path := map[string]string{"qemu": v.QEMULog(), "console": v.ConsoleLog()}[which]
	if path == "" {
		return nil, fmt.Errorf("log %q: %w: there are the logs qemu and console", which, vm.ErrInvalid)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, vm.WithRemedy(fmt.Errorf("%s: no %s log yet: %w", name, which, vm.ErrNotFound), "Start the VM first.")
	}
	if !follow {
		return f, nil
	}
	return &follower{f: f, done: make(chan struct{})}, nil
}

// follower reads a file that grows.
type follower struct {
	f    *os.File
	once sync.Once
	done chan struct{}
}

// followInterval is how soon a follower sees what was appended.
const followInterval = 100 * time.Millisecond

func (r *follower) Read(p []byte) (int, error) {
	for {
		n, err := r.f.Read(p)
		if n > 0 || err != io.EOF {
			return n, err
		}
		select {
		case <-r.done:
			return 0, io.EOF
		case <-time.After(followInterval):
		}
	}
}

func (r *follower) Close() error {
	r.once.Do(func() { close(r.done) })
	return r.f.Close()
}
