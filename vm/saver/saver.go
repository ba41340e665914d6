// Package saver owns the one thread that stands between an outage and darkness.
//
// A Saver holds, for every running VM, a prepared connection to QEMU's emergency
// monitor, a buffer the volatile state is dumped into, and a save record whose
// slot is chosen. On a trigger the thread stops the VMs, dumps them, checks each
// dump, copies it to NVRAM and commits its record, in priority order.
//
// What holds after a crash at any point: a VM whose record was committed can be
// resumed exactly once from its image; one whose record was not is as if its save
// had never begun. VMs do not depend on each other.
//
// A guest runs only when the Saver lets it: Cont refuses while an outage lasts,
// and both cont and stop travel down the same connection, in order. So no guest
// instruction can follow a committed save unless its image was voided first.
//
// Concurrency: all methods may be called from any goroutine. They hand their work
// to the thread and wait; a call that arrives during a save waits for its end.
// The thread itself blocks only in epoll_wait. During a save it does not allocate,
// log, take locks or touch a file system (fstat on open descriptors apart); a
// test enforces the imports of sequence.go and counts allocations.
package saver

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Errors a caller decides on.
var (
	ErrOutage  = errors.New("an outage is in progress")
	ErrClosed  = errors.New("the saver is closed")
	ErrUnarmed = errors.New("the VM is not armed for an emergency save")
)

// Event is what a detector announces.
type Event uint8

// The events. Detectors that speak again during one outage tell of the same one.
const (
	None      Event = iota
	Outage          // the power is failing
	PowerBack       // it is not, or no more
	Test            // nothing happened: the detector was asked to try its way to this thread
)

// Source is where outages are announced: a readable descriptor, polled by the
// saver's thread itself so that nothing stands between the event and the first
// stop. Decode is called on that thread with the bytes read; it must not block or
// allocate. It reports what the bytes announce, and CLOCK_MONOTONIC of the event in
// nanoseconds, or 0 when the source cannot tell.
type Source interface {
	FD() int
	Name() string
	Decode(p []byte) (event Event, eventNS int64)
}

// Starter is a Source that stands for a state, such as the level of a line, which may
// announce an outage before anything changes. Start is called once, on the saver's
// thread, when the source is watched already.
type Starter interface {
	Source
	Start() (event Event, eventNS int64)
}

// Hardware is what a host can do with help of its kernel. Its methods are called
// on the saver's thread and must not allocate.
type Hardware interface {
	// Flush writes back the caches of all CPUs and returns when that is done.
	Flush() error
	// Park blocks all memory operations of the host until power is back, which it
	// reports, or the time is over.
	Park(limit time.Duration) (powerBack bool, err error)
}

// Config bounds a Saver.
type Config struct {
	Realtime bool          // run at SCHED_FIFO and raise QEMU's threads during a save
	InFlight int           // dumps at once; 0: one per core and one more
	Deadline time.Duration // a save that takes longer is given up; 0: 10 s
	Hung     time.Duration // a VM silent for this long no longer holds up others; 0: 250 ms
	Park     time.Duration // how long the host is blocked after the last commit of an outage; 0: not
}

// realtimePriority of the saver's own thread: above every QEMU thread.
const realtimePriority = 20

// Saver is the thread and what it owns.
type Saver struct {
	config Config
	epoll  int
	wake   int // eventfd
	done   chan struct{}
	outage chan *Result // completed outage sequences, for the outage controller
	back   chan string  // power is back, for the outage controller
	tests  chan TestResult

	mu       sync.Mutex
	mailbox  []*letter // run by the thread between saves
	closed   bool
	realtime bool // SCHED_FIFO was granted

	// Owned by the thread.
	targets   []*Target // in order of priority
	byFD      map[int32]*Target
	sources   []detector
	hardware  Hardware  // nil: none
	pending   []*Target // targets with a waiter
	events    []unix.EpollEvent
	input     []byte
	active    bool // an outage lasts
	powerBack bool // announced since the outage began, and not told yet
	trigger   trigger
	free      []*Result
	result    *Result
}

