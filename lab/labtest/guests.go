package labtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/lab"
	"github.com/nv-hypervisor/nv-hypervisor/lab/guest"
	"github.com/nv-hypervisor/nv-hypervisor/lab/plan"
	"github.com/nv-hypervisor/nv-hypervisor/outage"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

// patience bounds a wait for something that takes seconds on two idle cores.
const patience = 3 * time.Minute

// parameters of the guests' kernel: a small pattern in memory, so that all of it is checked in little time.
const parameters = "nvh.mem=24"

// Launch creates a guest that runs the workload on a disk of its own, and starts it. flags are further ones of
// nvh create; --volatile makes it one that has its memory in DRAM.
func (h *Host) Launch(name string, flags ...string) {
	h.t.Helper()
	disk := "/var/lib/" + name + ".img"
	h.Run("truncate", "-s", "16M", disk)
	create := []string{"nvh", "create", name, "--memory", "192M", "--start", "--disk", disk,
		"--kernel", plan.Guest + "/vmlinuz", "--initrd", plan.Guest + "/initrd", "--cmdline", h.GuestCmdline()}
	h.Run(append(create, flags...)...)
	h.guests[name] = &guestState{}
}

// GuestCmdline is the kernel command line of a guest, with more parameters of the workload.
func (h *Host) GuestCmdline(more ...string) string {
	h.t.Helper()
	line := strings.TrimSpace(h.Run("cat", plan.Guest+"/cmdline"))
	return strings.Join(append([]string{line, parameters}, more...), " ")
}

// AwaitRunning waits until guests have booted and their workload has gone on for a while.
func (h *Host) AwaitRunning(names ...string) {
	h.t.Helper()
	for _, name := range names {
		h.AwaitTicks(name, 3)
	}
}

// AwaitTicks waits until a guest has printed n more ticks.
func (h *Host) AwaitTicks(name string, n int) {
	h.t.Helper()
	g := h.guests[name]
	from := g.last
	h.poll(fmt.Sprintf("%d ticks of %s", n, name), patience, func() (bool, error) {
		ticks, err := h.ticks(name)
		if err != nil || len(ticks) == 0 {
			return false, err
		}
		last := ticks[len(ticks)-1]
		if from.BootID != "" && last.BootID != from.BootID {
			return false, fmt.Errorf("%s was booted anew: boot id %s, before %s", name, last.BootID, from.BootID)
		}
		g.last = last
		return last.Count >= from.Count+uint64(n), nil
	})
}

// ticks are the latest ones on a guest's console. What it printed shortly before a cut may be missing: the log of the
// console is on the host's disk, and nobody waits for it to get there.
func (h *Host) ticks(name string) ([]guest.Tick, error) {
	out, err := h.Host.Run(h.ctx, "tail", "-c", "20000", vmFolder(name)+"/console.log")
	if err != nil {
		if strings.Contains(err.Error(), "No such file") {
			return nil, nil
		}
		return nil, err
	}
	var ticks []guest.Tick
	for line := range strings.Lines(out) {
		if t, ok := guest.ParseLine(line); ok {
			ticks = append(ticks, t)
		}
	}
	return ticks, nil
}

func vmFolder(name string) string { return plan.State + "/vms/" + name }

// Info asks nvhd for a VM.
func (h *Host) Info(name string) vm.Info {
	h.t.Helper()
	info, err := h.info(name)
	h.must(err)
	return info
}

func (h *Host) info(name string) (vm.Info, error) {
	var info vm.Info
	out, err := h.Host.Run(h.ctx, "nvh", "info", name, "--format", "json")
	if err == nil {
		err = json.Unmarshal([]byte(out), &info)
	}
	return info, err
}

// AwaitState waits until a VM is in a state.
func (h *Host) AwaitState(name string, want vm.State) {
	h.t.Helper()
	h.poll(fmt.Sprintf("VM %s to be %s", name, want), patience, func() (bool, error) {
		info, err := h.info(name)
		return err == nil && info.State == want, err
	})
}

