package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/qemu"
	"github.com/nv-hypervisor/nv-hypervisor/qmp"
	"github.com/nv-hypervisor/nv-hypervisor/vm/record"
	"github.com/nv-hypervisor/nv-hypervisor/vm/saver"
)

// launchRecord is what a resume uses, stored in the pool beside the image: the
// definition on disk may have been edited since, or may be on another host.
type launchRecord struct {
	Format     int         `json:"format"` // 1
	Definition Definition  `json:"definition"`
	Launch     qemu.Launch `json:"launch"`
}

func decodeLaunch(p []byte) (launchRecord, error) {
	var r launchRecord
	if err := json.Unmarshal(p, &r); err != nil {
		return r, fmt.Errorf("launch record: %w", err)
	}
	if r.Format != 1 {
		return r, fmt.Errorf("launch record has format %d, this version knows 1: use a newer one", r.Format)
	}
	return r, nil
}

// Start brings the VM to run: it resumes its image, or boots cold where there is
// none. An image that may not be resumed is an error, unless discard gives it up.
func (v *VM) Start(ctx context.Context, discard bool) error {
	end, err := v.begin("start")
	if err != nil {
		return err
	}
	defer end()
	s := v.State()
	image := v.hasImage() && !discard
	switch {
	case s != Saved && !s.restartable():
		return v.wrongState("start", "")
	case v.Process() != nil:
		return v.startStopped(ctx, discard)
	case s == Held && image:
		return WithRemedy(fmt.Errorf("%s: start: %w: %s", v.Name(), ErrRefused, v.Info().Reason),
			"Remove the cause and run nvh restore "+v.Name()+", or give the image up with nvh start --discard-image "+v.Name()+".")
	}
	if err := v.checkMemory(); err != nil {
		return err
	}
	if err := v.setIntent(IntentRunning); err != nil {
		return err
	}
	if image {
		_, err := v.resume(ctx)
		return err
	}
	return v.coldBoot(ctx, "")
}

// startStopped continues a VM whose QEMU a save has stopped, where the end of the
// outage could not.
func (v *VM) startStopped(ctx context.Context, discard bool) error {
	lasts, err := v.env.Saver.InOutage()
	switch {
	case err != nil:
		return err
	case lasts:
		return v.wrongState("start", "Its QEMU still waits for the outage to end: nvh outage clear")
	case discard:
		return v.wrongState("start", "Its QEMU is still there: continue it with nvh start, without --discard-image.")
	}
	if err := v.setIntent(IntentRunning); err != nil {
		return err
	}
	return v.goOn(ctx)
}

func (v *VM) hasImage() bool {
	if v.area == nil {
		return false
	}
	rec, err := v.area.Latest()
	return err == nil && rec.Status == record.StatusSaved
}

// coldBoot starts the guest from its reset vector. Whatever image there was is
// gone once the guest runs. why tells what made it necessary, if anything did.
func (v *VM) coldBoot(ctx context.Context, why string) error {
	ctx, cancel := v.withLimit(ctx)
	defer cancel()
	v.reload()
	v.setState(Starting, why)
	err := v.twice(func() error { return v.tryBoot(ctx) })
	if err != nil {
		v.setState(Failed, err.Error())
		return err
	}
	v.setRuns(Running, why)
	return nil
}

// reload takes up the definition as the operator has edited it. What cannot
// change without new regions stays.
func (v *VM) reload() {
	def, err := v.readDefinition()
	if err == nil {
		err = v.checkFixed(def)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case err != nil:
		v.warn("the edited definition is not used: %v", err)
	default:
		v.def = def
	}
}

// warn adds a warning that Info shows; v.mu is held.
func (v *VM) warn(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	for _, w := range v.warnings {
		if w == text {
			return
		}
	}
	v.warnings = append(v.warnings, text)
	v.env.Notify("warning", v.name, map[string]string{"warning": text})
}

func (v *VM) tryBoot(ctx context.Context) error {
	if err := errors.Join(v.checkCaches(), v.checkMemory()); err != nil {
		return err
	}
	launch, err := v.pin(ctx)
	if err != nil {
		return err
	}
	encoded, err := json.Marshal(launchRecord{Format: 1, Definition: v.def, Launch: launch})
	if err != nil {
		return err
	}
	var ref record.LaunchRef
	if v.area != nil {
		if ref, err = v.area.WriteLaunch(encoded); err != nil {
			return err
		}
	}
	p, err := v.spawn(ctx, launch, encoded, false)
	if err != nil {
		return err
	}
	mark := func() error {
		if v.area == nil {
			return nil
		}
		_, err := v.area.MarkRunning(ref)
		return err
	}
	if err := v.release(ctx, p, launch, mark, false, false); err != nil {
		return errors.Join(err, v.abandon(p))
	}
	return nil
}

