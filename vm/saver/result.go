package saver

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Step is one named step of a save, in CLOCK_MONOTONIC nanoseconds.
type Step struct {
	Name       string
	Start, End int64
}

// VMResult is what a save did to one VM.
type VMResult struct {
	Name      string
	Priority  int
	Volatile  bool
	Committed bool // its record is in NVRAM
	Paused    bool // a volatile VM was stopped
	Err       error
	StateSize int
	Steps     []Step
}

// Announcement is who announced an outage, and why.
type Announcement struct {
	Source string
	Tier   string // how much time the source leaves: that of detectors here is "emergency"
	Cause  string // empty for the source's only one
}

// tierEmergency is the tier of sources that the thread listens to itself.
const tierEmergency = "emergency"

// Result is one run of the sequence.
type Result struct {
	ID     string
	Outage bool // announced by a detector
	Announcement
	EventNS int64 // CLOCK_MONOTONIC of the event
	WokenNS int64 // when the saver's thread took it up
	Parked  Step  // the host was blocked after the last commit; zero: it was not
	VMs     []VMResult

	source int
	raw    []rawResult
}

// rawResult is what the thread notes; decode turns it into VMResults afterwards.
type rawResult struct {
	target  *Target
	times   times
	phase   phase
	failure failure
	length  int
	detail  [detailSize]byte
	said    int
}

func newResult(targets int) *Result { return &Result{raw: make([]rawResult, 0, targets)} }

// report notes what happened, without allocating; decode reads it elsewhere.
func (s *Saver) report(tr *trigger) {
	r := s.free[len(s.free)-1]
	s.free = s.free[:len(s.free)-1]
	r.Outage, r.source, r.EventNS, r.WokenNS = tr.outage, tr.source, tr.eventNS, tr.wokenNS
	r.Announcement = tr.announced
	r.Parked = Step{Name: "park", Start: tr.parkedNS, End: tr.unparkedNS}
	r.raw = r.raw[:0]
	for _, t := range s.targets {
		if !t.selected(tr) {
			continue
		}
		r.raw = append(r.raw, rawResult{target: t, times: t.times, phase: t.phase, failure: t.failure, length: t.length})
		r.raw[len(r.raw)-1].said = copy(r.raw[len(r.raw)-1].detail[:], t.detail)
		t.commit, t.live = nil, t.opt.Volatile // the commit is used up
		t.released.Store(false)
	}
	s.result = r
}

// publish tells of an outage, after its last commit.
func (s *Saver) publish() {
	s.decode(s.result)
	s.outage <- s.result
	s.tellPowerBack()
}

// decode gives a result its readable form, after the last commit.
func (s *Saver) decode(r *Result) {
	r.ID = string(s.trigger.id[:s.trigger.idLen])
	if r.source >= 0 {
		r.Announcement = Announcement{Source: s.sources[r.source].Name(), Tier: tierEmergency}
	}
	for i := range r.raw {
		r.VMs = append(r.VMs, r.raw[i].decode())
	}
	s.free = append(s.free, newResult(len(s.targets)))
}

func (raw *rawResult) decode() VMResult {
	t := raw.target
	v := VMResult{
		Name: t.opt.Name, Priority: t.opt.Priority, Volatile: t.opt.Volatile,
		Committed: raw.phase == phaseCommitted,
		Paused:    t.opt.Volatile && raw.phase == phaseStopped,
		StateSize: raw.length,
	}
	if raw.phase == phaseFailed {
		v.Err = fmt.Errorf("%s: %s", t.opt.Name, raw.failure.text(t, raw.detail[:raw.said]))
	}
	tm := raw.times
	dump := max(tm.dumpSent, tm.stopped)
	for _, st := range []Step{
		{"stop", tm.stopSent, tm.stopped}, {"dump", dump, tm.dumped}, {"check", tm.dumped, tm.checked},
		{"copy", tm.checked, tm.copied}, {"flush", tm.flushing, tm.flushed}, {"commit", max(tm.copied, tm.flushed), tm.committed},
	} {
		if st.Start != 0 && st.End != 0 {
			v.Steps = append(v.Steps, st)
		}
	}
	return v
}

func (f failure) text(t *Target, detail []byte) string {
	switch f {
	case failUnarmed:
		return "was not armed for a save when the outage came"
	case failSend:
		return "stop could not be sent: QEMU does not read its emergency monitor"
	case failGone:
		return "QEMU died or closed its emergency monitor"
	case failRefused:
		return fmt.Sprintf("QEMU refused stop or migrate: %s", detail)
	case failDump:
		return fmt.Sprintf("QEMU failed to write the volatile state (see its log; raise state_size if it says no space or not permitted): %s", detail)
	case failTimeout:
		return "QEMU did not finish in time"
	case failStream:
		return "the dumped state is not a whole migration stream; it was not committed"
	case failSize:
		return fmt.Sprintf("the volatile state is larger than its slot of %d bytes: raise state_size", t.opt.Capacity)
	case failDisk:
		return "a disk image could not be examined"
	case failCommit:
		return "NVRAM reported an error while the state was written"
	case failCaches:
		return "the CPU caches in front of its memory could not be written back; it was not committed"
	}
	return "unknown failure"
}

