package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/host"
	"github.com/nv-hypervisor/nv-hypervisor/lab/guest"
	"github.com/nv-hypervisor/nv-hypervisor/lab/rig"
	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/outage"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

// Four VMs of different priorities, and a volatile one: dumps begin in order of
// priority, all persistent ones continue, the volatile one has lost everything.
func TestFourPrioritiesAndAVolatileVM(t *testing.T) {
	r, ctx := boot(t, rig.Options{Bin: bin})
	priorities := map[string]int{"low": 1, "mid": 50, "high": 100, "top": 900}
	for name, p := range priorities {
		d := r.Guest(name, memory)
		d.Priority = p
		must(t, r.Launch(ctx, d))
	}
	volatile := r.Guest("cache", memory)
	volatile.Volatile = true
	must(t, r.Launch(ctx, volatile))
	before := map[string]int{}
	for name := range priorities {
		tick(t, ctx, r, name, 2)
	}
	lost := tick(t, ctx, r, "cache", 2)
	must(t, r.Signal())
	for name := range priorities {
		_, err := r.AwaitState(ctx, name, vm.Saved)
		must(t, err)
	}
	timeline, err := r.Client().Outage(ctx, "latest")
	must(t, err)
	must(t, r.Cut())
	for name := range priorities {
		before[name] = len(r.Ticks(name))
	}
	boots := len(r.Ticks("cache"))

	if timeline.Kind != "outage" || timeline.Outcome != "saved" || timeline.Source != "signal SIGPWR" {
		t.Errorf("timeline: kind %s, outcome %s, source %s", timeline.Kind, timeline.Outcome, timeline.Source)
	}
	var order []string
	last := outage.Micros(-1)
	for _, v := range timeline.VMs {
		if v.Volatile {
			continue
		}
		order = append(order, v.Name)
		stop := v.Steps[0]
		if stop.Name != "stop" || stop.Start < last {
			t.Errorf("VM %s: first step %+v begins before that of a VM with higher priority (%v)", v.Name, stop, last)
		}
		last = stop.Start
		if end := v.Steps[len(v.Steps)-1]; end.Name != "commit" || v.Outcome != "committed" {
			t.Errorf("VM %s: ends with %+v, outcome %s", v.Name, end, v.Outcome)
		}
	}
	if got := strings.Join(order, " "); got != "top high mid low" {
		t.Errorf("order of the timeline is %s", got)
	}

	must(t, r.Boot(ctx))
	for name := range priorities {
		continued(t, ctx, r, name, before[name])
	}
	fresh, err := r.AwaitTick(ctx, "cache", boots, func(guest.Tick) bool { return true })
	must(t, err)
	if fresh.BootID == lost.BootID || fresh.Count != 1 {
		t.Errorf("the volatile guest continued: %+v after %+v", fresh, lost)
	}
}

// Power comes back before the host dies: guests continue in place, their images are
// void, and the next outage is a new one.
func TestGlitch(t *testing.T) {
	eachQEMU(t, func(t *testing.T, opt rig.Options) {
		r, ctx := boot(t, opt)
		must(t, r.Launch(ctx, r.Guest("db", memory)))
		tick(t, ctx, r, "db", 2)
		for range 3 {
			before := len(r.Ticks("db"))
			out, err := r.Nvh(ctx, "outage", "simulate")
			must(t, err)
			if !strings.Contains(out, "committed") {
				t.Errorf("nvh outage simulate prints no commit:\n%s", out)
			}
			if info, err := r.Client().Info(ctx, "db"); err != nil || info.State != vm.Saved || info.Image == nil {
				t.Fatalf("after the outage: %+v, %v", info, err)
			}
			if _, err := r.Client().Start(ctx, "db", host.StartOptions{}); err == nil {
				t.Error("a VM was started during an outage")
			}
			_, err = r.Nvh(ctx, "outage", "clear")
			must(t, err)
			continued(t, ctx, r, "db", before)
			if info, err := r.Client().Info(ctx, "db"); err != nil || info.Image != nil {
				t.Errorf("the image is not void: %+v, %v", info.Image, err)
			}
		}
		// A cut without an outage afterwards must not find any of the void images.
		first := r.Ticks("db")[0].BootID
		must(t, r.Cut())
		boots := len(r.Ticks("db"))
		must(t, r.Boot(ctx))
		again, err := r.AwaitTick(ctx, "db", boots, func(guest.Tick) bool { return true })
		must(t, err)
		if again.BootID == first {
			t.Error("the guest was resumed from a void image")
		}
		info, err := r.Client().Info(ctx, "db")
		must(t, err)
		if !strings.Contains(info.Reason, "no image") {
			t.Errorf("reason of the cold boot: %q", info.Reason)
		}
	})
}

