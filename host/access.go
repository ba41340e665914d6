package host

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

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
