package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/qmp"
)

// ErrLoad is returned by Load when QEMU does not accept the state.
var ErrLoad = errors.New("QEMU refuses the saved state")

// Names of descriptors handed to QEMU.
const (
	saveName = "nvh-save"
	dumpName = "nvh-dump"
	loadName = "nvh-load"
)

// noFdset stands for "no descriptor in QEMU".
const noFdset = -1

// SetMigrationCapabilities prepares QEMU for saving and loading without the RAM.
// Start has done it already.
func (p *Process) SetMigrationCapabilities(ctx context.Context) error {
	type capability struct {
		Capability string `json:"capability"`
		State      bool   `json:"state"`
	}
	args := map[string]any{"capabilities": []capability{{"x-ignore-shared", true}, {"events", true}}}
	if err := p.client.Execute(ctx, "migrate-set-capabilities", args, nil); err != nil {
		return fmt.Errorf("QEMU (pid %d): %w", p.pid, err)
	}
	return nil
}

// ArmFile empties f and hands it to QEMU beforehand, over the connection that
// will save; it returns the URI for the migrate command. QEMU writes from the
// start of f, whatever the position of f, so that the length of f afterwards is
// that of the state. A save uses the file up: arm again for the next. One file is
// armed at a time; a second call replaces the first.
func (p *Process) ArmFile(ctx context.Context, via *qmp.Client, f *os.File) (uri string, err error) {
	p.arming.Lock()
	defer p.arming.Unlock()
	p.withdraw(ctx, via, p.armed)
	p.armed = noFdset
	if err := f.Truncate(0); err != nil {
		return "", fmt.Errorf("empty the save file of QEMU (pid %d): %w", p.pid, err)
	}
	uri, p.armed, err = p.handOver(ctx, via, f, os.O_WRONLY, saveName)
	if err != nil {
		return "", fmt.Errorf("hand the save file to QEMU (pid %d): %w", p.pid, err)
	}
	return uri, nil
}

// handOver gives QEMU a descriptor of its own for f, with its own position, and
// exactly the access mode flag, which QEMU demands of a file: URI.
func (p *Process) handOver(ctx context.Context, via *qmp.Client, f *os.File, flag int, name string) (uri string, fdset int64, err error) {
	own, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), flag, 0)
	if err != nil {
		return "", noFdset, fmt.Errorf("reopen %s: %w", f.Name(), err)
	}
	defer own.Close()
	if p.binary.Has(FeatureFileURI) != nil {
		// The name belongs to the connection; giving it again closes what it named.
		err := via.ExecuteFile(ctx, "getfd", map[string]string{"fdname": name}, nil, own)
		return "fd:" + name, noFdset, err
	}
	var reply struct {
		Fdset int64 `json:"fdset-id"`
	}
	if err := via.ExecuteFile(ctx, "add-fd", map[string]string{"opaque": name}, &reply, own); err != nil {
		return "", noFdset, err
	}
	return fmt.Sprintf("file:/dev/fdset/%d", reply.Fdset), reply.Fdset, nil
}

// withdraw takes a descriptor back. QEMU may have dropped it on its own when the
// connection that brought it ended, so a failure means that there is nothing to do.
func (p *Process) withdraw(ctx context.Context, via *qmp.Client, fdset int64) {
	if fdset != noFdset {
		_ = via.Execute(ctx, "remove-fd", map[string]int64{"fdset-id": fdset}, nil)
	}
}

// Dump stops the guest and replaces the content of to by its volatile state. The
// guest stays stopped; Cont resumes it in place. It is the plain form of what a
// prepared outage does with ArmFile.
func (p *Process) Dump(ctx context.Context, to *os.File) error {
	if err := p.dump(ctx, to); err != nil {
		return fmt.Errorf("dump QEMU (pid %d): %w", p.pid, err)
	}
	return nil
}

