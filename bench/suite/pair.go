package suite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/bench/floor"
	"github.com/nv-hypervisor/nv-hypervisor/bench/report"
	"github.com/nv-hypervisor/nv-hypervisor/lab/guest"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

// pair is a host under the product and, beside it, equal VMs of the bare loop.
type pair struct {
	*product
	realtime bool // the product's save has real-time priority
	dir      string
	floor    []*floor.VM
}

// open boots both.
func (r *run) open(ctx context.Context, s scenario) (*pair, error) {
	product, err := openProduct(ctx, r.opt.Bin, r.opt.QEMU, s)
	if err != nil {
		return nil, err
	}
	h := &pair{product: product}
	if err := r.describe(ctx, h); err != nil {
		return nil, errors.Join(err, h.close())
	}
	if err := h.openFloor(ctx, r.opt.QEMU); err != nil {
		return nil, errors.Join(err, h.close())
	}
	// Everything stands still until its turn.
	if err := h.product.run(ctx); err != nil {
		return nil, errors.Join(err, h.close())
	}
	if _, err := h.product.save(ctx); err != nil {
		return nil, errors.Join(err, h.close())
	}
	if _, err := floor.Save(h.floor, false); err != nil {
		return nil, errors.Join(err, h.close())
	}
	return h, nil
}

// describe learns from the product what it runs on.
func (r *run) describe(ctx context.Context, h *pair) error {
	status, err := h.Client().Status(ctx)
	if err != nil {
		return err
	}
	info, err := h.Client().Info(ctx, h.names()[0])
	if err != nil {
		return err
	}
	h.realtime = status.Realtime
	r.report.Machine.Learn(status, info)
	return nil
}

func (h *pair) openFloor(ctx context.Context, binary string) (err error) {
	if h.dir, err = os.MkdirTemp("/dev/shm", "nvh-floor-"); err != nil {
		return err
	}
	for i := range h.scenario.vms {
		dir := filepath.Join(h.dir, fmt.Sprint(i))
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		definition := h.Guest("floor", h.scenario.memory)
		v, err := floor.Start(ctx, binary, dir, definition.Guest, int(vm.DefaultStateSize))
		if err != nil {
			return err
		}
		h.floor = append(h.floor, v)
	}
	for _, v := range h.floor {
		if err := awaitTick(ctx, v.ConsoleLog()); err != nil {
			return err
		}
	}
	return nil
}

// bootLimit bounds the boot of a guest.
const bootLimit = 2 * time.Minute

// awaitTick waits until the workload has printed a line.
func awaitTick(ctx context.Context, consoleLog string) error {
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	for {
		content, err := os.ReadFile(consoleLog)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(content)) {
			if _, ok := guest.ParseLine(line); ok {
				return nil
			}
		}
		if err := pause(ctx, recoveryPoll); err != nil {
			return fmt.Errorf("wait for the guest of the bare loop to boot: %w; its console ends: %q", err, content[max(0, len(content)-500):])
		}
	}
}

func (h *pair) close() error {
	var errs []error
	for _, v := range h.floor {
		errs = append(errs, v.Close())
	}
	if h.dir != "" {
		errs = append(errs, os.RemoveAll(h.dir))
	}
	return errors.Join(append(errs, h.product.close())...)
}

// turns are the samples that one round takes of this pair.
func (h *pair) turns(k kind) []turn {
	if k == restart {
		return []turn{{h.scenario, h.product.run, h.restartAndStop}}
	}
	turns := []turn{
		{h.scenario, h.product.run, h.product.save},
		{h.scenario, h.runFloor, func(context.Context) (sample, error) { return h.saveFloor(false) }},
	}
	if h.realtime {
		turns = append(turns, turn{h.scenario, h.runFloor, func(context.Context) (sample, error) { return h.saveFloor(true) }})
	}
	return turns
}

// restartAndStop leaves the guests standing still, as every turn does.
func (h *pair) restartAndStop(ctx context.Context) (sample, error) {
	s, err := h.product.restart(ctx)
	if err != nil {
		return nil, err
	}
	if err := h.product.run(ctx); err != nil {
		return nil, err
	}
	_, err = h.product.save(ctx)
	return s, err
}

func (h *pair) runFloor(ctx context.Context) error {
	for _, v := range h.floor {
		if err := v.Run(ctx); err != nil {
			return err
		}
	}
	return nil
}

// saveFloor is the bare loop. Under its own name goes what is to be compared with
// the product: the loop with the product's priorities, where it has any.
func (h *pair) saveFloor(realtime bool) (sample, error) {
	woken, err := floor.Wake(realtime)
	if err != nil {
		return nil, err
	}
	saved, err := floor.Save(h.floor, realtime)
	if err != nil {
		return nil, err
	}
	s := sample{}
	if !realtime {
		s.most(report.FloorOrdinary, saved[len(saved)-1].Dumped)
	}
	if realtime == h.realtime {
		s[report.WakeFloor] = woken
		s.least(report.FirstFloor, saved[0].Dumped)
		s.most(report.Floor, saved[len(saved)-1].Dumped)
		for _, v := range saved {
			s.least(report.FloorStop, v.Stopped)
		}
	}
	return s, nil
}