// New starts the thread. Every Saver must be closed.
func New(config Config) (*Saver, error) {
	if config.InFlight <= 0 {
		config.InFlight = runtime.NumCPU() + 1
	}
	if config.Deadline <= 0 {
		config.Deadline = 10 * time.Second
	}
	if config.Hung <= 0 {
		config.Hung = 250 * time.Millisecond
	}
	s := &Saver{
		config: config,
		done:   make(chan struct{}),
		outage: make(chan *Result, 64), // adopted VMs have one each
		back:   make(chan string, 1),
		tests:  make(chan TestResult, 16),
		byFD:   make(map[int32]*Target),
		events: make([]unix.EpollEvent, 64),
		input:  make([]byte, 4096),
	}
	var err error
	if s.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("epoll_create: %w", err)
	}
	if s.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		unix.Close(s.epoll)
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	if err := s.watch(s.wake); err != nil {
		unix.Close(s.epoll)
		unix.Close(s.wake)
		return nil, err
	}
	s.reserve() // an outage may come before the first VM does
	started := make(chan struct{})
	go s.loop(started)
	<-started
	return s, nil
}

// Realtime reports whether the thread runs at SCHED_FIFO.
func (s *Saver) Realtime() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.realtime
}

// Outages delivers the result of every save that a Source or Simulate announced.
func (s *Saver) Outages() <-chan *Result { return s.outage }

// TestResult is a Test event that came through.
type TestResult struct {
	Source  string
	Latency time.Duration // from the event to this thread
}

// Tests delivers Test events. Those nobody takes are dropped.
func (s *Saver) Tests() <-chan TestResult { return s.tests }

// PowerBack delivers the news that power is back during an outage, and the id of
// that outage. Clear ends it.
func (s *Saver) PowerBack() <-chan string { return s.back }

// SetHardware says what the host can do, nil for nothing. It is called before
// the first VM that needs it is attached.
func (s *Saver) SetHardware(h Hardware) error {
	return s.call(context.Background(), func() error {
		s.hardware = h
		return nil
	})
}

// Close ends the thread and closes every attached target. Guests are not touched.
func (s *Saver) Close() {
	s.call(context.Background(), func() error {
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
		return nil
	})
	<-s.done
}

// AddSource watches a detector. A Starter may announce an outage at once.
func (s *Saver) AddSource(src Source) error {
	return s.call(context.Background(), func() error {
		if err := s.watch(src.FD()); err != nil {
			return fmt.Errorf("watch %s: %w", src.Name(), err)
		}
		s.sources = append(s.sources, detector{Source: src})
		if starter, ok := src.(Starter); ok {
			if event, at := starter.Start(); event == Outage && !s.active {
				s.trigger.announce(len(s.sources)-1, at)
			}
		}
		return nil
	})
}

// detector is a Source that is watched, until its descriptor comes to an end.
type detector struct {
	Source
	dead bool
}

// Detectors names the sources: those that are watched, and those whose descriptor
// has come to an end or failed, so that they announce nothing any more.
func (s *Saver) Detectors() (watched, dead []string) {
	s.call(context.Background(), func() error {
		for _, d := range s.sources {
			if d.dead {
				dead = append(dead, d.Name())
			} else {
				watched = append(watched, d.Name())
			}
		}
		return nil
	})
	return watched, dead
}

// Attach hands a target to the thread, which from now on drains its events.
func (s *Saver) Attach(t *Target) error {
	return s.call(context.Background(), func() error {
		if err := s.watch(t.conn); err != nil {
			return fmt.Errorf("%s: watch emergency monitor: %w", t.Name(), err)
		}
		s.byFD[int32(t.conn)] = t
		s.targets = append(s.targets, t)
		slices.SortStableFunc(s.targets, func(a, b *Target) int { return b.opt.Priority - a.opt.Priority })
		t.attached = true
		s.reserve()
		return nil
	})
}

// Detach takes a target back; the caller closes it. Detaching twice is harmless.
func (s *Saver) Detach(t *Target) {
	s.call(context.Background(), func() error {
		s.drop(t)
		return nil
	})
}