// An outage while another VM is being started: the running one is saved, the one
// being started never runs half, and boots after the power is back.
func TestOutageWhileAnotherBoots(t *testing.T) {
	r, ctx := boot(t, rig.Options{Bin: bin})
	must(t, r.Launch(ctx, r.Guest("old", memory)))
	tick(t, ctx, r, "old", 2)
	before := len(r.Ticks("old"))
	_, err := r.Client().Create(ctx, r.Guest("new", memory))
	must(t, err)
	started := make(chan error, 1)
	go func() {
		_, err := r.Client().Start(ctx, "new", host.StartOptions{})
		started <- err
	}()
	_, err = r.AwaitState(ctx, "new", vm.Starting)
	must(t, err)
	must(t, r.Signal())
	_, err = r.AwaitState(ctx, "old", vm.Saved)
	must(t, err)
	<-started // refused, or done and saved: both are right
	must(t, r.Cut())
	boots := len(r.Ticks("new"))
	must(t, r.Boot(ctx))
	continued(t, ctx, r, "old", before)
	_, err = r.AwaitTick(ctx, "new", boots, func(k guest.Tick) bool { return k.SumOK })
	must(t, err)
}

// An outage, and another, while recovery is in progress, at instants swept over
// the whole of it: the guest is resumed exactly once each time and never half.
func TestOutageDuringRestore(t *testing.T) {
	eachQEMU(t, func(t *testing.T, opt rig.Options) {
		r, ctx := boot(t, opt)
		must(t, r.Launch(ctx, r.Guest("db", memory)))
		tick(t, ctx, r, "db", 2)
		must(t, r.Signal())
		_, err := r.AwaitState(ctx, "db", vm.Saved)
		must(t, err)
		must(t, r.Cut())
		for i := range 8 {
			before := len(r.Ticks("db"))
			must(t, r.Start(ctx))
			time.Sleep(time.Duration(i) * 60 * time.Millisecond)
			must(t, r.Signal())
			// The image is intact, or there is a new one: the machine may die now.
			saved := func() bool {
				info, err := r.Client().Info(ctx, "db")
				s, serr := r.Client().Status(ctx)
				return err == nil && serr == nil && s.Outage != "" && !s.Recovering && info.State == vm.Saved
			}
			await(t, "the outage during recovery to be dealt with", saved)
			must(t, r.Cut())
			if _, err := r.Continued("db"); err != nil {
				t.Fatalf("round %d: %v", i, err)
			}
			t.Logf("round %d: %d ticks between the outages", i, len(r.Ticks("db"))-before)
		}
		before := len(r.Ticks("db"))
		must(t, r.Boot(ctx))
		continued(t, ctx, r, "db", before)
	})
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if done() {
			return
		}
	}
	t.Fatalf("waited a minute for %s", what)
}

// Two outages without a guest instruction between them: a paused VM is saved,
// resumed paused, saved again, and only then continues.
func TestTwoOutagesWithoutAnInstruction(t *testing.T) {
	r, ctx := boot(t, rig.Options{Bin: bin})
	must(t, r.Launch(ctx, r.Guest("db", memory)))
	tick(t, ctx, r, "db", 2)
	_, err := r.Nvh(ctx, "pause", "db")
	must(t, err)
	before := len(r.Ticks("db"))
	for range 2 {
		must(t, r.Signal())
		_, err := r.AwaitState(ctx, "db", vm.Saved)
		must(t, err)
		must(t, r.Cut())
		must(t, r.Boot(ctx))
		_, err = r.AwaitState(ctx, "db", vm.Paused)
		must(t, err)
		if n := len(r.Ticks("db")); n > before+1 {
			t.Fatalf("the paused guest printed %d ticks", n-before)
		}
	}
	_, err = r.Nvh(ctx, "resume", "db")
	must(t, err)
	continued(t, ctx, r, "db", before)
}

