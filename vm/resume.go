package vm

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/qemu"
	"github.com/nv-hypervisor/nv-hypervisor/vm/record"
	"github.com/nv-hypervisor/nv-hypervisor/vm/saver"
)

// Restore resumes the image, and fails where there is none.
func (v *VM) Restore(ctx context.Context) ([]saver.Step, error) {
	end, err := v.begin("restore")
	if err != nil {
		return nil, err
	}
	defer end()
	if s := v.State(); v.Process() != nil || (s != Saved && !s.restartable()) {
		return nil, v.wrongState("restore", "")
	}
	if !v.hasImage() {
		return nil, WithRemedy(fmt.Errorf("%s: restore: there is no saved image: %w", v.Name(), ErrState),
			"Boot it with nvh start "+v.Name()+".")
	}
	if err := v.setIntent(IntentRunning); err != nil {
		return nil, err
	}
	return v.resume(ctx)
}

// image is everything a resume needs, verified.
type image struct {
	record  record.Record
	encoded []byte // the launch record
	launch  launchRecord
	state   []byte
}

// resume continues the guest from its image. The steps are those of the timeline.
// An image that does not match is refused (ErrRefused) and the VM held, and so is
// one in memory that cannot be trusted (nvram.ErrUnhealthy); one that cannot be loaded
// just now is left as it is, to be tried again.
func (v *VM) resume(ctx context.Context) ([]saver.Step, error) {
	ctx, cancel := v.withLimit(ctx)
	defer cancel()
	var trace trace
	v.setState(Restoring, "")
	err := v.twice(func() error { return v.tryResume(ctx, &trace) })
	switch {
	case err == nil:
		state := Running
		if v.intent() == IntentPaused {
			state = Paused
		}
		v.setRuns(state, "")
		v.env.Notify("devices-restored", v.Name(), nil)
	case errors.Is(err, ErrRefused), errors.Is(err, nvram.ErrUnhealthy):
		v.mu.Lock()
		v.refusal = reasonOf(err)
		v.mu.Unlock()
		v.env.Notify("image-refused", v.Name(), map[string]string{"reason": reasonOf(err)})
		v.setState(Held, reasonOf(err))
	case v.hasImage():
		v.setState(Saved, "restore failed, the image is intact: "+err.Error())
	default:
		v.setState(Failed, err.Error())
	}
	return trace.steps, err
}

func (v *VM) tryResume(ctx context.Context, trace *trace) error {
	if err := errors.Join(v.checkCaches(), v.checkMemory()); err != nil {
		return err
	}
	var img image
	if err := trace.do("validate", func() (err error) { img, err = v.validate(ctx); return err }); err != nil {
		return err
	}
	var p *qemu.Process
	err := trace.do("spawn", func() (err error) { p, err = v.spawn(ctx, img.launch.Launch, img.encoded, true); return err })
	if err != nil {
		return err
	}
	if err := trace.do("load", func() error { return v.load(ctx, p, img.state) }); err != nil {
		return errors.Join(err, v.abandon(p))
	}
	mark := func() error {
		return trace.do("mark", func() error { _, err := v.area.MarkResumed(img.record); return err })
	}
	err = trace.do("cont", func() error {
		return v.release(ctx, p, img.launch.Launch, mark, v.intent() == IntentPaused, false)
	})
	if err != nil {
		return errors.Join(err, v.abandon(p))
	}
	return nil
}

// load hands the state to the waiting QEMU.
func (v *VM) load(ctx context.Context, p *qemu.Process, state []byte) error {
	fd, err := unix.MemfdCreate("nvh-load-"+v.Name(), unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("%s: memfd_create: %w", v.Name(), err)
	}
	f := os.NewFile(uintptr(fd), "state of "+v.Name())
	defer f.Close()
	if _, err := f.WriteAt(state, 0); err != nil {
		return fmt.Errorf("%s: buffer the state: %w", v.Name(), err)
	}
	if err := p.Load(ctx, f); err != nil {
		return fmt.Errorf("%s: load the state: %w", v.Name(), err)
	}
	return nil
}

// validate decides whether the image may be resumed: everything must match.
func (v *VM) validate(ctx context.Context) (image, error) {
	var img image
	var err error
	refuse := func(reasons ...string) (image, error) {
		return image{}, &refusal{vm: v.Name(), reasons: reasons}
	}
	if img.record, err = v.area.Latest(); err != nil {
		return refuse(err.Error())
	}
	region, err := v.pool.Region(v.ramName())
	if err == nil {
		err = v.pool.Verify(region)
	}
	if err != nil {
		return refuse("The RAM region is not as it was: " + err.Error())
	}
	if seen := v.generation(); img.record.Generation < seen {
		return refuse(fmt.Sprintf("The image is of generation %d, which was already resumed: this VM has reached generation %d since.", img.record.Generation, seen))
	}
	if img.encoded, err = v.area.Launch(); err != nil {
		return refuse(err.Error())
	}
	if img.launch, err = decodeLaunch(img.encoded); err != nil {
		return refuse(err.Error())
	}
	if img.state, err = v.area.State(); err != nil {
		return refuse(err.Error())
	}
	binary, err := qemu.Probe(ctx, img.launch.Launch.QEMU)
	if err != nil {
		return image{}, fmt.Errorf("%s: %w", v.Name(), err) // QEMU missing: the image is not in doubt
	}
	dirtyShutdowns, err := v.dirtyShutdowns()
	if err != nil {
		return image{}, err // not in doubt either
	}
	facts := record.Facts{
		RAM: region.ID, RAMSize: region.Size, QEMUVersion: binary.Version, DirtyShutdown: dirtyShutdowns,
		LaunchSHA256: sha256.Sum256(img.encoded), Disks: examineDisks(img.launch.Launch.Disks),
	}
	var reasons []string
	for _, r := range record.Mismatch(img.record, facts) {
		reasons = append(reasons, r.Text)
	}
	if err := img.launch.Launch.CheckProcessor(); errors.Is(err, qemu.ErrProcessor) {
		reasons = append(reasons, "The host's processor is not the one it was saved on: "+err.Error()+".")
	} else if err != nil {
		return image{}, fmt.Errorf("%s: %w", v.Name(), err)
	}
	if img.launch.Launch.Version != img.record.QEMUVersion {
		reasons = append(reasons, "The launch record and the save record name different QEMU versions.")
	}
	if len(reasons) > 0 {
		return refuse(reasons...)
	}
	return img, nil
}

// refusal is an ErrRefused with its reasons.
type refusal struct {
	vm      string
	reasons []string
}

func (r *refusal) Error() string {
	return fmt.Sprintf("%s: %v: %s", r.vm, ErrRefused, strings.Join(r.reasons, " "))
}

func (r *refusal) Unwrap() error { return ErrRefused }

func reasonOf(err error) string {
	if r, ok := errors.AsType[*refusal](err); ok {
		return strings.Join(r.reasons, " ")
	}
	return err.Error()
}

// trace collects the steps of a resume.
type trace struct{ steps []saver.Step }

func (t *trace) do(name string, fn func() error) error {
	start := saver.Now()
	err := fn()
	t.steps = append(t.steps, saver.Step{Name: name, Start: start, End: saver.Now()})
	return err
}
