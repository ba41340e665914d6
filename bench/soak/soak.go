// Package soak cuts the power of the real product again and again, at random
// instants before, in and after a save and in the middle of recoveries, and
// judges what becomes of each guest.
//
// A guest may continue exactly where it was, or, where its state was not committed,
// boot anew with a recorded reason. Nothing else is allowed. What happened is judged by
// what the guest itself prints, not by what the daemon says of it, and both must agree:
// a continued guest keeps its boot id, its count has no gap, its memory and
// disk are intact; a booted one has a new boot id. Where the timeline that was on disk when
// the power failed says that a guest was committed, only continuing is right.
package soak

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/bench/power"
	"github.com/nv-hypervisor/nv-hypervisor/bench/report"
	"github.com/nv-hypervisor/nv-hypervisor/lab/guest"
	"github.com/nv-hypervisor/nv-hypervisor/lab/rig"
	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/outage"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

// Options describe a campaign. Bin, Duration and Progress are required.
type Options struct {
	Bin      string        // folder with nvh and nvhd
	QEMU     string        // binary; empty: the installed one
	Duration time.Duration // no cycle begins after it
	Cycles   int           // at most so many; 0: no limit
	Seed     uint64
	Progress io.Writer
}

const (
	guestMemory = 192 * nvram.MiB // the least the guest boots with
	diskSize    = 64 * nvram.MiB
)

// The guests, in order of priority, with all that they check.
var names = []string{"first", "second"}

// campaign is a run in progress.
type campaign struct {
	*rig.Rig
	opt    Options
	random *rand.Rand
	result *Result
	disks  []string
	boot   map[string]int // number of ticks that were printed before a guest's present boot
}

// Run cuts the power until the time is over. An outcome that is not allowed is in the
// result, not in the error.
func Run(ctx context.Context, opt Options) (*Result, error) {
	r, err := rig.New(ctx, rig.Options{Bin: opt.Bin, QEMU: opt.QEMU, Size: nvram.GiB})
	if err != nil {
		return nil, err
	}
	c := &campaign{
		Rig: r, opt: opt, random: rand.New(rand.NewPCG(opt.Seed, 0)), boot: map[string]int{},
		result: &Result{Began: time.Now(), Seed: opt.Seed, VMs: len(names)},
	}
	if c.result.Machine, err = report.Describe(); err == nil {
		err = c.run(ctx)
	}
	if err != nil {
		err = fmt.Errorf("%w (cycle %d, seed %d)", err, c.result.Cycles+1, opt.Seed)
	}
	c.result.Took, c.result.Machine.LoadAfter = time.Since(c.result.Began), report.LoadAverage()
	return c.result, errors.Join(err, r.Close())
}

func (c *campaign) run(ctx context.Context) error {
	if err := c.launch(ctx); err != nil {
		return err
	}
	for time.Since(c.result.Began) < c.opt.Duration && (c.opt.Cycles == 0 || c.result.Cycles < c.opt.Cycles) {
		if err := c.cycle(ctx); err != nil {
			return err
		}
		c.result.Cycles++
		if c.result.Cycles%20 == 0 {
			fmt.Fprintf(c.opt.Progress, "soak: %d power cuts, %s\n", c.result.Cycles, c.result.total())
		}
	}
	if err := c.Cut(); err != nil {
		return err
	}
	for _, disk := range c.disks {
		if _, err := guest.VerifyDisk(disk); err != nil {
			c.result.violation("the disk %s at the end: %v", filepath.Base(disk), err)
		}
	}
	return nil
}

func (c *campaign) launch(ctx context.Context) error {
	if err := c.Boot(ctx); err != nil {
		return err
	}
	for i, name := range names {
		d := c.Guest(name, guestMemory, "nvh.tick=50ms", "nvh.mem=32")
		d.Priority = 10 * (len(names) - i)
		disk, err := c.Disk(name+".img", diskSize)
		if err != nil {
			return err
		}
		d.Disks, c.disks = append(d.Disks, disk), append(c.disks, disk.Path)
		if err := c.Launch(ctx, d); err != nil {
			return err
		}
	}
	for _, name := range names {
		if _, err := c.AwaitTick(ctx, name, 0, func(guest.Tick) bool { return true }); err != nil {
			return err
		}
	}
	return c.describe(ctx)
}