// AwaitSaved waits until VMs have been saved.
func (h *Host) AwaitSaved(names ...string) {
	h.t.Helper()
	for _, name := range names {
		h.AwaitState(name, vm.Saved)
	}
}

// Continued waits until a guest has gone on for a while after a resume, and checks that it did so as if nothing had
// happened: no boot in between, the count not behind what was seen before, and all of its memory and its disk intact.
func (h *Host) Continued(name string) {
	h.t.Helper()
	h.AwaitState(name, vm.Running)
	h.must(h.wentOn(name))
}

// wentOn is Continued for guests that run. Only what they say from now on counts: the log of a console is older than a cut. The error is
// ErrLockedUp, anything else ends the test.
func (h *Host) wentOn(names ...string) error {
	h.t.Helper()
	ticks, err := h.intact(names)
	if err != nil {
		return err
	}
	for name, said := range ticks {
		g := h.guests[name]
		before := g.last
		for _, tick := range said {
			if tick.BootID != before.BootID || tick.Count < before.Count {
				h.t.Fatalf("%s did not go on: %v, before %v", name, tick, before)
			}
			g.last = tick
		}
	}
	return nil
}

// intact has guests check all of their memory and all of their disks, all at once. It returns what ticks they printed behind
// that, at least one each.
func (h *Host) intact(names []string) (map[string][]guest.Tick, error) {
	h.t.Helper()
	ticks := map[string][]guest.Tick{}
	answers, err := h.ask("sum", "full-sum=", names)
	for name, output := range answers {
		sum := ""
		for line := range strings.Lines(output) {
			if strings.Contains(line, "full-sum=") {
				sum = line
			}
			tick, ok := guest.ParseLine(line)
			if !ok {
				continue
			}
			if !tick.SumOK || tick.Disk == guest.DiskBad {
				h.t.Fatalf("%s is damaged: %v", name, tick)
			}
			if sum != "" {
				ticks[name] = append(ticks[name], tick)
			}
		}
		if !strings.Contains(sum, "full-sum=ok(") || !strings.Contains(sum, "/ok") {
			h.t.Fatalf("%s is damaged: %s", name, sum)
		}
		if len(ticks[name]) == 0 {
			h.t.Fatalf("%s does not go on after %s\nall it said:\n%s", name, sum, output)
		}
	}
	return ticks, err
}

// ask types a line on the consoles of guests, and returns what they print until each has answered and gone on for a tick.
func (h *Host) ask(line, answer string, names []string) (map[string]string, error) {
	h.t.Helper()
	const separator = "=== console of "
	var ask, wait, show strings.Builder
	for _, name := range names {
		out := "/tmp/console-" + name
		fmt.Fprintf(&ask, "(echo %s; exec sleep 100) | exec nvh console %s >%s 2>/dev/null & pids=\"$pids $!\"; ", line, name, out)
		fmt.Fprintf(&wait, `until sed -n "/%s/,\$p" %s | grep -q "uptime=[0-9]*[.][0-9]"; do usleep 300000; n=$((n+1)); [ $n -lt 300 ] || break; done; `, answer, out)
		fmt.Fprintf(&show, "echo %q; cat %s; ", separator+name, out)
	}
	ctx, cancel := context.WithTimeout(h.ctx, patience)
	defer cancel()
	output, err := h.Host.Run(ctx, "sh", "-c", "n=0; "+ask.String()+wait.String()+"kill $pids; "+show.String())
	if ctx.Err() != nil && h.ctx.Err() == nil && h.On() {
		return nil, ErrLockedUp // the script ends long before
	}
	h.must(err)
	answers := map[string]string{}
	for part := range strings.SplitSeq(output, separator) {
		if name, said, ok := strings.Cut(part, "\n"); ok {
			answers[name] = said
		}
	}
	return answers, nil
}

// Type types a line on the consoles of guests.
func (h *Host) Type(line string, names ...string) {
	h.t.Helper()
	var script strings.Builder
	for _, name := range names {
		fmt.Fprintf(&script, "(echo %s; sleep 1) | timeout -s INT 2 nvh console %s >/dev/null 2>&1 & ", line, name)
	}
	h.Run("sh", "-c", script.String()+"wait")
}

