package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/lab/guest"
	"github.com/nv-hypervisor/nv-hypervisor/lab/rig"
	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/outage"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
	"github.com/nv-hypervisor/nv-hypervisor/vm/saver"
)

// The two guests.
const (
	persistent = "database"
	volatile   = "scratch"
)

// settle is how many ticks the guests run before the power fails, and how many after it they are watched.
const settle = 10

// demo is what one run knows.
type demo struct {
	*rig.Rig
	out io.Writer

	before   map[string][]guest.Tick // what each guest had printed when its host died
	woken    time.Duration           // from the signal to the daemon's thread being awake
	saved    outage.Timeline
	restored outage.Timeline
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.out, format+"\n", args...) }

// boot starts the daemon and both guests, and lets them work.
func (d *demo) boot(ctx context.Context) error {
	if err := d.Boot(ctx); err != nil {
		return err
	}
	status, err := d.Client().Status(ctx)
	if err != nil {
		return err
	}
	d.say("nvhd runs as process %d, guests under %s. The pool %s is tmpfs: it survives processes, not the host.", status.PID, status.Accel, d.Pool)
	for _, w := range status.Warnings {
		d.say("  warning: %s", w)
	}
	d.say("")
	for _, name := range []string{persistent, volatile} {
		if err := d.launch(ctx, name); err != nil {
			return err
		}
	}
	for _, name := range []string{persistent, volatile} {
		t, err := d.AwaitTick(ctx, name, settle-1, func(guest.Tick) bool { return true })
		if err != nil {
			return err
		}
		if !t.SumOK || t.Disk != guest.DiskOK {
			return fmt.Errorf("guest %s does not work before anything happened: %v", name, t)
		}
		d.say("  %-9s %v", name, t)
	}
	d.say("\nBoth count, keep a checksum over %d MiB of their memory, and write to a disk.\n", d.Ticks(persistent)[0].MemoryMiB)
	return nil
}

func (d *demo) launch(ctx context.Context, name string) error {
	def := d.Guest(name, 256*nvram.MiB)
	def.Volatile = name == volatile
	disk, err := d.Disk(name+".img", 64*nvram.MiB)
	if err != nil {
		return err
	}
	def.Disks = append(def.Disks, disk)
	if err := d.Launch(ctx, def); err != nil {
		return err
	}
	info, err := d.Client().Info(ctx, name)
	if err != nil {
		return err
	}
	where := "RAM in the pool: persistent"
	if info.Volatile {
		where = "RAM in DRAM: volatile"
	}
	d.say("booted %-9s %s, %v, QEMU %s (process %d), %s", name, where, info.Memory, info.QEMU, info.PID, info.Machine)
	return nil
}

// announce is the outage: SIGPWR to the daemon, as a UPS's service would send it.
func (d *demo) announce(ctx context.Context) error {
	d.say("SIGPWR to nvhd: the power is failing.")
	sent := saver.Now()
	if err := d.Signal(); err != nil {
		return err
	}
	info, err := d.AwaitState(ctx, persistent, vm.Saved)
	if err != nil {
		return err
	}
	if d.saved, err = d.Client().Outage(ctx, "latest"); err != nil {
		return err
	}
	d.woken = time.Duration(d.saved.EventNS - sent)
	d.say("  %-9s volatile state (%v) is in NVRAM, committed %.1f ms after the signal", persistent, info.Image.StateSize,
		(d.woken+d.saved.Duration.Duration()).Seconds()*1e3)
	d.say("  %-9s only paused: it would be lost anyway", volatile)
	return nil
}

// cut is darkness: SIGKILL of everything. What the guests had printed by then is what they had done.
func (d *demo) cut(context.Context) error {
	daemon, qemus := d.DaemonPID(), d.QEMUs()
	if err := d.Cut(); err != nil {
		return err
	}
	d.say("kill -9 of nvhd (%d) and of every QEMU %v: darkness.\n", daemon, qemus)
	d.before = map[string][]guest.Tick{persistent: d.Ticks(persistent), volatile: d.Ticks(volatile)}
	return nil
}

// recover starts the daemon on nothing but the pool and the disk, and watches both guests.
func (d *demo) recover(ctx context.Context) error {
	d.say("Power is back: nvhd is started again.")
	started := time.Now()
	if err := d.Boot(ctx); err != nil {
		return err
	}
	for _, name := range []string{persistent, volatile} {
		t, err := d.AwaitTick(ctx, name, len(d.before[name]), func(guest.Tick) bool { return true })
		if err != nil {
			return err
		}
		d.say("  %-9s first tick %.2f s later: %v", name, time.Since(started).Seconds(), t)
	}
	for _, name := range []string{persistent, volatile} {
		if _, err := d.AwaitTick(ctx, name, len(d.before[name])+settle-1, func(guest.Tick) bool { return true }); err != nil {
			return err
		}
	}
	recovery, err := d.Client().Outages(ctx)
	if err != nil {
		return err
	}
	d.restored = recovery[0]
	return nil
}
