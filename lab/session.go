package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/lab/agent"
	"github.com/nv-hypervisor/nv-hypervisor/qmp"
)

// dial connects to a socket in the host's folder, through a descriptor of the folder: the folder's own path may be
// longer than a socket's address can be.
func (h *Host) dial(ctx context.Context, name string) (net.Conn, error) {
	var conn net.Conn
	err := h.nearby(name, func(path string) (err error) {
		var d net.Dialer
		conn, err = d.DialContext(ctx, "unix", path)
		return err
	})
	if err != nil && !h.On() {
		err = ErrOff
	}
	return conn, err
}

// nearby calls use with a short path of a file in the folder.
func (h *Host) nearby(name string, use func(path string) error) error {
	folder, err := os.OpenFile(h.folder, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer folder.Close()
	return use(filepath.Join("/proc/self/fd", strconv.Itoa(int(folder.Fd())), name))
}

// session uses a port that nobody uses, waiting for one if need be.
func (h *Host) session(ctx context.Context, use func(*agent.Client) error) error {
	for {
		for n := range agent.Ports {
			lock, err := h.tryLock(n)
			if err != nil {
				return err
			}
			if lock == nil {
				continue
			}
			defer lock.Close()
			conn, err := h.dial(ctx, portSocket(n))
			if err != nil {
				return fmt.Errorf("connect to the host: %w", err)
			}
			client := agent.NewClient(conn)
			defer client.Close()
			return use(client)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("every port of the host is in use: %w", ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// tryLock takes a port, or returns nil when another process has it.
func (h *Host) tryLock(n int) (*os.File, error) {
	f, err := os.OpenFile(h.path(agent.PortName(n)+".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return f, nil
	}
	f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = nil
	}
	return nil, err
}

// Exec runs a command inside and returns its exit code. The command is killed when ctx ends.
func (h *Host) Exec(ctx context.Context, c agent.Command, s agent.Streams) (exit int, err error) {
	err = h.session(ctx, func(client *agent.Client) error {
		exit, err = client.Run(ctx, c, s)
		return err
	})
	return exit, err
}

// runLimit bounds Run. What takes longer on an emulated host never comes back: it has locked up.
const runLimit = 5 * time.Minute

// Run runs a command inside, which takes seconds, and returns what it printed. A code that is not 0 is an error, which has what
// the command said on stderr. A host that does not answer is an error that explains where it stands; use Exec for what may take longer than five minutes.
func (h *Host) Run(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, runLimit)
	defer cancel()
	var out, problem bytes.Buffer
	exit, err := h.Exec(ctx, agent.Command{Args: args}, agent.Streams{Stdout: &out, Stderr: &problem})
	if err == nil && exit != 0 {
		err = &ExitError{Args: args, Code: exit, Stderr: problem.String()}
	}
	if ctx.Err() != nil && err != nil {
		err = h.Explain(fmt.Errorf("wait for %q to end: %w", strings.Join(args, " "), err))
	}
	if err != nil {
		return out.String(), fmt.Errorf("inside: %w", err)
	}
	return out.String(), nil
}

// ExitError is a command that ran inside and was not successful.
type ExitError struct {
	Args   []string
	Code   int
	Stderr string
}

func (e *ExitError) Error() string {
	return fmt.Sprintf("%s: exit code %d: %s", strings.Join(e.Args, " "), e.Code, strings.TrimSpace(e.Stderr))
}

// NMI is the power-outage detector's interrupt: a non-maskable one on every CPU of the host. It returns when it was asked for.
func (h *Host) NMI(ctx context.Context) (asked time.Time, err error) {
	err = h.monitor(ctx, func(c *qmp.Client) error {
		asked = time.Now()
		return c.Execute(ctx, "inject-nmi", nil, nil)
	})
	return asked, err
}

// Pause stops the host and its clock, as if time stood still, until Unpause.
func (h *Host) Pause(ctx context.Context) error {
	return h.monitor(ctx, func(c *qmp.Client) error { return c.Execute(ctx, "stop", nil, nil) })
}

// Unpause lets time go on.
func (h *Host) Unpause(ctx context.Context) error {
	return h.monitor(ctx, func(c *qmp.Client) error { return c.Execute(ctx, "cont", nil, nil) })
}

// monitorLimit bounds what is asked of the outer QEMU: it answers at once, or hangs.
const monitorLimit = 30 * time.Second

// monitor uses the outer QEMU's monitor.
func (h *Host) monitor(ctx context.Context, use func(*qmp.Client) error) error {
	if !h.On() {
		return ErrOff
	}
	ctx, cancel := context.WithTimeoutCause(ctx, monitorLimit, errors.New("the outer QEMU does not answer"))
	defer cancel()
	return h.nearby(monitorSocket, func(path string) error {
		c, err := qmp.Dial(ctx, path)
		if err != nil {
			return err
		}
		defer c.Close()
		defer context.AfterFunc(ctx, func() { c.Close() })()
		if err := use(c); err != nil && ctx.Err() != nil {
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		} else if err != nil {
			return err
		}
		return nil
	})
}

// Console connects to the host's serial port, where a root shell listens. One client at a time.
func (h *Host) Console(ctx context.Context) (net.Conn, error) {
	return h.dial(ctx, consoleSocket)
}
