package saver

import (
	"bytes"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/vm/record"
)

// The save of one target, as the thread sees it:
//
//	running ──stop sent──▶ stopping ──STOP──▶ stopped ──migrate sent──▶ dumping
//	                           │                                          │
//	                           └──────(migrate sent along with stop)──────┤ MIGRATION completed
//	                                                                      ▼
//	        failed ◀── error, timeout, bad dump ──────────────────────  dumped ──▶ committed
//
// A volatile VM ends at stopped.
type phase uint8

const (
	phaseRunning phase = iota
	phaseStopping
	phaseStopped
	phaseDumping
	phaseDumped
	phaseCommitted
	phaseFailed
)

type failure uint8

const (
	failNone    failure = iota
	failUnarmed         // no record or no descriptor was prepared
	failSend            // the monitor's socket took no command
	failGone            // QEMU closed the monitor
	failRefused         // QEMU answered stop or migrate with an error
	failDump            // MIGRATION failed
	failTimeout         // no answer in time
	failStream          // the dump is not a whole migration stream
	failSize            // the dump is larger than the slot
	failDisk            // a disk image could not be examined
	failCommit          // NVRAM reported an error
)

// times are instants of CLOCK_MONOTONIC in nanoseconds; 0 is "did not happen".
type times struct {
	stopSent, stopped, dumpSent, dumped, checked, copied, committed int64
}

// trigger is what starts a save.
type trigger struct {
	armed    bool
	outage   bool // announced by a detector, not asked for by an operator
	source   int  // index of the Source, or -1
	eventNS  int64
	wokenNS  int64
	deadline int64
	only     *Target // one VM, or nil for all
	id       [32]byte
	idLen    int
}

// run is the hot path: from the trigger to the last commit.
func (s *Saver) run() {
	tr := &s.trigger
	tr.armed = false
	s.stopAll(tr, nil)
	for {
		now := monotonic()
		if !s.advance(tr, now) {
			break
		}
		s.receiveAll(tr, s.poll(s.patience(now, tr.deadline)))
	}
	s.report(tr)
}

// stopAll stops what is to be saved, but for one VM that is being saved already.
func (s *Saver) stopAll(tr *trigger, already *Target) {
	tr.wokenNS = monotonic()
	tr.deadline = tr.wokenNS + int64(s.config.Deadline)
	if tr.eventNS == 0 || tr.eventNS > tr.wokenNS {
		tr.eventNS = tr.wokenNS
	}
	if tr.outage {
		s.active = true
	}
	dumps := s.config.InFlight
	if already != nil {
		dumps = 0 // advance counts
	}
	// Volatile VMs first: the CPU time they give up goes to the others.
	for _, t := range s.targets {
		if t != already && t.selected(tr) {
			t.begin()
			if t.opt.Volatile {
				t.sendStop(false)
			}
		}
	}
	for _, t := range s.targets {
		if t == already || t.opt.Volatile || !t.selected(tr) || t.phase == phaseFailed {
			continue
		}
		s.raise(t)
		t.sendStop(dumps > 0)
		dumps--
	}
}

// join makes an operator's save part of the outage that comes in the middle of it.
// The other VMs are stopped at once, and do not wait for a QEMU that may be hung.
func (s *Saver) join(tr *trigger, source int, eventNS int64) {
	already := tr.only
	tr.announce(source, eventNS)
	tr.armed = false // it has begun
	if already != nil {
		s.stopAll(tr, already)
	} else {
		s.active = true
	}
}

// begin resets what the last save left.
func (t *Target) begin() {
	t.times = times{}
	t.setup, t.length, t.failure = false, 0, failNone
	t.detail = t.detail[:0]
	t.phase = phaseRunning
	if !t.opt.Volatile && t.commit == nil {
		t.fail(failUnarmed, nil)
	}
}

// selected leaves out VMs whose guest has not run: they have nothing to save, and
// their image, if any, is intact.
func (t *Target) selected(tr *trigger) bool {
	return t.live && (tr.only == nil || tr.only == t)
}

// sendStop stops the VM, and with dump set also starts its dump in the same write.
func (t *Target) sendStop(dump bool) {
	line := t.stopLine
	t.phase = phaseStopping
	t.times.stopSent = monotonic()
	if dump {
		line = t.stopDumpLine
		t.phase = phaseDumping
		t.times.dumpSent = t.times.stopSent
	}
	if t.send(line) != nil {
		t.fail(failSend, nil)
	}
}

