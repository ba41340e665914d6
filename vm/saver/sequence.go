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
//	        failed ◀── error, timeout, bad dump ──────────────────────  dumped ──────────▶ committed
//	           ▲                                                          │ volatile caches    ▲
//	           └──────────────── caches cannot be written back ────────  copied ──wave flushed─┘
//
// A volatile VM ends at stopped. A VM whose memory lies behind CPU caches that lose
// their content with the power waits in copied until a wave is full or nothing more is
// in flight: then one flush of all caches makes the guest RAM and the states of the
// whole wave durable, and its records are committed in order of priority.
type phase uint8

const (
	phaseRunning phase = iota
	phaseStopping
	phaseStopped
	phaseDumping
	phaseDumped
	phaseCopied
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
	failCaches          // the CPU caches could not be written back
)

// times are instants of CLOCK_MONOTONIC in nanoseconds; 0 is "did not happen".
type times struct {
	stopSent, stopped, dumpSent, dumped, checked, copied, flushing, flushed, committed int64
}

// trigger is what starts a save.
type trigger struct {
	armed    bool
	outage   bool // announced by a detector, not asked for by an operator
	source   int  // index of the Source, or -1: see announced
	eventNS  int64
	wokenNS  int64
	deadline int64

	announced Announcement // by whom, if by no Source

	parkedNS, unparkedNS int64 // when the host was blocked after the last commit

	only  *Target // one VM, or nil for all
	id    [32]byte
	idLen int
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
	s.seal(tr)
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
		s.active, s.powerBack = true, false
	}
	dumps := s.config.InFlight
	if already != nil {
		dumps = 0 // advance counts
	}
	s.stopVolatile(tr)
	for _, t := range s.targets {
		if t == already || t.opt.Volatile || !t.selected(tr) {
			continue
		}
		t.begin()
		if t.phase == phaseFailed {
			continue
		}
		// The command goes first: raising a thread that runs on another CPU waits for
		// that CPU, and the guest runs on meanwhile.
		t.sendStop(dumps > 0)
		s.raise(t)
		dumps--
	}
}

// stopVolatile comes first in an outage: the CPU time that volatile VMs give up goes
// to the others.
func (s *Saver) stopVolatile(tr *trigger) {
	for _, t := range s.targets {
		if t.opt.Volatile && t.selected(tr) {
			t.begin()
			t.sendStop(false)
		}
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
		s.active, s.powerBack = true, false
		s.stopVolatile(tr)
	}
}

// seal blocks all memory operations of the host after the last commit of an outage, if
// it was told to and can: nothing can change what was committed. It returns when power
// is back or the time is over.
func (s *Saver) seal(tr *trigger) {
	if !tr.outage || s.hardware == nil || s.config.Park <= 0 || s.powerBack {
		return
	}
	for range parkAttempts {
		start := monotonic()
		back, err := s.hardware.Park(s.config.Park)
		if err == nil {
			tr.parkedNS, tr.unparkedNS = start, monotonic()
			s.powerBack = s.powerBack || back
			return
		}
		s.receiveAll(tr, s.poll(0)) // a detector with news does not let the host be parked
		if s.powerBack {
			return
		}
	}
}

// parkAttempts bounds how often unread news may keep the host from being parked.
const parkAttempts = 3

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
// their image, if any, is intact. Volatile VMs are paused in an outage only: an
// operator's save is none of their business.
func (t *Target) selected(tr *trigger) bool {
	return t.live && (tr.only == nil || tr.only == t) && (tr.outage || !t.opt.Volatile)
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
		if t.phase == phaseDumped && t.finish() && !t.opt.VolatileCaches {
			t.commitRecord(tr)
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
	s.flushWave(tr, inFlight)
	return waiting
}

// flushWave writes back the CPU caches for the VMs that wait for it, and commits them.
func (s *Saver) flushWave(tr *trigger, inFlight int) {
	wave := 0
	for _, t := range s.targets {
		if t.selected(tr) && t.phase == phaseCopied {
			wave++
		}
	}
	if wave == 0 || inFlight > 0 && wave < s.config.InFlight {
		return
	}
	start := monotonic()
	flushed := s.hardware != nil && s.hardware.Flush() == nil
	end := monotonic()
	for _, t := range s.targets {
		if !t.selected(tr) || t.phase != phaseCopied {
			continue
		}
		t.times.flushing, t.times.flushed = start, end
		if !flushed && !t.flushLines(tr) {
			t.fail(failCaches, nil)
			continue
		}
		t.commitRecord(tr)
	}
}

// flushLines writes back the VM's RAM line by line, from this thread: slow, but it
// reaches the caches of every CPU. It is the way without hardware help.
func (t *Target) flushLines(tr *trigger) bool {
	if t.opt.FlushRAM == nil || tr.outage && !t.opt.SlowFlush {
		return false
	}
	t.times.flushing = monotonic()
	ok := t.opt.FlushRAM() == nil
	t.times.flushed = monotonic()
	return ok
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
		switch source, event, at := s.hear(fd); {
		case event == Outage && !s.active:
			s.join(tr, source, at)
		case event == PowerBack && s.active:
			s.powerBack = true
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

// finish checks a completed dump and copies it to NVRAM. QEMU's word that it is done is
// not enough: the stream must be there from its magic to its end marker.
func (t *Target) finish() bool {
	length, err := unix.Seek(t.writer, 0, unix.SEEK_CUR)
	if err != nil || !t.whole(length) {
		if length > int64(t.opt.Capacity) {
			t.fail(failSize, nil)
		} else {
			t.fail(failStream, nil)
		}
		return false
	}
	t.length = int(length)
	if !t.examineDisks() {
		t.fail(failDisk, nil)
		return false
	}
	t.times.checked = monotonic()
	if t.commit.Copy(t.dumpMap[:t.length]) != nil || t.commit.Fence() != nil {
		t.fail(failCommit, nil)
		return false
	}
	t.times.copied = monotonic()
	t.phase = phaseCopied
	return true
}

// commitRecord makes the image valid. All it stands for is durable by now.
func (t *Target) commitRecord(tr *trigger) {
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
	commit := 5
	if t.times.flushed != 0 {
		t.commit.SetStep(commit, record.StepFlush, since(t.times.flushing), since(t.times.flushed))
		commit++
	}
	t.commit.SetStep(commit, record.StepCommit, since(t.durable()), 0)
}

// durable is when the image needed nothing more but its record.
func (t *Target) durable() int64 { return max(t.times.copied, t.times.flushed) }

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
