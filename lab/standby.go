package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/lab/plan"
	"github.com/nv-hypervisor/nv-hypervisor/qmp"
)

// Standby is a host that has booted up to the point where it would look at what survives power cuts, and was put to sleep
// there. A host that wakes up from it is spared the boot of the kernel, and knows of its NVDIMMs and its disk as
// little as one that was switched on: nothing of them was mounted before, and nvhd has never run.
//
// Any number of hosts may wake up from one Standby, one after another or at once. They are copies (CutCopy, Duplicate) of
// the host it was made from, or it of them: the hardware must be the same, and the NVDIMMs set up.
type Standby struct {
	folder string
}

// Names in a Standby's folder.
const stateFile = "standby.state"

// NewStandby boots a host whose power is off, and puts it to sleep. The host is used up: its folder is that of the Standby, which Remove removes.
func NewStandby(ctx context.Context, h *Host) (*Standby, error) {
	h.standby = true
	if err := h.PowerOn(ctx); err != nil {
		return nil, err
	}
	err := h.awaitStandby(ctx)
	if err == nil {
		err = h.sleep(ctx)
	}
	if err != nil {
		return nil, errors.Join(h.Explain(fmt.Errorf("put to sleep: %w", err)), h.Cut())
	}
	for _, name := range h.images() {
		err = errors.Join(err, os.Remove(h.path(name)))
	}
	return &Standby{h.folder}, err
}

// awaitStandby waits until the host waits.
func (h *Host) awaitStandby(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	for {
		var r plan.Report
		err := h.Report(ctx, &r)
		if n := len(r.Steps); err == nil && n > 0 && r.Steps[n-1].Name == plan.StandbyStep {
			return nil
		}
		if failed := r.Failure(); failed != nil {
			return failed
		}
		if !h.On() {
			return fmt.Errorf("the outer QEMU has ended: %w", ErrOff)
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// command is one of the outer QEMU's monitor.
type command struct {
	name string
	args object
}

type object map[string]any

// withoutNVDIMMs leaves those out of a migration, which are memory that the outer QEMU shares with their files.
var withoutNVDIMMs = command{"migrate-set-capabilities", object{"capabilities": []object{{"capability": "x-ignore-shared", "state": true}}}}

// sleep writes everything of the host but its NVDIMMs to a file, and cuts its power. It stops the host before: QEMU 7.2 under TCG with
// several CPUs loses track of what the host stores while it is written.
func (h *Host) sleep(ctx context.Context) error {
	err := h.monitor(ctx, func(c *qmp.Client) error {
		return execute(ctx, c,
			command{"stop", nil},
			withoutNVDIMMs,
			command{"migrate-set-parameters", object{"max-bandwidth": 16 << 30}},
			command{"migrate", object{"uri": "exec:cat >" + stateFile}})
	})
	return errors.Join(err, h.Cut())
}

// execute executes commands, the last of which is a migration, and waits for its end.
func execute(ctx context.Context, c *qmp.Client, commands ...command) error {
	for _, each := range commands {
		if err := c.Execute(ctx, each.name, each.args, nil); err != nil {
			return err
		}
	}
	return awaitMigrated(ctx, c)
}

func awaitMigrated(ctx context.Context, c *qmp.Client) error {
	for {
		var m struct {
			Status string `json:"status"`
			Error  string `json:"error-desc"`
		}
		if err := c.Execute(ctx, "query-migrate", nil, &m); err != nil {
			return err
		}
		switch m.Status {
		case "completed":
			return nil
		case "failed", "cancelled":
			return fmt.Errorf("migration %s: %s", m.Status, m.Error)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Wake powers a host on as if its kernel had just booted, and returns while it goes on from there. The clock is set. The programs
// under test are those of the Standby. The host wakes up only once: from then on its boots are whole ones again.
func (s *Standby) Wake(ctx context.Context, h *Host) error {
	if err := copySparse(h.path(productFile), filepath.Join(s.folder, productFile)); err != nil {
		return fmt.Errorf("wake %s: %w", h.folder, err)
	}
	h.waking = true
	err := h.PowerOn(ctx)
	h.waking = false
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	err = h.retry(ctx, func() error {
		return h.monitor(ctx, func(c *qmp.Client) error {
			err := execute(ctx, c, withoutNVDIMMs,
				command{"migrate-incoming", object{"uri": "exec:cat " + quote(filepath.Join(s.folder, stateFile))}})
			if err != nil {
				return err
			}
			return c.Execute(ctx, "cont", nil, nil)
		})
	})
	if err == nil {
		err = h.retry(ctx, func() error {
			_, err := h.Run(ctx, "sh", "-c", fmt.Sprintf("date -s @%d && : >%s", time.Now().Unix(), plan.Go))
			return err
		})
	}
	if err != nil {
		return h.Explain(fmt.Errorf("wake up: %w", err))
	}
	return nil
}

// retry repeats what fails because the outer QEMU is not there yet.
func (h *Host) retry(ctx context.Context, do func() error) error {
	for {
		err := do()
		refused, failed := (*qmp.Error)(nil), (*ExitError)(nil)
		if err == nil || errors.As(err, &refused) || errors.As(err, &failed) || ctx.Err() != nil || !h.On() {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Remove removes what hosts wake up from. Those that are awake go on.
func (s *Standby) Remove() error { return os.RemoveAll(s.folder) }