// advance commits what was dumped, starts dumps in order of priority as far as
// the limit allows, and reports whether anything is still to come.
func (s *Saver) advance(tr *trigger, now int64) bool {
	inFlight, waiting := 0, false
	for _, t := range s.targets {
		if !t.selected(tr) {
			continue
		}
		if t.phase == phaseDumped {
			t.finish(tr)
		}
		if now > tr.deadline && (t.phase == phaseStopping || t.phase == phaseDumping) {
			t.fail(failTimeout, nil)
		}
		if t.phase == phaseDumping && now-t.times.dumpSent < int64(s.config.Hung) {
			inFlight++
		}
		waiting = waiting || t.phase == phaseStopping || t.phase == phaseDumping
	}
	for _, t := range s.targets {
		if inFlight >= s.config.InFlight {
			break
		}
		if t.phase != phaseStopped || t.opt.Volatile || !t.selected(tr) {
			continue
		}
		t.phase = phaseDumping
		t.times.dumpSent = monotonic()
		if t.send(t.dumpLine) != nil {
			t.fail(failSend, nil)
			continue
		}
		inFlight++
		waiting = true
	}
	return waiting
}

// patience is how long to sleep at most, in milliseconds, rounded up: until the
// deadline, or until a dump counts as hung and gives up its place.
func (s *Saver) patience(now, deadline int64) int {
	wait := deadline - now
	for _, t := range s.targets {
		left := t.times.dumpSent + int64(s.config.Hung) - now
		if t.phase == phaseDumping && left > 0 {
			wait = min(wait, left)
		}
	}
	return int(max(1, (wait+1e6-1)/1e6))
}

// poll waits for descriptors; an interrupted wait is no event.
func (s *Saver) poll(timeoutMS int) int {
	n, err := unix.EpollWait(s.epoll, s.events, timeoutMS)
	if err != nil {
		return 0
	}
	return n
}

// receiveAll reads the monitors that have something to say. A detector that
// speaks again during an outage tells of the same one.
func (s *Saver) receiveAll(tr *trigger, n int) {
	for i := range n {
		fd := s.events[i].Fd
		if t := s.byFD[fd]; t != nil {
			if !t.receive(monotonic()) {
				unix.EpollCtl(s.epoll, unix.EPOLL_CTL_DEL, t.conn, nil)
				t.gone = true
				if t.phase == phaseStopping || t.phase == phaseStopped || t.phase == phaseDumping {
					t.fail(failGone, nil)
				}
			}
			continue
		}
		// s.wake is read, too: it would keep poll from sleeping.
		if source, at, outage := s.hear(fd); outage {
			s.join(tr, source, at)
		}
	}
}

// receive handles all lines that are there. It reports false when QEMU hung up.
func (t *Target) receive(now int64) bool {
	for {
		n, err := t.line.fill(t.conn)
		if err == unix.EAGAIN {
			return true
		}
		if n <= 0 || err != nil {
			return false
		}
		at := 0
		for {
			line, ok := t.line.next(&at)
			if !ok {
				break
			}
			t.handle(line, now)
		}
		t.line.compact(at)
	}
}

// handle moves the target on. Only what belongs to this save counts: a
// completed event before this dump's setup event is some other migration's.
func (t *Target) handle(line []byte, now int64) {
	t.reply(line)
	if t.phase != phaseStopping && t.phase != phaseDumping {
		return
	}
	if !bytes.Contains(line, patEvent) {
		if bytes.Contains(line, patError) && (bytes.Contains(line, patStopID) || bytes.Contains(line, patDumpID)) {
			t.fail(failRefused, line)
		} else if bytes.Contains(line, patStopID) {
			t.stopped(now)
		}
		return
	}
	if !t.setup && bytes.Contains(line, patStop) {
		t.stopped(now)
	}
	if t.phase != phaseDumping || !bytes.Contains(line, patMigration) {
		return
	}
	switch {
	case bytes.Contains(line, patSetup):
		t.setup = true
	case t.setup && bytes.Contains(line, patCompleted):
		t.times.dumped = now
		t.phase = phaseDumped
	case t.setup && (bytes.Contains(line, patFailed) || bytes.Contains(line, patCancelled)):
		t.fail(failDump, line)
	}
}

// stopped notes that no vCPU runs any more. A VM that was paused already gives
// no STOP event, only the command's reply.
func (t *Target) stopped(now int64) {
	if t.times.stopped == 0 {
		t.times.stopped = now
	}
	if t.phase == phaseStopping {
		t.phase = phaseStopped
	}
}

