package suite

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/bench/power"
	"github.com/nv-hypervisor/nv-hypervisor/bench/report"
	"github.com/nv-hypervisor/nv-hypervisor/host"
	"github.com/nv-hypervisor/nv-hypervisor/lab/guest"
	"github.com/nv-hypervisor/nv-hypervisor/lab/rig"
	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/outage"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
	"github.com/nv-hypervisor/nv-hypervisor/vm/record"
	"github.com/nv-hypervisor/nv-hypervisor/vm/saver"
)

// product is a host of its own that runs a scenario's VMs under nvhd.
type product struct {
	*rig.Rig
	scenario scenario
	dark     bool // an outage lasts
	events   <-chan host.Event
	silence  context.CancelFunc // ends events
}

// openProduct boots the host and its guests, up to their first line of output.
func openProduct(ctx context.Context, bin, qemu string, s scenario) (*product, error) {
	each := s.memory + record.RegionSize(vm.DefaultStateSize) + nvram.Alignment
	const tables = 64 * nvram.MiB
	r, err := rig.New(ctx, rig.Options{Bin: bin, QEMU: qemu, Size: nvram.Bytes(s.vms)*each + tables})
	if err != nil {
		return nil, err
	}
	p := &product{Rig: r, scenario: s, silence: func() {}}
	if err := p.boot(ctx); err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

func (p *product) boot(ctx context.Context) error {
	if err := p.Boot(ctx); err != nil {
		return err
	}
	for _, name := range p.names() {
		if err := p.Launch(ctx, p.Guest(name, p.scenario.memory)); err != nil {
			return err
		}
	}
	for _, name := range p.names() {
		if _, err := p.AwaitTick(ctx, name, 0, func(guest.Tick) bool { return true }); err != nil {
			return err
		}
	}
	return nil
}

func (p *product) names() []string {
	var names []string
	for i := range p.scenario.vms {
		names = append(names, fmt.Sprintf("vm%d", i))
	}
	return names
}

func (p *product) close() error {
	p.silence()
	return p.Close()
}

// run lets the guests run, by ending the outage, and listens for the next.
func (p *product) run(ctx context.Context) error {
	if p.dark {
		if _, err := p.Client().Clear(ctx); err != nil {
			return err
		}
		p.dark = false
	}
	p.silence()
	listening, cancel := context.WithCancel(ctx)
	p.silence = cancel
	var err error
	p.events, err = p.Client().Subscribe(listening)
	return err
}

// save announces an outage and waits until all is over. Nothing asks the daemon
// anything meanwhile; what happened when is in the timeline it keeps.
func (p *product) save(ctx context.Context) (sample, error) {
	event, err := power.Announce(p.DaemonPID())
	if err != nil {
		return nil, err
	}
	p.dark = true
	id, err := p.awaitOutage(ctx)
	if err != nil {
		return nil, err
	}
	t, err := p.Client().Outage(ctx, id)
	if err != nil {
		return nil, err
	}
	return savedSample(t, event, p.scenario.vms)
}

// saveLimit is far beyond any save, the longest that the daemon waits for included.
const saveLimit = 30 * time.Second

func (p *product) awaitOutage(ctx context.Context) (id string, err error) {
	ctx, cancel := context.WithTimeout(ctx, saveLimit)
	defer cancel()
	for {
		select {
		case e, ok := <-p.events:
			if !ok {
				return "", errors.New("the daemon's event stream ended")
			}
			if e.Type == "outage-committed" {
				return e.Data["id"], nil
			}
		case <-ctx.Done():
			return "", fmt.Errorf("wait for the outage to be noted: %w", ctx.Err())
		}
	}
}

// restart saves, cuts the power, and starts the daemon again.
func (p *product) restart(ctx context.Context) (sample, error) {
	if _, err := p.save(ctx); err != nil {
		return nil, err
	}
	p.silence()
	if err := p.Cut(); err != nil {
		return nil, err
	}
	begin := saver.Now()
	if err := p.Start(ctx); err != nil {
		return nil, err
	}
	p.dark = false
	t, err := p.awaitRecovery(ctx, begin)
	if err != nil {
		return nil, err
	}
	return restartSample(t, begin, p.scenario.vms)
}

// recoveryPoll is long, because every question takes the daemon time that is being measured.
const recoveryPoll = 20 * time.Millisecond

// awaitRecovery waits for the timeline of a recovery that began after begin.
func (p *product) awaitRecovery(ctx context.Context, begin int64) (outage.Timeline, error) {
	ctx, cancel := context.WithTimeout(ctx, saveLimit)
	defer cancel()
	for {
		if err := pause(ctx, recoveryPoll); err != nil {
			return outage.Timeline{}, fmt.Errorf("wait for recovery: %w", err)
		}
		t, err := p.Client().Outage(ctx, "latest")
		if err != nil {
			return t, err
		}
		if t.Kind == "recovery" && t.EventNS > begin {
			return t, nil
		}
	}
}

// savedSample reads a save's durations from its timeline. They count from event,
// which was before the timeline's own.
func savedSample(t outage.Timeline, event int64, vms int) (sample, error) {
	delay := time.Duration(t.EventNS - event)
	s := sample{}
	if len(t.VMs) != vms || delay < 0 {
		return nil, fmt.Errorf("timeline %s: %d VMs, %v after the signal", t.ID, len(t.VMs), delay)
	}
	for _, v := range t.VMs {
		steps := stepsOf(v.Steps)
		if v.Outcome != "committed" || steps["stop"].End == 0 || steps["commit"].End == 0 {
			return nil, fmt.Errorf("timeline %s: VM %s: %s %s", t.ID, v.Name, v.Outcome, v.Reason)
		}
		s.least(report.FirstStop, delay+steps["stop"].Start.Duration())
		s.least(report.FirstCommit, delay+steps["commit"].End.Duration())
		s.most(report.Commit, delay+steps["commit"].End.Duration())
		if vms == 1 {
			s.addSteps(steps)
		}
	}
	s[report.Step("wake")] = delay + stepsOf(t.Steps)["wake"].End.Duration()
	return s, nil
}

// restartSample is the same for a recovery.
func restartSample(t outage.Timeline, begin int64, vms int) (sample, error) {
	delay := time.Duration(t.EventNS - begin)
	s := sample{}
	if len(t.VMs) != vms {
		return nil, fmt.Errorf("timeline %s: %d VMs", t.ID, len(t.VMs))
	}
	for _, v := range t.VMs {
		steps := stepsOf(v.Steps)
		if v.Outcome != string(vm.Resumed) || steps["cont"].End == 0 {
			return nil, fmt.Errorf("timeline %s: VM %s: %s %s", t.ID, v.Name, v.Outcome, v.Reason)
		}
		s.least(report.FirstRunning, delay+steps["cont"].End.Duration())
		s.most(report.Running, delay+steps["cont"].End.Duration())
		if vms == 1 {
			s.addSteps(steps)
		}
	}
	s[report.Step("open")] = delay + stepsOf(t.Steps)["open"].End.Duration()
	return s, nil
}

func stepsOf(list []outage.Step) map[string]outage.Step {
	steps := map[string]outage.Step{}
	for _, s := range list {
		steps[s.Name] = s
	}
	return steps
}

func (s sample) addSteps(steps map[string]outage.Step) {
	for name, step := range steps {
		s[report.Step(name)] = (step.End - step.Start).Duration()
	}
}

func (s sample) least(m report.Measure, d time.Duration) {
	if have, ok := s[m]; !ok || d < have {
		s[m] = d
	}
}

func (s sample) most(m report.Measure, d time.Duration) { s[m] = max(s[m], d) }