// Lost waits until a guest prints again after a power cut, and checks that it knows nothing of what was before.
func (h *Host) Lost(name string) {
	h.t.Helper()
	before := h.guests[name].last
	h.poll(name+" to boot", patience, func() (bool, error) {
		ticks, err := h.ticks(name)
		if err != nil || len(ticks) == 0 || ticks[len(ticks)-1].BootID == before.BootID {
			return false, err
		}
		first := slices.IndexFunc(ticks, func(t guest.Tick) bool { return t.BootID != before.BootID })
		if ticks[first].Count != 1 {
			err = fmt.Errorf("its first count is %d", ticks[first].Count)
		}
		h.guests[name].last = ticks[len(ticks)-1]
		return err == nil, err
	})
	if info := h.Info(name); info.Image != nil {
		h.t.Errorf("%s has an image: %v", name, info.Image)
	}
}

// Fate is what became of a guest in a power cut.
type Fate struct {
	Resumed bool
	Reason  string // why it was booted cold, if it was not resumed
}

// Fates waits until nvhd has recovered after a power cut, and tells what it has done with VMs, by its timeline. A guest that was resumed must be
// intact; one that was not must have been booted cold, with a reason. Anything else ends the test, but a host that locks up, which is
// ErrLockedUp.
func (h *Host) Fates(names ...string) (map[string]Fate, error) {
	h.t.Helper()
	recovery, err := h.awaitRecovery()
	if err != nil {
		return nil, err
	}
	fates := map[string]Fate{}
	var resumed []string
	for _, v := range recovery.VMs {
		switch {
		case v.Outcome == "resumed":
			resumed = append(resumed, v.Name)
			fates[v.Name] = Fate{Resumed: true}
		case v.Outcome == "cold-booted" && v.Reason != "":
			fates[v.Name] = Fate{Reason: v.Reason}
		default:
			h.t.Fatalf("VM %s: %s, reason %q\nnvhd's log ends:\n%s", v.Name, v.Outcome, v.Reason, h.Tail(lab.DaemonLog))
		}
	}
	if len(resumed) > 0 {
		err = h.wentOn(resumed...)
	}
	return fates, err
}

// ErrLockedUp says that the kernel of an emulated host does not get on: nobody inside answers any more.
var ErrLockedUp = errors.New("the emulated host has locked up")

// answerLimit is how long a host that gets on takes at most to answer a question.
const answerLimit = 30 * time.Second

// awaitRecovery waits for the timeline of the recovery in this boot. When it is there is read in nvhd's log, from outside: an emulated
// host that is asked again and again does little else.
func (h *Host) awaitRecovery() (recovery outage.Timeline, err error) {
	h.t.Helper()
	asked := time.Now()
	h.poll("the recovery", patience, func() (bool, error) {
		log := h.Tail(lab.DaemonLog)
		if strings.Contains(log[max(0, strings.LastIndex(log, "msg=serving")):], "msg=recovered") {
			return true, nil
		}
		if time.Since(asked) > answerLimit {
			asked = time.Now()
			err = h.answers()
		}
		return err != nil, nil
	})
	if err != nil {
		return recovery, err
	}
	var report plan.Report
	h.must(h.Report(h.ctx, &report))
	find := fmt.Sprintf("cat $(grep -l %s %s/timelines/*-recovery.json)", report.BootID, plan.State)
	h.must(json.Unmarshal([]byte(h.Run("sh", "-c", find)), &recovery))
	return recovery, nil
}

// answers asks the host a question that it answers at once, as long as it gets on.
func (h *Host) answers() error {
	ctx, cancel := context.WithTimeout(h.ctx, answerLimit)
	defer cancel()
	var report plan.Report
	err := h.Report(ctx, &report)
	if err != nil && h.On() && h.ctx.Err() == nil {
		return fmt.Errorf("%w: %w", ErrLockedUp, err)
	}
	return err
}
