package vm

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/qemu"
	"github.com/nv-hypervisor/nv-hypervisor/qmp"
)

// An automatic cold boot after QEMU died happens at most this often.
const (
	maxRestarts   = 3
	restartWindow = 10 * time.Minute
)

// watch follows a process until it is gone or let go of.
func (v *VM) watch(p *qemu.Process) {
	defer v.watchers.Done()
	sub := p.QMP().Subscribe()
	defer sub.Close()
	for {
		event, err := sub.Next(context.Background())
		if err != nil {
			break
		}
		v.noteEvent(event)
	}
	<-p.Released()
	select {
	case <-p.Exited():
		v.processGone(p)
	default: // let go of
	}
}

// noteEvent reports what a guest does that its operator should know.
func (v *VM) noteEvent(event qmp.Event) {
	switch e := event.(type) {
	case qmp.Reset:
		v.env.Notify("guest-reset", v.Name(), map[string]string{"reason": e.Reason})
	case qmp.GuestPanicked:
		v.env.Notify("guest-panicked", v.Name(), nil)
	case qmp.BlockIOError:
		v.mu.Lock()
		v.warn("disk %s reported an I/O error (%s)", e.Device, e.Operation)
		v.mu.Unlock()
	}
}

// processGone deals with a QEMU that ended without our doing.
func (v *VM) processGone(p *qemu.Process) {
	v.op.Lock()
	defer v.op.Unlock()
	if v.Process() != p {
		return
	}
	reason := p.ExitReason()
	v.forget()
	os.Remove(v.runtimePath())
	if v.hasImage() { // committed, be it noted or not: the image is what counts
		v.setState(Saved, "")
		return
	}
	if p.GuestPoweredOff() {
		v.setIntent(IntentStopped)
		if err := v.noteStopped("the guest powered off"); err != nil {
			v.setState(Failed, err.Error())
		}
		return
	}
	v.setState(Failed, "QEMU died: "+reason)
	v.rebootIfWanted(reason)
}

// rebootIfWanted boots a VM cold whose QEMU died, by its policy.
func (v *VM) rebootIfWanted(reason string) {
	v.mu.Lock()
	recent := v.restarts[:0]
	for _, at := range v.restarts {
		if time.Since(at) < restartWindow {
			recent = append(recent, at)
		}
	}
	v.restarts = recent
	wanted := v.def.OnLost == OnLostBoot && v.file.Intent != IntentStopped && !v.closed
	tired := len(recent) >= maxRestarts
	if wanted && !tired {
		v.restarts = append(v.restarts, time.Now())
	}
	v.mu.Unlock()
	switch {
	case !wanted:
	case tired:
		v.setState(Failed, fmt.Sprintf("QEMU died %d times within %s, last: %s", maxRestarts+1, restartWindow, reason))
	default:
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := v.coldBoot(ctx, "booted cold because QEMU died: "+reason); err != nil {
			v.env.Log.Error("boot after QEMU died", "vm", v.Name(), "error", err)
		}
	}
}
