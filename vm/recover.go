package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/qemu"
	"github.com/nv-hypervisor/nv-hypervisor/vm/record"
	"github.com/nv-hypervisor/nv-hypervisor/vm/saver"
)

// Outcome is what recovery did with a VM; the words of the timeline.
type Outcome string

const (
	Adopted    Outcome = "adopted" // its QEMU was running all the time
	Resumed    Outcome = "resumed" // continued from its image
	InPlace    Outcome = "resumed in place"
	ColdBooted Outcome = "cold-booted"
	HeldBack   Outcome = "held"
	LeftSaved  Outcome = "saved"   // an image the operator asked for, or that cannot be loaded just now
	LeftAlone  Outcome = "stopped" // was not meant to run
	Broken     Outcome = "failed"
)

// Recover puts the VM into the state its operator wants, from whatever a crash
// of the daemon, of QEMU or of the host has left. It starts from the record and
// the process table alone.
func (v *VM) Recover(ctx context.Context) (Outcome, []saver.Step, error) {
	v.op.Lock()
	defer v.op.Unlock()
	defer v.setRecovered()
	return v.bringBack(ctx)
}

func (v *VM) bringBack(ctx context.Context) (Outcome, []saver.Step, error) {
	var trace trace
	adopted, outcome, err := v.adopt(ctx, &trace)
	if adopted || err != nil {
		if err != nil {
			v.setState(Failed, err.Error())
			outcome = Broken
		}
		return outcome, trace.steps, err
	}
	err = v.recoverWithoutProcess(ctx, &trace)
	return v.outcome(trace), trace.steps, err
}

func (v *VM) outcome(t trace) Outcome {
	switch v.State() {
	case Running, Paused:
		for _, s := range t.steps {
			if s.Name == "boot" {
				return ColdBooted
			}
		}
		return Resumed
	case Held:
		return HeldBack
	case Saved:
		return LeftSaved
	case Stopped:
		return LeftAlone
	}
	return Broken
}

// recoverWithoutProcess decides by the record what becomes of a VM that has no QEMU.
func (v *VM) recoverWithoutProcess(ctx context.Context, trace *trace) error {
	intent := v.intent()
	if v.area == nil {
		if intent == IntentStopped {
			v.setState(Stopped, "")
			return nil
		}
		return v.lost(ctx, trace, "its RAM was DRAM and is gone")
	}
	rec, err := v.area.Latest()
	switch {
	case err != nil:
		return v.refused(ctx, trace, err.Error())
	case rec.Status == record.StatusSaved && intent == IntentSaved:
		v.setState(Saved, "")
		return nil
	case rec.Status == record.StatusSaved:
		return v.resumeOrLose(ctx, trace)
	case rec.Status == record.StatusRunning && intent != IntentStopped && v.damage() != "":
		// A newer record was committed and is damaged: there may be an image.
		return v.refused(ctx, trace, v.damage())
	case rec.Status == record.StatusRunning && intent != IntentStopped:
		return v.lost(ctx, trace, fmt.Sprintf("it was running in generation %d and no image of that moment was saved", rec.Generation))
	}
	if intent == IntentRunning || intent == IntentPaused { // marked stopped or never started, yet wanted
		return v.lost(ctx, trace, "it was not running")
	}
	v.setState(Stopped, "")
	return nil
}

// damage tells what is wrong with the VM's records; a power cut alone is never the
// cause.
func (v *VM) damage() string {
	var text []string
	for _, f := range v.area.Check() {
		text = append(text, "The "+f.Part+" is damaged: "+f.Text+".")
	}
	return strings.Join(text, " ")
}

func (v *VM) resumeOrLose(ctx context.Context, trace *trace) error {
	steps, err := v.resume(ctx)
	trace.steps = append(trace.steps, steps...)
	switch {
	case errors.Is(err, nvram.ErrUnhealthy):
		return nil // held: whatever runs in this memory next may be lost as well
	case errors.Is(err, ErrRefused):
		return v.refused(ctx, trace, reasonOf(err))
	}
	return err
}

// refused applies the policy for a VM whose image may not be resumed. Before it
// boots cold the image is put aside; if there is no room for that, it is held.
func (v *VM) refused(ctx context.Context, trace *trace, reason string) error {
	v.mu.Lock()
	v.refusal = reason
	v.mu.Unlock()
	intent := v.intent()
	if v.def.OnLost != OnLostBoot || intent == IntentStopped || intent == IntentSaved {
		v.setState(Held, reason)
		return nil
	}
	if err := v.checkMemory(); err != nil {
		v.setState(Held, reason+" It was not booted: "+err.Error())
		return nil
	}
	if err := v.keepAside(); err != nil {
		v.setState(Held, reason+" It was not booted: "+err.Error())
		return nil
	}
	return v.lost(ctx, trace, "its image was refused and kept aside: "+reason)
}

// lost applies the policy for a VM that cannot continue.
func (v *VM) lost(ctx context.Context, trace *trace, reason string) error {
	if v.intent() == IntentStopped || v.intent() == IntentSaved {
		v.setState(Held, reason)
		return nil
	}
	if v.def.OnLost == OnLostHold {
		v.setState(Held, reason)
		return nil
	}
	if err := v.checkMemory(); err != nil {
		v.setState(Held, reason+"; it was not booted: "+err.Error())
		return nil
	}
	if err := v.setIntent(IntentRunning); err != nil {
		return err
	}
	return trace.do("boot", func() error { return v.coldBoot(ctx, "booted cold: "+reason) })
}