// QEMU killed alone: nothing of its vCPUs is left, so the VM boots cold by policy,
// or is reported as failed under on_lost = hold, and never resumes.
func TestQEMUKilledAlone(t *testing.T) {
	r, ctx := boot(t, rig.Options{Bin: bin})
	must(t, r.Launch(ctx, r.Guest("again", memory)))
	hold := r.Guest("still", memory)
	hold.OnLost = vm.OnLostHold
	must(t, r.Launch(ctx, hold))
	first := tick(t, ctx, r, "again", 2)
	tick(t, ctx, r, "still", 2)
	for _, pid := range r.QEMUs() {
		must(t, unix.Kill(pid, unix.SIGKILL))
	}
	info, err := r.AwaitState(ctx, "still", vm.Failed)
	must(t, err)
	if !strings.Contains(info.Reason, "QEMU died") {
		t.Errorf("reason: %q", info.Reason)
	}
	_, err = r.AwaitTick(ctx, "again", 2, func(k guest.Tick) bool { return k.BootID != first.BootID })
	must(t, err)
	info, err = r.Client().Info(ctx, "again")
	must(t, err)
	if !strings.Contains(info.Reason, "QEMU died") {
		t.Errorf("reason of the cold boot: %q", info.Reason)
	}
}

// The daemon killed alone, and stopped in an orderly way: the guests do not notice,
// the next daemon adopts them, and an outage after that is survived.
func TestDaemonRestart(t *testing.T) {
	eachQEMU(t, func(t *testing.T, opt rig.Options) {
		r, ctx := boot(t, opt)
		must(t, r.Launch(ctx, r.Guest("db", memory)))
		volatile := r.Guest("cache", memory)
		volatile.Volatile = true
		must(t, r.Launch(ctx, volatile))
		tick(t, ctx, r, "db", 2)
		tick(t, ctx, r, "cache", 2)
		pids := fmt.Sprint(r.QEMUs())
		for _, end := range []func() error{func() error { r.KillDaemon(); return nil }, r.Stop} {
			must(t, end())
			before := len(r.Ticks("db"))
			tick(t, ctx, r, "db", before+2) // goes on without a daemon
			must(t, r.Boot(ctx))
			if now := fmt.Sprint(r.QEMUs()); now != pids {
				t.Fatalf("QEMUs were %s and are %s", pids, now)
			}
			continued(t, ctx, r, "db", len(r.Ticks("db")))
			continued(t, ctx, r, "cache", len(r.Ticks("cache")))
		}
		before := len(r.Ticks("db"))
		must(t, r.Signal())
		_, err := r.AwaitState(ctx, "db", vm.Saved)
		must(t, err)
		must(t, r.Cut())
		must(t, r.Boot(ctx))
		continued(t, ctx, r, "db", before)
	})
}

// The daemon killed at instants swept over the whole recovery, its QEMU left as it
// is: the next daemon finishes the resume, exactly once.
func TestDaemonKilledDuringRestore(t *testing.T) {
	eachQEMU(t, func(t *testing.T, opt rig.Options) {
		r, ctx := boot(t, opt)
		must(t, r.Launch(ctx, r.Guest("db", memory)))
		tick(t, ctx, r, "db", 2)
		for i := range 8 {
			before := len(r.Ticks("db"))
			must(t, r.Signal())
			_, err := r.AwaitState(ctx, "db", vm.Saved)
			must(t, err)
			must(t, r.Cut())
			must(t, r.Start(ctx))
			time.Sleep(time.Duration(i) * 50 * time.Millisecond)
			r.KillDaemon()
			await(t, "the daemon's probes to end with it", func() bool { return len(r.Probes()) == 0 })
			must(t, r.Boot(ctx))
			continued(t, ctx, r, "db", before)
		}
	})
}