// spawn starts a QEMU whose guest does not run yet, and remembers it for a
// restarted daemon before it may.
func (v *VM) spawn(ctx context.Context, launch qemu.Launch, encoded []byte, incoming bool) (*qemu.Process, error) {
	if err := os.MkdirAll(v.runtimeDir(), 0o750); err != nil {
		return nil, fmt.Errorf("%s: make its runtime folder: %w", v.Name(), err)
	}
	if err := os.MkdirAll(v.dir(), 0o750); err != nil {
		return nil, fmt.Errorf("%s: make its folder: %w", v.Name(), err)
	}
	// A file of an earlier process would keep a QEMU that is not in it from
	// being recognised as one whose guest never ran; without it, one that is there
	// would be.
	if err := v.refuseSecond(); err != nil {
		return nil, err
	}
	if err := os.Remove(v.runtimePath()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	rt, err := v.runtime(incoming)
	if err != nil {
		return nil, err
	}
	if !incoming {
		if err := endLine(rt.ConsoleLog); err != nil {
			v.env.Log.Warn("end the last line of the console's log", "vm", v.Name(), "error", err)
		}
	}
	p, err := qemu.Start(ctx, launch, rt)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", v.Name(), err)
	}
	if err := v.writeRuntime(runtimeFile{PID: p.PID(), StartTime: p.StartTime(), Launch: encoded}); err != nil {
		return nil, errors.Join(err, p.Kill(), p.Close())
	}
	return p, nil
}

// endLine ends the line in which a guest was cut off: what the next boot prints begins one of its own. A guest that is resumed
// goes on where it was.
func endLine(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() == 0 {
		return err
	}
	last := make([]byte, 1)
	if _, err := f.ReadAt(last, info.Size()-1); err != nil || last[0] == '\n' {
		return err
	}
	_, err = f.WriteString("\n")
	return err
}

// refuseSecond fails when a QEMU is there that was remembered.
func (v *VM) refuseSecond() error {
	if _, err := os.Stat(v.runtimePath()); err != nil {
		return nil
	}
	pid, _, err := qemu.Find(qemu.Runtime{Dir: v.runtimeDir()})
	if errors.Is(err, qemu.ErrGone) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", v.Name(), err)
	}
	return WithRemedy(fmt.Errorf("%s: its QEMU (pid %d) is still there: %w", v.Name(), pid, ErrState),
		"Restart nvhd, which takes it over, or end the QEMU by hand.")
}

func (v *VM) runtime(incoming bool) (qemu.Runtime, error) {
	rt := qemu.Runtime{
		Dir: v.runtimeDir(), Log: v.QEMULog(), ConsoleLog: v.ConsoleLog(),
		Incoming: incoming, Paused: true, User: v.env.User,
	}
	if v.pool == nil {
		return rt, nil
	}
	region, err := v.pool.Region(v.ramName())
	if err != nil {
		return rt, fmt.Errorf("%s: %w", v.Name(), err)
	}
	if err := v.pool.Verify(region); err != nil {
		return rt, fmt.Errorf("%s: %w", v.Name(), err)
	}
	rt.RAM = &qemu.Backing{Path: region.Path, Offset: region.Offset, Align: v.pool.Info().Unit}
	return rt, nil
}

// release prepares the VM's next save, marks it running and lets its guest run
// (or, with paused, be ready to), as one step with respect to outages. The guest of
// an adopted QEMU runs already.
func (v *VM) release(ctx context.Context, p *qemu.Process, launch qemu.Launch, mark func() error, paused, adopted bool) error {
	t, err := v.connect(ctx, p, launch, adopted)
	if err != nil {
		return err
	}
	if err := v.continueTarget(ctx, p, launch, t, mark, paused); err != nil {
		v.env.Saver.Detach(t)
		t.Close()
		return err
	}
	if err := v.noteGeneration(); err != nil {
		v.env.Log.Warn("remember the generation", "vm", v.Name(), "error", err)
	}
	return v.keep(p, launch, t)
}

// keep makes a process the VM's own, and follows it from now on.
func (v *VM) keep(p *qemu.Process, launch qemu.Launch, t *saver.Target) error {
	v.mu.Lock()
	closed := v.closed
	if !closed {
		v.process, v.target, v.launch, v.startedAt = p, t, &launch, time.Now()
		v.refusal = ""
		v.watchers.Add(1)
	}
	v.mu.Unlock()
	if closed { // the daemon ends, and lets go of its guests
		v.env.Saver.Detach(t)
		t.Close()
		return p.Close()
	}
	go v.watch(p)
	return nil
}

// connect opens the emergency monitor and hands it to the saver.
func (v *VM) connect(ctx context.Context, p *qemu.Process, launch qemu.Launch, adopted bool) (*saver.Target, error) {
	opt := saver.Options{
		Name: v.Name(), Priority: v.def.Priority, Volatile: v.pool == nil,
		Socket: p.EmergencyPath(), FileURI: p.DumpsToFile(), Adopted: adopted,
	}
	if v.pool != nil {
		opt.Capacity = int(v.area.Identity().SlotSize)
		if err := v.checkBound(ctx, p, opt.Capacity); err != nil {
			return nil, err
		}
		disks, err := openDisks(launch.Disks)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", v.Name(), err)
		}
		opt.Disks = disks
		v.prepareCaches(&opt)
	}
	t, err := saver.Connect(ctx, opt)
	if err != nil {
		return nil, err
	}
	if err := v.env.Saver.Attach(t); err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