func (p *Process) dump(ctx context.Context, to *os.File) error {
	if err := p.Stop(ctx); err != nil {
		return err
	}
	if err := to.Truncate(0); err != nil {
		return err
	}
	uri, fdset, err := p.handOver(ctx, p.client, to, os.O_WRONLY, dumpName)
	if err != nil {
		return err
	}
	defer p.withdraw(ctx, p.client, fdset)
	sub := p.client.Subscribe()
	defer sub.Close()
	if err := p.client.Execute(ctx, "migrate", map[string]string{"uri": uri}, nil); err != nil {
		return err
	}
	if err := p.awaitMigration(ctx, sub); err != nil {
		return err
	}
	// "cont" is refused until the migration is also finalized.
	return p.awaitStatus(ctx, func(status string) bool { return status == "postmigrate" })
}

// Load reads the volatile state from the start of state into a process that was
// started with Runtime.Incoming. Afterwards the guest is paused at the
// instruction before which it was saved; Cont lets it go on. When QEMU refuses
// the state the error is ErrLoad and quotes QEMU's reason; the process is then of
// no further use and the caller kills it. No guest instruction runs in Load.
func (p *Process) Load(ctx context.Context, state *os.File) error {
	if err := p.load(ctx, state); err != nil {
		return fmt.Errorf("load into QEMU (pid %d): %w", p.pid, err)
	}
	return nil
}

func (p *Process) load(ctx context.Context, state *os.File) error {
	uri, fdset, err := p.handOver(ctx, p.client, state, os.O_RDONLY, loadName)
	if err != nil {
		return err
	}
	sub := p.client.Subscribe()
	defer sub.Close()
	if err := p.client.Execute(ctx, "migrate-incoming", map[string]string{"uri": uri}, nil); err != nil {
		return err
	}
	if err := p.awaitMigration(ctx, sub); err != nil {
		return p.explainLoad(ctx, err)
	}
	p.withdraw(ctx, p.client, fdset)
	return p.awaitStatus(ctx, func(status string) bool { return status != "inmigrate" })
}

// errMigration says that QEMU itself reported the failure of a migration.
var errMigration = errors.New("the migration failed")

// awaitMigration waits for the end of the migration that was begun after sub.
func (p *Process) awaitMigration(ctx context.Context, sub *qmp.Subscription) error {
	for {
		event, err := sub.Next(ctx)
		if err != nil {
			return err
		}
		m, ok := event.(qmp.Migration)
		if !ok {
			continue
		}
		switch m.Status {
		case "completed":
			return nil
		case "failed", "cancelled":
			return fmt.Errorf("%w: %s", errMigration, p.migrationError(ctx))
		}
	}
}

// migrationError is QEMU's own description of the latest failure.
func (p *Process) migrationError(ctx context.Context) string {
	var reply struct {
		Description string `json:"error-desc"`
	}
	err := p.client.Execute(ctx, "query-migrate", nil, &reply)
	if err != nil || reply.Description == "" {
		return "QEMU gives no reason"
	}
	return reply.Description
}

// lastWordsDelay is how long a QEMU that failed to load gets to say why and exit.
const lastWordsDelay = 2 * time.Second

// explainLoad turns a failed load into QEMU's explanation, which is in its log
// because QEMU ends itself after such a failure.
func (p *Process) explainLoad(ctx context.Context, err error) error {
	if !errors.Is(err, errMigration) && p.client.Err() == nil {
		return err
	}
	timer := time.NewTimer(lastWordsDelay)
	defer timer.Stop()
	select {
	case <-p.exited:
	case <-timer.C:
	case <-ctx.Done():
	}
	if words := p.log.lastWords(); words != "" {
		return fmt.Errorf("%w: %s", ErrLoad, words)
	}
	return fmt.Errorf("%w: %w", ErrLoad, err)
}

// statusInterval paces the wait for a run state that no event announces.
const statusInterval = time.Millisecond

func (p *Process) awaitStatus(ctx context.Context, reached func(status string) bool) error {
	for {
		status, err := p.Status(ctx)
		if err != nil {
			return err
		}
		if reached(status) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("run state is still %s: %w", status, ctx.Err())
		case <-time.After(statusInterval):
		}
	}
}