// adopt takes over a QEMU that outlived the daemon. It reports whether there was
// one that stays.
func (v *VM) adopt(ctx context.Context, trace *trace) (bool, Outcome, error) {
	ctx, cancel := v.withLimit(ctx)
	defer cancel()
	f, known, err := v.readRuntime()
	if err != nil {
		return false, "", fmt.Errorf("%s: %w", v.Name(), err)
	}
	if !known {
		return false, "", v.killOrphan()
	}
	rt, err := v.runtime(false)
	if err != nil {
		return false, "", nil // no region: whatever runs cannot be ours; the record decides
	}
	p, err := qemu.Adopt(ctx, rt, f.PID, f.StartTime)
	if errors.Is(err, qemu.ErrGone) {
		os.Remove(v.runtimePath())
		return false, "", nil
	}
	if err != nil {
		return false, "", fmt.Errorf("%s: %w", v.Name(), err)
	}
	var outcome Outcome
	err = trace.do("adopt", func() error { outcome, err = v.takeOver(ctx, p, f.Launch); return err })
	if errors.Is(err, errStartOver) {
		return false, "", v.abandon(p)
	}
	if err != nil {
		p.Close()
		return true, "", err
	}
	return true, outcome, nil
}

// errStartOver says that a process is of no use: its guest never ran, and the
// record holds all there is.
var errStartOver = errors.New("the guest of this QEMU never ran")

// takeOver decides by record and run state what an adopted QEMU may do.
//
//	record   run state      meaning                                     →
//	running  running        the daemon alone died                       adopted
//	running  paused …       died between mark and cont, or paused       adopted, cont or not by intent
//	running  postmigrate    died between dump and commit                cont: no image was committed
//	saved    postmigrate    died after the commit, power is back        image void, cont in place; if paused, both stay
//	saved    other          died during a restore: guest never ran      kill it, resume again
//	none/stopped  any       died before the first mark: never ran       kill it
func (v *VM) takeOver(ctx context.Context, p *qemu.Process, encoded []byte) (Outcome, error) {
	lr, err := decodeLaunch(encoded)
	if err != nil {
		return "", fmt.Errorf("%s: %w", v.Name(), err)
	}
	if err := p.SetMigrationCapabilities(ctx); err != nil {
		return "", err
	}
	status, err := p.Status(ctx)
	if err != nil {
		return "", fmt.Errorf("%s: %w", v.Name(), err)
	}
	outcome := Adopted
	if v.area != nil {
		rec, err := v.area.Latest()
		switch {
		case err != nil:
			return "", err
		case rec.Status == record.StatusRunning:
		case rec.Status == record.StatusSaved && status == "postmigrate" && v.intent() != IntentSaved:
			outcome = InPlace
		default:
			return "", errStartOver
		}
	} else if status == "prelaunch" {
		return "", errStartOver
	}
	if err := errors.Join(v.checkCaches(), v.checkMemory()); err != nil { // it runs already: say so, and keep it
		v.mu.Lock()
		v.warn("%v. %s", err, Remedy(err))
		v.mu.Unlock()
	}
	if err := awaitSettled(ctx, p); err != nil {
		return "", fmt.Errorf("%s: %w", v.Name(), err)
	}
	if v.intent() == IntentSaved { // died before the save
		if err := v.setIntent(IntentRunning); err != nil {
			return "", err
		}
	}
	paused := v.intent() == IntentPaused
	if paused && status == "running" { // died before the pause
		if err := p.Stop(ctx); err != nil {
			return "", fmt.Errorf("%s: %w", v.Name(), err)
		}
	}
	if paused && outcome == InPlace { // see continueInPlace
		t, err := v.connect(ctx, p, lr.Launch, false)
		if err != nil {
			return "", err
		}
		v.setState(Paused, "")
		return outcome, v.keep(p, lr.Launch, t)
	}
	if err := v.release(ctx, p, lr.Launch, v.voidImage, paused, outcome == Adopted); err != nil {
		return "", err
	}
	v.setRuns(map[bool]State{true: Paused, false: Running}[paused], "")
	return outcome, nil
}

// orphanLimit bounds the wait for an orphan that was just being forked to show itself.
const orphanLimit = 2 * time.Second

// killOrphan ends a QEMU that was started but not yet remembered when the daemon
// died: its guest never ran.
func (v *VM) killOrphan() error {
	for end := time.Now().Add(orphanLimit); ; time.Sleep(5 * time.Millisecond) {
		pid, _, err := qemu.Find(qemu.Runtime{Dir: v.runtimeDir()})
		if err == nil {
			err = qemu.KillPID(pid)
		}
		if err != nil && !errors.Is(err, qemu.ErrGone) {
			return fmt.Errorf("%s: %w", v.Name(), err)
		}
		if !v.ramInUse() || time.Now().After(end) { // Start names whoever is left
			return nil
		}
	}
}

func (v *VM) ramInUse() bool {
	if v.pool == nil {
		return false
	}
	region, err := v.pool.Region(v.ramName())
	if err != nil {
		return false
	}
	used, err := qemu.InUse(qemu.Backing{Path: region.Path, Offset: region.Offset}, region.Size)
	return err == nil && used
}
