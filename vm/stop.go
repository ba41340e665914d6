package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// commandLimit bounds the wait for QEMU's answer to a plain command.
const commandLimit = 30 * time.Second

// DefaultStopTimeout is how long a guest may take to power off.
const DefaultStopTimeout = 60 * time.Second

// Stop ends the guest: by the power button, or at once with force. A guest that
// does not power off in time keeps running. Stopping a saved VM is refused: it has
// no guest to stop, and its image is worth keeping.
func (v *VM) Stop(ctx context.Context, force bool, timeout time.Duration) error {
	end, err := v.begin("stop")
	if err != nil {
		return err
	}
	defer end()
	s := v.State()
	if s == Stopped {
		return nil
	}
	if s == Failed && v.Process() == nil || s == Held {
		return v.setIntent(IntentStopped)
	}
	if !s.alive() && s != Failed {
		return v.wrongState("stop", "A saved VM has no running guest; give its image up with nvh rm --discard-image or resume it first.")
	}
	if s != Running && !force {
		return v.wrongState("stop", "Its guest does not run and cannot power off: nvh resume it first, or use --force.")
	}
	// Only a VM that is paused can have an image that is not an outage's of just now.
	was, had := v.intent(), s != Running && v.hasImage()
	if err := v.setIntent(IntentStopped); err != nil {
		return err
	}
	if !force {
		if err := v.powerDown(ctx, timeout); err != nil {
			return errors.Join(err, v.setIntent(was))
		}
	}
	if !had && v.hasImage() { // an outage came first, noted or not
		return errors.Join(v.overtaken("stop"), v.setIntent(was))
	}
	v.endProcess()
	return v.noteStopped("stopped by the operator")
}

func (v *VM) powerDown(ctx context.Context, timeout time.Duration) error {
	if timeout <= 0 {
		timeout = DefaultStopTimeout
	}
	saved := make(chan struct{})
	v.mu.Lock()
	p := v.process
	v.stopping = saved
	v.mu.Unlock()
	if p == nil {
		return nil
	}
	asking, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	if err := p.SystemPowerdown(asking); err != nil {
		return fmt.Errorf("%s: ask the guest to power off: %w", v.Name(), err)
	}
	select {
	case <-p.Exited():
		return nil
	case <-saved: // and cannot power off until the outage is over
		return v.overtaken("stop")
	case <-ctx.Done():
		return fmt.Errorf("%s: stop: %w", v.Name(), ctx.Err())
	case <-time.After(timeout):
		return WithRemedy(fmt.Errorf("%s: the guest did not power off within %s: %w", v.Name(), timeout, ErrState),
			"It still runs. Give it longer with --timeout, or end it with nvh stop --force "+v.Name()+".")
	}
}

// overtaken is the error of a verb whose VM an outage stopped first.
func (v *VM) overtaken(verb string) error {
	return WithRemedy(fmt.Errorf("%s: %s: an outage came first: %w", v.Name(), verb, ErrState),
		"When it is over, say so with nvh outage clear and try again.")
}

// tellStop ends the wait of a Stop whose guest a save has stopped.
func (v *VM) tellStop() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.stopping != nil {
		close(v.stopping)
		v.stopping = nil
	}
}

func (v *VM) noteStopped(note string) error {
	if v.area != nil {
		if _, err := v.area.MarkStopped(note); err != nil {
			return err
		}
	}
	v.setState(Stopped, "")
	return nil
}

// endProcess kills QEMU, if there is one, and lets go of it.
func (v *VM) endProcess() {
	v.mu.Lock()
	p := v.process
	v.mu.Unlock()
	if p == nil {
		return
	}
	if err := p.Kill(); err != nil {
		v.env.Log.Error("end QEMU", "vm", v.Name(), "pid", p.PID(), "error", err)
	}
	v.forget()
	os.Remove(v.runtimePath())
}

// forget lets go of the process, dead or alive.
func (v *VM) forget() {
	v.mu.Lock()
	p, t := v.process, v.target
	v.process, v.target, v.startedAt = nil, nil, time.Time{}
	v.mu.Unlock()
	if t != nil {
		v.env.Saver.Detach(t)
		t.Close()
	}
	if p != nil {
		p.Close()
	}
}

// Pause stops the vCPUs until Unpause.
func (v *VM) Pause(ctx context.Context) error {
	end, err := v.begin("pause")
	if err != nil {
		return err
	}
	defer end()
	p := v.Process()
	if s := v.State(); s != Running || p == nil {
		return v.wrongState("pause", "Only a running VM can be paused.")
	}
	if err := v.setIntent(IntentPaused); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	if err := p.Stop(ctx); err != nil {
		return errors.Join(fmt.Errorf("%s: pause: %w", v.Name(), err), v.setIntent(IntentRunning))
	}
	v.setRuns(Paused, "")
	return nil
}

// Unpause continues a paused VM.
func (v *VM) Unpause(ctx context.Context) error {
	end, err := v.begin("resume")
	if err != nil {
		return err
	}
	defer end()
	if s := v.State(); s != Paused {
		return v.wrongState("resume", "Only a paused VM can be resumed; nvh start resumes a saved one.")
	}
	v.mu.Lock()
	t := v.target
	v.mu.Unlock()
	if t == nil {
		return v.wrongState("resume", "Its QEMU is gone; boot it with nvh start.")
	}
	// First, so that a daemon killed in between does not take a guest that runs for
	// a paused one.
	if err := v.setIntent(IntentRunning); err != nil {
		return err
	}
	if v.hasImage() { // from an outage while it was paused
		return v.goOn(ctx)
	}
	if err := v.env.Saver.Cont(t, nil, false); err != nil {
		return errors.Join(fmt.Errorf("%s: resume: %w", v.Name(), err), v.setIntent(IntentPaused))
	}
	v.setRuns(Running, "")
	return nil
}

// Close lets go of the VM when the daemon ends; QEMU goes on without us.
func (v *VM) Close() {
	v.mu.Lock()
	v.closed = true
	v.mu.Unlock()
	v.forget()
	v.watchers.Wait()
	v.unmapState()
}
