package vm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/qemu"
	"github.com/nv-hypervisor/nv-hypervisor/vm/record"
	"github.com/nv-hypervisor/nv-hypervisor/vm/saver"
)

// Save writes the volatile state, commits it and ends QEMU. The sequence is the
// one of an outage. If it fails the guest goes on.
func (v *VM) Save(ctx context.Context) (*saver.Result, error) {
	end, err := v.begin("save")
	if err != nil {
		return nil, err
	}
	defer end()
	if v.pool == nil {
		return nil, WithRemedy(fmt.Errorf("%s: save: the VM is volatile, its RAM would be lost: %w", v.Name(), ErrState),
			"Only persistent VMs can be saved.")
	}
	was := v.State()
	if !was.alive() {
		return nil, v.wrongState("save", "Only a running or paused VM can be saved.")
	}
	before := v.intent()
	if err := v.setIntent(IntentSaved); err != nil {
		return nil, err
	}
	v.mu.Lock()
	t := v.target
	v.mu.Unlock()
	stateIs := func(s State) func() bool { return func() bool { return v.state == s } }
	if t == nil || !v.setStateIf(stateIs(was), Saving, "") { // an outage came first
		return nil, errors.Join(v.overtaken("save"), v.setIntent(before))
	}
	result, err := v.env.Saver.Save(ctx, t)
	if errors.Is(err, saver.ErrOutage) { // whose result tells what became of the VM
		v.setStateIf(stateIs(Saving), was, "")
		return nil, errors.Join(fmt.Errorf("%s: save: %w", v.Name(), err), v.setIntent(before))
	}
	if err == nil && len(result.VMs) == 1 {
		err = result.VMs[0].Err
	}
	if err == nil && !v.hasImage() {
		err = fmt.Errorf("%s: save: nothing was committed", v.Name())
	}
	if err != nil {
		return result, errors.Join(err, v.unsave(ctx, was))
	}
	if len(result.VMs) == 1 {
		v.NoteSaved(result.VMs[0], result.ID)
	} else {
		v.setState(Saved, "") // in an outage before, and paused since
	}
	v.EndSaved()
	return result, nil
}

// unsave lets the guest go on after a save that failed.
func (v *VM) unsave(ctx context.Context, was State) error {
	intent := IntentRunning
	if was == Paused {
		intent = IntentPaused
	}
	if err := v.setIntent(intent); err != nil {
		return err
	}
	return v.continueInPlace(ctx)
}

// NoteSaved takes note of what a save, asked for or forced by an outage, did to
// the VM. It does not wait for an operation in progress.
func (v *VM) NoteSaved(r saver.VMResult, outage string) {
	defer v.tellStop()
	switch {
	case r.Committed:
		v.setState(Saved, "")
		v.env.Notify("devices-dumped", v.Name(), map[string]string{"outage": outage, "bytes": fmt.Sprint(r.StateSize)})
	case r.Paused && v.Process() == nil: // and has died since
	case r.Paused:
		v.setState(Paused, "paused by outage "+outage)
	case r.Err != nil:
		v.setState(Failed, "not saved in outage "+outage+": "+r.Err.Error())
	}
}

// EndSaved ends the QEMU of a VM that has been saved. Its disks are inactive and
// its RAM is the image's, so there is nothing to be graceful about.
func (v *VM) EndSaved() {
	if v.hasImage() {
		v.endProcess()
	}
}

// ResumeInPlace continues a VM that an outage stopped and whose QEMU still lives,
// because power came back. Its image is void from then on, unless the VM is paused. A QEMU that cannot be
// continued is replaced by one that resumes the image.
func (v *VM) ResumeInPlace(ctx context.Context) error {
	v.op.Lock()
	defer v.op.Unlock()
	if !v.isRecovered() {
		return nil // Recover is still to come, and does more
	}
	if v.Process() == nil {
		_, _, err := v.bringBack(ctx)
		return err
	}
	return v.goOn(ctx)
}

// goOn continues a VM whose QEMU was stopped by a save.
func (v *VM) goOn(ctx context.Context) error {
	err := v.continueInPlace(ctx)
	if err == nil || errors.Is(err, saver.ErrOutage) || !v.hasImage() {
		return err
	}
	v.env.Log.Warn("resume from the image instead", "vm", v.Name(), "error", err)
	v.endProcess()
	_, err = v.resume(ctx)
	return err
}

// continueInPlace arms the next save and lets the guest go on.
func (v *VM) continueInPlace(ctx context.Context) error {
	ctx, cancel := v.withLimit(ctx)
	defer cancel()
	v.mu.Lock()
	p, t, launch := v.process, v.target, v.launch
	v.mu.Unlock()
	if p == nil {
		return v.wrongState("continue", "Its QEMU is gone.")
	}
	paused := v.intent() == IntentPaused
	if paused && v.hasImage() {
		// QEMU does not migrate a second time unless the guest ran in between
		// (qmp_migrate in migration/migration.c): this image is the one for the
		// next outage as well, until Unpause.
		v.setState(Paused, "")
		return nil
	}
	if err := awaitSettled(ctx, p); err != nil {
		return v.stuck(err)
	}
	if err := v.continueTarget(ctx, p, *launch, t, v.voidImage, paused); err != nil {
		return v.stuck(err)
	}
	if paused {
		v.setRuns(Paused, "")
	} else {
		v.setRuns(Running, "")
	}
	return nil
}

// stuck records that a guest could not be continued. Its image, if there is one,
// is intact.
func (v *VM) stuck(err error) error {
	state := Failed
	if v.hasImage() {
		state = Saved
	}
	v.setState(state, "could not be continued: "+err.Error())
	return fmt.Errorf("%s: continue in place: %w", v.Name(), err)
}

// voidImage marks the VM running if it was saved.
func (v *VM) voidImage() error {
	if v.area == nil {
		return nil
	}
	rec, err := v.area.Latest()
	if err != nil {
		return err
	}
	if rec.Status == record.StatusSaved {
		_, err = v.area.MarkVoid(rec)
	}
	return err
}

// settleLimit bounds how long QEMU may take from the completed event to the run
// state that accepts cont.
const settleLimit = 5 * time.Second

// awaitSettled waits until QEMU has finished whatever migration it was doing:
// cont before that fails with "not finalized yet".
func awaitSettled(ctx context.Context, p *qemu.Process) error {
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	for {
		status, err := p.Status(ctx)
		if err != nil {
			return err
		}
		switch status {
		case "finish-migrate", "save-vm", "restore-vm", "inmigrate":
		default:
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("QEMU is still in run state %s: %w", status, ctx.Err())
		case <-time.After(time.Millisecond):
		}
	}
}

// Interrupted tells whether an outage stopped the VM, or kept it from starting:
// what the end of the outage has to put right. A guest that was being stopped or
// saved goes on as well: what its operator wanted was not done.
func (v *VM) Interrupted() bool {
	if !v.isRecovered() {
		return false
	}
	switch v.intent() {
	case IntentRunning:
		return v.State() != Running && v.State() != Held
	case IntentPaused:
		return v.State() != Paused && v.State() != Held
	}
	return v.Process() != nil && !v.State().alive()
}
