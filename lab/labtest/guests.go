package labtest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/lab/guest"
	"github.com/nv-hypervisor/nv-hypervisor/lab/plan"
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
	cmdline := strings.TrimSpace(h.Run("cat", plan.Guest+"/cmdline")) + " " + parameters
	create := []string{"nvh", "create", name, "--memory", "192M", "--start", "--disk", disk,
		"--kernel", plan.Guest + "/vmlinuz", "--initrd", plan.Guest + "/initrd", "--cmdline", cmdline}
	h.Run(append(create, flags...)...)
	h.guests[name] = &guestState{}
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
	g := h.guests[name]
	before := g.last
	h.AwaitState(name, vm.Running)
	h.AwaitTicks(name, 3)
	if g.last.BootID != before.BootID || g.last.Count < before.Count {
		h.t.Fatalf("%s did not go on: %v, before %v", name, g.last, before)
	}
	h.Intact(name)
}

// Intact checks all memory of a guest and all of its disk, by the guest itself.
func (h *Host) Intact(name string) {
	h.t.Helper()
	sums := func() (sums []string, err error) {
		out, err := h.Host.Run(h.ctx, "grep", "-a", "full-sum=", vmFolder(name)+"/console.log")
		if exit := exitCode(err); exit == 1 { // none yet
			return nil, nil
		}
		return strings.Split(strings.TrimSpace(out), "\n"), err
	}
	before, err := sums()
	h.must(err)
	h.Type(name, "sum")
	h.poll("the checksum of "+name, patience, func() (bool, error) {
		now, err := sums()
		if err != nil || len(now) == len(before) {
			return false, err
		}
		if last := now[len(now)-1]; !strings.Contains(last, "full-sum=ok(") || !strings.Contains(last, "/ok") {
			return false, fmt.Errorf("%s is damaged: %s", name, last)
		}
		return true, nil
	})
	ticks, err := h.ticks(name)
	h.must(err)
	for _, t := range ticks {
		if !t.SumOK || t.Disk == guest.DiskBad {
			h.t.Fatalf("%s is damaged: %v", name, t)
		}
	}
}

// Type types a line on a guest's console.
func (h *Host) Type(name, line string) {
	h.t.Helper()
	h.Run("sh", "-c", fmt.Sprintf("(echo %s; sleep 1) | timeout -s INT 2 nvh console %s >/dev/null 2>&1 || true", line, name))
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

// Fate waits until nvhd has decided about a VM after a power cut. A guest that was resumed must be intact; one that was not must
// have been booted cold, with a reason. Anything else ends the test.
func (h *Host) Fate(name string) Fate {
	h.t.Helper()
	h.AwaitState(name, vm.Running)
	if reason := h.Info(name).Reason; reason != "" {
		return Fate{Reason: reason}
	}
	h.Continued(name)
	return Fate{Resumed: true}
}