// triggered looks for a detector among the descriptors that are ready.
func (s *Saver) triggered(n int) bool {
	for i := range n {
		fd := s.events[i].Fd
		if s.byFD[fd] != nil {
			continue
		}
		source, event, at := s.hear(fd)
		switch {
		case event == Outage && !s.active:
			s.trigger.announce(source, at)
		case event == PowerBack && s.active:
			s.powerBack = true
			s.tellPowerBack()
		case event == Test:
			select {
			case s.tests <- TestResult{s.sources[source].Name(), time.Duration(monotonic() - at)}:
			default:
			}
		}
	}
	return s.trigger.armed
}

// hear reads a descriptor that is ready, and reports what a detector announces there,
// and which detector.
func (s *Saver) hear(fd int32) (source int, event Event, eventNS int64) {
	k, err := unix.Read(int(fd), s.input)
	if err == unix.EAGAIN || err == unix.EINTR {
		return 0, None, 0
	}
	for i := range s.sources {
		d := &s.sources[i]
		if int32(d.FD()) != fd || d.dead {
			continue
		}
		if k <= 0 { // it would be ready for ever
			d.dead = true
			unix.EpollCtl(s.epoll, unix.EPOLL_CTL_DEL, int(fd), nil)
			return 0, None, 0
		}
		event, eventNS = d.Decode(s.input[:k])
		return i, event, eventNS
	}
	return 0, None, 0
}

// tellPowerBack passes the news on, once an outage.
func (s *Saver) tellPowerBack() {
	if !s.powerBack {
		return
	}
	s.powerBack = false
	select {
	case s.back <- string(s.trigger.id[:s.trigger.idLen]):
	default:
	}
}

// announce makes the trigger an outage, of all VMs, that is to begin.
func (tr *trigger) announce(source int, eventNS int64) {
	tr.armed, tr.outage, tr.source, tr.eventNS, tr.only = true, true, source, eventNS, nil
	tr.announced = Announcement{}
	tr.parkedNS, tr.unparkedNS = 0, 0
	tr.name(time.Now())
}

// name gives the save its id: the wall-clock time and what it is.
func (tr *trigger) name(now time.Time) {
	id := now.UTC().AppendFormat(tr.id[:0], "20060102T150405.000000Z")
	if tr.outage {
		id = append(id, "-outage"...)
	} else {
		id = append(id, "-save"...)
	}
	tr.idLen = len(id)
}

// Simulate starts an outage as a detector would. The result also goes to Outages.
// eventNS is CLOCK_MONOTONIC of the request.
func (s *Saver) Simulate(ctx context.Context, eventNS int64) error {
	_, err := s.Announce(ctx, Announcement{Source: "simulate", Tier: tierEmergency}, eventNS)
	return err
}

// Announce is Simulate for a source of another kind. It returns the outage's id
// and does not wait for the saves.
func (s *Saver) Announce(ctx context.Context, a Announcement, eventNS int64) (id string, err error) {
	err = s.call(ctx, func() error {
		if s.active {
			return ErrOutage
		}
		s.trigger.announce(-1, eventNS)
		s.trigger.announced = a
		id = string(s.trigger.id[:s.trigger.idLen])
		return nil
	})
	return id, err
}

// Save saves one VM, or all with nil, because an operator asked. The guests stay
// stopped; the caller ends their QEMUs or voids the images and continues them. An
// outage that comes meanwhile takes the save over: the error is then ErrOutage.
func (s *Saver) Save(ctx context.Context, only *Target) (*Result, error) {
	var result *Result
	err := s.call(ctx, func() error {
		if s.active {
			return ErrOutage
		}
		if only != nil && !only.attached {
			return fmt.Errorf("%s: QEMU's emergency monitor is gone", only.Name())
		}
		s.trigger = trigger{source: -1, announced: Announcement{Source: "operator"}, only: only, eventNS: monotonic()}
		s.trigger.name(time.Now())
		s.run()
		if s.trigger.outage { // its result goes to Outages, and has it all
			s.publish()
			return ErrOutage
		}
		s.decode(s.result)
		result = s.result
		return nil
	})
	return result, err
}

// InOutage tells whether an outage lasts; it waits for the end of a save.
func (s *Saver) InOutage() (lasts bool, err error) {
	err = s.call(context.Background(), func() error {
		lasts = s.active
		return nil
	})
	return lasts, err
}

// Clear ends an outage: from now on guests may run again. It lowers the threads
// that the save raised.
func (s *Saver) Clear() error {
	return s.call(context.Background(), func() error {
		s.active, s.powerBack = false, false
		select {
		case <-s.back: // news of this outage
		default:
		}
		for _, t := range s.targets {
			s.lower(t)
		}
		return nil
	})
}

func (s *Saver) lower(t *Target) {
	if !t.raised {
		return
	}
	t.raised = false
	for _, th := range t.threads {
		setOther(th.ID)
	}
}