// checkBound refuses a VM whose volatile state might not fit its slot: that must
// not be discovered in the dark.
func (v *VM) checkBound(ctx context.Context, p *qemu.Process, capacity int) error {
	bound, err := p.StateBound(ctx)
	if err != nil {
		return fmt.Errorf("%s: find out how large its volatile state may get: %w", v.Name(), err)
	}
	if int(bound) > capacity {
		return WithRemedy(fmt.Errorf("%s: its volatile state may take %v, its slots hold %v: %w", v.Name(), bound, v.def.StateSize, ErrInvalid),
			fmt.Sprintf("Create it again with --state-size %d or more, or with fewer devices that have memory of their own (graphics, firmware flash).", bound))
	}
	return nil
}

// continueTarget arms and releases the guest.
func (v *VM) continueTarget(ctx context.Context, p *qemu.Process, launch qemu.Launch, t *saver.Target, mark func() error, paused bool) error {
	threads, err := v.threads(ctx, p)
	if err != nil {
		return err
	}
	dirtyShutdowns, err := v.dirtyShutdowns()
	if err != nil {
		return err
	}
	if err := v.env.Saver.Arm(t, threads); err != nil {
		return err
	}
	return v.env.Saver.Cont(t, func() (*record.Commit, error) {
		if err := mark(); err != nil {
			return nil, err
		}
		if v.area == nil {
			return nil, nil
		}
		return v.area.Prepare(record.Arming{
			QEMUVersion: launch.Version, BootID: v.env.BootID, Disks: t.DiskIdentities(),
			DirtyShutdown: dirtyShutdowns,
		})
	}, paused)
}

// Priorities of QEMU's threads while it is saved, below the saver's own.
const (
	mainPriority = 10
	vcpuPriority = 5
)

func (v *VM) threads(ctx context.Context, p *qemu.Process) ([]saver.Thread, error) {
	main, vcpus, others, err := p.Threads(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: list QEMU's threads: %w", v.Name(), err)
	}
	threads := []saver.Thread{{ID: main, Priority: mainPriority}}
	for _, id := range others {
		threads = append(threads, saver.Thread{ID: id, Priority: mainPriority})
	}
	for _, id := range vcpus {
		threads = append(threads, saver.Thread{ID: id, Priority: vcpuPriority})
	}
	return threads, nil
}

// dyingLimit bounds how long a QEMU whose monitor has hung up may take to be gone.
const dyingLimit = 100 * time.Millisecond

// abandon ends a QEMU that was never released.
func (v *VM) abandon(p *qemu.Process) error {
	var died error
	select {
	case <-p.Exited():
		died = fmt.Errorf("%s: %w before its guest could run: %s", v.Name(), qemu.ErrDied, p.ExitReason())
	case <-time.After(dyingLimit):
	}
	err := errors.Join(died, p.Kill(), p.Close())
	os.Remove(v.runtimePath())
	return err
}

// twice tries a start or a resume once more when QEMU has died of it, which the next one need not: QEMU has been seen to crash in
// its first moments, one time in thousands. A state that QEMU refuses is not tried again, nor an image that was used up before
// its guest could run: there is nothing left to resume.
func (v *VM) twice(try func() error) error {
	err := try()
	refused := errors.Is(err, qemu.ErrLoad) && !errors.Is(err, qmp.ErrDisconnected)
	if !errors.Is(err, qemu.ErrDied) || refused || v.pool != nil && v.State() == Restoring && !v.hasImage() {
		return err
	}
	v.env.Log.Warn("QEMU died while it was started, trying once more", "vm", v.Name(), "error", err)
	v.mu.Lock()
	v.warn("QEMU died while it was started and was started once more: %v", err)
	v.mu.Unlock()
	return try()
}

// keepAside moves a refused image out of the way of a cold boot: its regions get
// another name, and the VM new ones.
func (v *VM) keepAside() error {
	aside := v.asideName()
	names := map[string]string{v.ramName(): aside + ".ram", v.stateName(): aside + ".state"}
	v.unmapState()
	if err := v.pool.Rename(names); err != nil {
		return errors.Join(fmt.Errorf("%s: keep the image aside: %w", v.Name(), err), v.openArea())
	}
	err := v.allocate()
	if err == nil {
		return nil
	}
	back := map[string]string{}
	for old, new := range names {
		back[new] = old
	}
	err = errors.Join(fmt.Errorf("%s: keep the refused image aside: %w", v.Name(), err), v.pool.Rename(back), v.openArea())
	return WithRemedy(err, "Free space in the pool, or give the image up with nvh start --discard-image "+v.Name()+".")
}

// asideName is a name for a refused image that is still free: NAME.kept-GENERATION.
func (v *VM) asideName() string {
	var n uint64
	if rec, err := v.area.Latest(); err == nil {
		n = rec.Generation
	}
	for ; ; n++ {
		name := fmt.Sprintf("%s%s%d", v.Name(), keptInfix, n)
		_, ram := v.pool.Region(name + ".ram")
		_, state := v.pool.Region(name + ".state")
		if ram != nil && state != nil {
			return name
		}
	}
}