// The daemon killed after the commit, while the power is in fact back: the next
// one continues the guest in place and voids the image.
func TestDaemonKilledAfterCommit(t *testing.T) {
	r, ctx := boot(t, rig.Options{Bin: bin})
	must(t, r.Launch(ctx, r.Guest("db", memory)))
	tick(t, ctx, r, "db", 2)
	must(t, r.Signal())
	_, err := r.AwaitState(ctx, "db", vm.Saved)
	must(t, err)
	pids := fmt.Sprint(r.QEMUs())
	r.KillDaemon()
	before := len(r.Ticks("db"))
	must(t, r.Boot(ctx))
	continued(t, ctx, r, "db", before)
	if now := fmt.Sprint(r.QEMUs()); now != pids {
		t.Errorf("QEMU was %s and is %s: not resumed in place", pids, now)
	}
	if info, err := r.Client().Info(ctx, "db"); err != nil || info.Image != nil || info.Generation != 2 {
		t.Errorf("image %+v, generation %d, %v", info.Image, info.Generation, err)
	}
}

// A guest that was resumed can reboot, and be saved after that.
func TestGuestRebootAfterResume(t *testing.T) {
	eachQEMU(t, func(t *testing.T, opt rig.Options) {
		r, ctx := boot(t, opt)
		must(t, r.Launch(ctx, r.Guest("db", memory)))
		first := tick(t, ctx, r, "db", 2)
		cycle(t, r, "db")
		boots := len(r.Ticks("db"))
		console, err := r.Client().Console(ctx, "db")
		must(t, err)
		_, err = console.Write([]byte("reboot\n"))
		must(t, err)
		second, err := r.AwaitTick(ctx, "db", boots, func(k guest.Tick) bool { return k.BootID != first.BootID })
		must(t, err)
		must(t, console.Close())
		cycle(t, r, "db")
		_, err = r.AwaitTick(ctx, "db", boots, func(k guest.Tick) bool { return k.BootID == second.BootID && k.Count > second.Count+1 && k.SumOK })
		must(t, err)
	})
}

// cycle is one whole outage: signal, commit, cut, boot.
func cycle(t *testing.T, r *rig.Rig, name string) {
	t.Helper()
	ctx := t.Context()
	must(t, r.Signal())
	_, err := r.AwaitState(ctx, name, vm.Saved)
	must(t, err)
	must(t, r.Cut())
	must(t, r.Boot(ctx))
	_, err = r.AwaitState(ctx, name, vm.Running)
	must(t, err)
}

// A disk under write load, on a guest with two busy vCPUs: every record the guest
// had acknowledged is on the disk after each cut, and its memory is intact.
func TestWriteLoadOnTwoCPUs(t *testing.T) {
	eachQEMU(t, func(t *testing.T, opt rig.Options) {
		r, ctx := boot(t, opt)
		d := r.Guest("db", memory, "nvh.load=disk,cpu", "nvh.cpus=2")
		d.CPUs = 2
		disk, err := r.Disk("db.img", 64*nvram.MiB)
		must(t, err)
		d.Disks = append(d.Disks, disk)
		must(t, r.Launch(ctx, d))
		tick(t, ctx, r, "db", 2)
		for range 3 {
			before := len(r.Ticks("db"))
			must(t, r.Signal())
			_, err := r.AwaitState(ctx, "db", vm.Saved)
			must(t, err)
			must(t, r.Cut())
			ticks := r.Ticks("db")
			last := ticks[len(ticks)-1]
			report, err := guest.VerifyDisk(disk.Path)
			must(t, err)
			boot, ok := report.Boot(last.BootID)
			if !ok || boot.Written() < last.Records {
				t.Fatalf("the guest had acknowledged %d records, the disk has %+v", last.Records, boot)
			}
			must(t, r.Boot(ctx))
			continued(t, ctx, r, "db", before)
		}
	})
}