// finish checks a completed dump, copies it to NVRAM and commits it. QEMU's word
// that it is done is not enough: the stream must be there from its magic to its
// end marker.
func (t *Target) finish(tr *trigger) {
	length, err := unix.Seek(t.writer, 0, unix.SEEK_CUR)
	if err != nil || !t.whole(length) {
		if length > int64(t.opt.Capacity) {
			t.fail(failSize, nil)
		} else {
			t.fail(failStream, nil)
		}
		return
	}
	t.length = int(length)
	if !t.examineDisks() {
		t.fail(failDisk, nil)
		return
	}
	t.times.checked = monotonic()
	if t.commit.Copy(t.dumpMap[:t.length]) != nil || t.commit.Fence() != nil {
		t.fail(failCommit, nil)
		return
	}
	t.times.copied = monotonic()
	t.stamp(tr)
	if t.commit.Commit() != nil {
		t.fail(failCommit, nil)
		return
	}
	t.times.committed = monotonic()
	t.phase = phaseCommitted
}

var streamMagic = []byte("QEVM\x00\x00\x00\x03")

// A stream ends with the footer of its last section, which is a marker and the
// section's number, and QEMU_VM_EOF: with suppress-vmdesc=on nothing follows it.
// The end marker alone says little, because device state is full of zeros.
const (
	streamEnd    = 0
	footerMarker = 0x7e // QEMU_VM_SECTION_FOOTER
	footerSize   = 5
)

func (t *Target) whole(length int64) bool {
	var st unix.Stat_t
	if unix.Fstat(t.writer, &st) != nil || length > st.Size || length > int64(t.opt.Capacity) {
		return false
	}
	if length < int64(len(streamMagic))+footerSize+1 {
		return false
	}
	return bytes.Equal(t.dumpMap[:len(streamMagic)], streamMagic) &&
		t.dumpMap[length-1] == streamEnd && t.dumpMap[length-1-footerSize] == footerMarker
}

func (t *Target) examineDisks() bool {
	for i := range t.opt.Disks {
		d := &t.opt.Disks[i]
		t.disks[i] = d.Identity
		if !d.BlockDevice {
			var st unix.Stat_t
			if unix.Fstat(d.FD, &st) != nil {
				return false
			}
			t.disks[i].Device, t.disks[i].Inode = st.Dev, st.Ino
			t.disks[i].Size, t.disks[i].MtimeNS = uint64(st.Size), st.Mtim.Nano()
		}
		t.commit.SetDisk(i, t.disks[i])
	}
	return true
}

// stamp writes the save's own timeline into the record, so that it survives with it.
func (t *Target) stamp(tr *trigger) {
	var wall unix.Timespec
	unix.ClockGettime(unix.CLOCK_REALTIME, &wall)
	t.commit.SetTime(wall.Nano(), tr.eventNS)
	t.commit.SetOutage(unsafe.String(&tr.id[0], tr.idLen)) // copied at once
	since := func(ns int64) int64 { return ns - tr.eventNS }
	t.commit.SetStep(0, record.StepWake, 0, since(tr.wokenNS))
	t.commit.SetStep(1, record.StepStop, since(t.times.stopSent), since(t.times.stopped))
	t.commit.SetStep(2, record.StepDump, since(t.dumpStart()), since(t.times.dumped))
	t.commit.SetStep(3, record.StepCheck, since(t.times.dumped), since(t.times.checked))
	t.commit.SetStep(4, record.StepCopy, since(t.times.checked), since(t.times.copied))
	t.commit.SetStep(5, record.StepCommit, since(t.times.copied), 0)
}

// dumpStart is when QEMU could begin to dump: where the command went out along
// with stop, the end of the stop.
func (t *Target) dumpStart() int64 { return max(t.times.dumpSent, t.times.stopped) }

func (t *Target) fail(f failure, line []byte) {
	if t.commit != nil {
		t.commit.Abort() // or its area would stay owned by this save
	}
	t.phase, t.failure = phaseFailed, f
	t.detail = append(t.detail[:0], line[:min(len(line), detailSize)]...)
}

// raise gives QEMU's threads the priorities the save needs.
func (s *Saver) raise(t *Target) {
	if !s.config.Realtime {
		return
	}
	t.raised = true
	for i := range t.threads {
		setFIFO(t.threads[i].ID, t.threads[i].Priority)
	}
}
