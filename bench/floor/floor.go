// Package floor measures the least that a save can cost on this machine: `stop` and
// `migrate` sent by a bare loop to a QEMU that is equal to the product's, prepared
// as the product's is. Everything the product adds — being woken by the event,
// checking the stream, copying it to NVRAM, committing a record — is missing here,
// so what the product needs above the floor is the product's own.
//
// Equal means: the same launch (machine, devices, kernel, sandbox), RAM in a
// preallocated file of the same tmpfs, the same migration capabilities, the
// descriptor of a populated memfd handed over beforehand, both commands in one
// write and, when asked for, the same real-time priorities, given before the clock
// starts.
package floor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/qemu"
)

// VM is one QEMU of the bare loop. It is used by one goroutine.
type VM struct {
	process *qemu.Process
	dir     string
	monitor monitor
	state   buffer
	save    []byte // stop and migrate
	threads []thread
}

// uuid of all machines of the bare loop; nobody looks at it.
const uuid = "00000000-0000-4000-8000-00000000f100"

// Start boots a guest of that definition on the QEMU binary at path, with its RAM in
// a file below dir, which should lie in the file system of the product's pool and
// whose path must be short. capacity is the size in bytes of the buffer its
// volatile state is dumped into.
func Start(ctx context.Context, path, dir string, g qemu.Guest, capacity int) (*VM, error) {
	v := &VM{dir: dir, monitor: monitor{fd: -1}, state: buffer{fd: -1, writer: -1}}
	if err := v.start(ctx, path, g, capacity); err != nil {
		return nil, errors.Join(fmt.Errorf("bare loop: %w", err), v.Close())
	}
	return v, nil
}

func (v *VM) start(ctx context.Context, path string, g qemu.Guest, capacity int) error {
	binary, err := qemu.Probe(ctx, path)
	if err != nil {
		return err
	}
	launch, err := qemu.Pin(ctx, binary, "floor", uuid, g)
	if err != nil {
		return err
	}
	ram := filepath.Join(v.dir, "ram")
	if err := allocate(ram, int64(g.Memory)); err != nil {
		return err
	}
	v.process, err = qemu.Start(ctx, launch, qemu.Runtime{Dir: v.dir, RAM: &qemu.Backing{Path: ram}})
	if err != nil {
		return err
	}
	if v.threads, err = threadsOf(ctx, v.process); err != nil {
		return err
	}
	if err := v.state.open(capacity); err != nil {
		return err
	}
	if err := v.monitor.dial(v.process.EmergencyPath()); err != nil {
		return err
	}
	uri := "fd:" + fdName
	if v.process.DumpsToFile() {
		uri = "file:/dev/fdset/" + fdSet
	}
	v.save = []byte(`{"execute":"stop"}` + "\n" + `{"execute":"migrate","arguments":{"uri":"` + uri + `"}}` + "\n")
	return v.arm()
}

// allocate makes the RAM as the product's pool does: every page is there before
// the guest boots.
func allocate(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, size); err != nil {
		return fmt.Errorf("reserve %d bytes for the RAM of the bare loop's guest: %w", size, err)
	}
	return nil
}

// ConsoleLog is the file that the guest's console output goes to.
func (v *VM) ConsoleLog() string { return filepath.Join(v.dir, "console.log") }

// settleLimit bounds the wait for QEMU to accept cont after a completed save.
const settleLimit = 5 * time.Second

// Run lets the guest run, prepared for the next Save. It is harmless on a guest
// that runs.
func (v *VM) Run(ctx context.Context) error {
	if err := v.run(ctx); err != nil {
		return fmt.Errorf("bare loop: let the guest run: %w", err)
	}
	return nil
}

func (v *VM) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	if err := setPriorities(v.threads, false); err != nil {
		return err
	}
	for {
		status, err := v.process.Status(ctx)
		switch {
		case err != nil:
			return err
		case status == "running":
			return nil
		case status == "postmigrate":
			if err := v.arm(); err != nil {
				return err
			}
			return v.process.Cont(ctx)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("QEMU is still in run state %s: %w", status, ctx.Err())
		case <-time.After(time.Millisecond):
		}
	}
}

// Close ends the QEMU and removes its RAM.
func (v *VM) Close() error {
	v.monitor.close()
	v.state.close()
	var errs []error
	if v.process != nil {
		errs = append(errs, v.process.Kill(), v.process.Close())
	}
	return errors.Join(append(errs, os.Remove(filepath.Join(v.dir, "ram")))...)
}