func (s *Saver) drop(t *Target) {
	if !t.attached {
		return
	}
	t.attached = false
	unix.EpollCtl(s.epoll, unix.EPOLL_CTL_DEL, t.conn, nil)
	delete(s.byFD, int32(t.conn))
	s.targets = slices.DeleteFunc(s.targets, func(x *Target) bool { return x == t })
	s.settle(t, errors.New("QEMU's emergency monitor is gone"))
}

// dropGone lets go of the targets whose QEMU hung up during a save.
func (s *Saver) dropGone() {
	for _, t := range slices.Clone(s.targets) {
		if t.gone {
			s.drop(t)
		}
	}
}

// reserve makes everything a save of all targets needs, ahead of it.
func (s *Saver) reserve() {
	if n := 4 + len(s.targets) + len(s.sources); n > len(s.events) {
		s.events = make([]unix.EpollEvent, 2*n)
	}
	s.free = s.free[:0]
	for range 2 {
		s.free = append(s.free, newResult(len(s.targets)))
	}
}

// letter is a call in the mailbox. Whoever takes it, the thread to make the call
// or the caller to give it up, is the only one.
type letter struct {
	fn    func() error
	taken atomic.Bool
	reply chan error
}

// call runs fn on the thread and waits for it. When ctx ends before the thread has
// begun, fn is never run.
func (s *Saver) call(ctx context.Context, fn func() error) error {
	l := &letter{fn: fn, reply: make(chan error, 1)}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	s.mailbox = append(s.mailbox, l)
	one := [8]byte{1}
	unix.Write(s.wake, one[:]) // under the lock: once closed, the number may be another file's
	s.mu.Unlock()
	cancelled := ctx.Done()
	for {
		select {
		case err := <-l.reply:
			return err
		case <-cancelled:
			if l.taken.CompareAndSwap(false, true) {
				return ctx.Err()
			}
			cancelled = nil // under way
		case <-s.done:
			select {
			case err := <-l.reply:
				return err
			default:
				return ErrClosed
			}
		}
	}
}

func (s *Saver) watch(fd int) error {
	return unix.EpollCtl(s.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
}

// loop is the thread.
func (s *Saver) loop(started chan<- struct{}) {
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	defer close(s.done)
	if s.config.Realtime && setFIFO(0, realtimePriority) == nil {
		s.mu.Lock()
		s.realtime = true
		s.mu.Unlock()
	}
	close(started)
	for {
		n := s.poll(s.timeout())
		if s.triggered(n) {
			s.run()
			s.publish()
		} else {
			s.serve(n)
		}
		closed := s.handleMail()
		s.dropGone()
		s.settleAll(monotonic())
		if closed {
			s.release()
			return
		}
	}
}

// timeout is how long the thread may sleep between saves, in milliseconds. A save
// takes note of nothing but itself, so its end is no time to sleep before all that
// came meanwhile has been looked at.
func (s *Saver) timeout() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case len(s.mailbox) > 0:
		return 0
	case len(s.pending) > 0:
		return 20
	}
	return -1
}

// handleMail runs what callers left, and reports whether the Saver was closed.
func (s *Saver) handleMail() bool {
	s.mu.Lock()
	mail := s.mailbox
	s.mailbox = nil
	s.mu.Unlock()
	for _, l := range mail {
		if !l.taken.CompareAndSwap(false, true) {
			continue
		}
		l.reply <- l.fn()
		if s.trigger.armed {
			s.run()
			s.publish()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

func (s *Saver) release() {
	for _, t := range slices.Clone(s.targets) {
		s.drop(t)
		t.Close()
	}
	s.mu.Lock()
	unix.Close(s.epoll)
	unix.Close(s.wake)
	s.mu.Unlock()
	close(s.outage)
}

// serve drains the emergency monitors between saves, so that QEMU never waits
// for us.
func (s *Saver) serve(n int) {
	for i := range n {
		t := s.byFD[s.events[i].Fd]
		if t == nil {
			continue
		}
		if !t.receive(monotonic()) {
			s.drop(t)
		}
	}
}