// describe learns from the product what it runs on.
func (c *campaign) describe(ctx context.Context) error {
	status, err := c.Client().Status(ctx)
	if err != nil {
		return err
	}
	info, err := c.Client().Info(ctx, names[0])
	if err != nil {
		return err
	}
	c.result.Machine.Learn(status, info)
	return nil
}

// cycle is one power cut, or one and another in the recovery from it, and the
// judgement after the last.
func (c *campaign) cycle(ctx context.Context) error {
	p := draw(c.random)
	if err := pause(ctx, p.lead); err != nil {
		return err
	}
	at, err := c.strike(p.signalled, p.after)
	if err != nil {
		return err
	}
	where := bucketOf("after the signal", at, savePlaces)
	if p.second {
		if err := c.Start(ctx); err != nil {
			return err
		}
		// From here on, because a daemon that does not answer yet has touched no VM.
		if err := pause(ctx, p.secondLead); err != nil {
			return err
		}
		if at, err = c.strike(p.secondSignalled, p.secondAfter); err != nil {
			return err
		}
		where = bucketOf("in the recovery, without a signal", p.secondLead+at, recoveryPlaces)
		if p.secondSignalled {
			where = bucketOf("in the recovery, after a signal", at, savePlaces)
		}
	}
	return c.judge(ctx, where)
}

// strike announces the outage, if so, and takes the power away. It returns how much
// later that was.
func (c *campaign) strike(signalled bool, after time.Duration) (time.Duration, error) {
	at, err := power.Cut(c.DaemonPID(), c.QEMUs(), signalled, after)
	return at, errors.Join(err, c.Cut()) // Cut reaps the daemon and finds what was started meanwhile
}

// judge starts the daemon and finds out what became of each guest.
func (c *campaign) judge(ctx context.Context, where place) error {
	committed, err := c.committed()
	if err != nil {
		return err
	}
	before := map[string]int{}
	for _, name := range names {
		before[name] = len(c.Ticks(name))
	}
	if err := c.Boot(ctx); err != nil {
		return err
	}
	t, err := c.Client().Outage(ctx, "latest")
	if err != nil {
		return err
	}
	if t.Kind != "recovery" {
		return fmt.Errorf("the latest timeline is %s, not that of the recovery", t.ID)
	}
	for _, v := range t.VMs {
		o, err := c.outcome(ctx, v, before[v.Name], committed[v.Name])
		if err != nil {
			c.result.violation("cycle %d, cut %s: %s: %v", c.result.Cycles+1, where, v.Name, err)
		}
		c.result.count(where, o)
		if o != Resumed {
			c.boot[v.Name] = before[v.Name]
		}
	}
	return nil
}

// outcome waits for a sign of life of a guest and judges it.
func (c *campaign) outcome(ctx context.Context, v outage.VMTimeline, before int, committed bool) (Outcome, error) {
	if v.Outcome != string(vm.Resumed) && v.Outcome != string(vm.ColdBooted) {
		return Other, fmt.Errorf("recovery ended with %q: %s", v.Outcome, v.Reason)
	}
	if _, err := c.AwaitTick(ctx, v.Name, before, func(guest.Tick) bool { return true }); err != nil {
		return Other, err
	}
	ticks := c.Ticks(v.Name)
	if v.Outcome == string(vm.Resumed) {
		_, err := c.ContinuedSince(v.Name, c.boot[v.Name])
		return judgeResumed(err)
	}
	return judgeBooted(ticks[:before], ticks[before:], v.Reason, committed)
}

// committed tells who must be continued: the VMs that the timeline of the latest
// outage calls committed, if it had reached the disk when the power failed.
func (c *campaign) committed() (map[string]bool, error) {
	store, err := outage.OpenStore(filepath.Join(c.StateDir(), "timelines"))
	if err != nil {
		return nil, err
	}
	list, err := store.List()
	if err != nil {
		return nil, err
	}
	committed := map[string]bool{}
	if len(list) == 0 || list[0].Kind != "outage" {
		return committed, nil // the latest that happened is a recovery
	}
	for _, v := range list[0].VMs {
		committed[v.Name] = v.Outcome == "committed"
	}
	return committed, nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func milliseconds(d time.Duration) string {
	return strconv.FormatFloat(float64(d)/float64(time.Millisecond), 'g', -1, 64)
}
