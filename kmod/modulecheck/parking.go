package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/kmod/abi"
	"github.com/nv-hypervisor/nv-hypervisor/pod/kmod"
	"github.com/nv-hypervisor/nv-hypervisor/vm/saver"
)

var parkChecks = []check{
	{"a park ends in time and stops every CPU", parkTimeout},
	{"an NMI ends a park", parkPowerBack},
	{"a Device hears that power is back", deviceParks},
	{"no park over unread events", parkUnread},
	{"parks from all sides", opened(unix.O_RDWR, manyParks)},
	{"nobody takes a park for a lockup", parkAndDetectors},
}

// watch looks at the clock on every CPU without pause and finds the longest time in which nothing ran on any of them.
type watch struct {
	stop  atomic.Bool
	ready sync.WaitGroup
	all   sync.WaitGroup
	gaps  []uint64
}

func startWatch(cpus int) *watch {
	w := &watch{gaps: make([]uint64, cpus)}
	w.ready.Add(cpus)
	for cpu := range cpus {
		w.all.Go(func() { w.look(cpu) })
	}
	w.ready.Wait()
	return w
}

func (w *watch) look(cpu int) {
	var set unix.CPUSet
	set.Set(cpu)
	runtime.LockOSThread() // never unlocked: the thread ends with its affinity
	unix.SchedSetaffinity(0, &set)
	last := monotonic()
	w.ready.Done()
	for stopped := false; !stopped; {
		stopped = w.stop.Load() // one more look after it: we may not have run since
		now := monotonic()
		w.gaps[cpu] = max(w.gaps[cpu], now-last)
		last = now
	}
}

func (w *watch) end() []uint64 {
	w.stop.Store(true)
	w.all.Wait()
	return w.gaps
}

func parkTimeout(m *machine) error {
	f, err := open(unix.O_RDWR | unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	defer f.close()
	const timeout = 400 * time.Millisecond
	w := startWatch(2)
	before := monotonic()
	p, err := f.park(timeout)
	all := time.Duration(monotonic() - before)
	gaps := w.end()
	if err != nil {
		return err
	}
	parked := time.Duration(p.ParkedNS)
	m.say("figure park of %v: stood still %v, call took %v, gaps seen %v %v", timeout, parked, all, time.Duration(gaps[0]), time.Duration(gaps[1]))
	if p.Outcome != abi.ParkTimeout || parked < timeout || parked > all+all/20 {
		return fmt.Errorf("%+v in %v", p, all)
	}
	for cpu, gap := range gaps {
		// The kernel's idea of the TSC's frequency may be off by some percent.
		if time.Duration(gap) < timeout-timeout/10 {
			return fmt.Errorf("CPU %d ran on: it saw no gap longer than %v", cpu, time.Duration(gap))
		}
	}
	return nil
}

func parkPowerBack(m *machine) error {
	f, err := open(unix.O_RDWR | unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	defer f.close()
	m.askForNMI(0)
	if e, err := f.next(); err != nil || e.Kind != abi.Outage {
		return fmt.Errorf("%+v, %w", e, err)
	}
	settle()
	m.askForNMI(500 * time.Millisecond)
	before := monotonic()
	p, err := f.park(patience)
	took := time.Duration(monotonic() - before)
	if err != nil {
		return err
	}
	e, err := f.next()
	if err != nil {
		return err
	}
	m.say("figure park ended by an NMI: event to user space %v", time.Duration(before+uint64(took)-e.TimeNS))
	if p.Outcome != abi.ParkPowerBack || took > patience/2 || e.Kind != abi.PowerBack || e.TimeNS < before || e.TimeNS > before+uint64(took) {
		return fmt.Errorf("%+v in %v, then %+v", p, took, e)
	}
	settle()
	// Over is over: the next NMI is an outage again.
	m.askForNMI(0)
	if e, err := f.next(); err != nil || e.Kind != abi.Outage {
		return fmt.Errorf("after the park: %+v, %w", e, err)
	}
	settle()
	return nil
}

func deviceParks(m *machine) error {
	d, err := kmod.Open(kmod.DefaultPath)
	if err != nil {
		return err
	}
	defer d.Close()
	if back, err := d.Park(time.Millisecond); back || err != nil {
		return fmt.Errorf("1 ms: %v, %v", back, err)
	}
	m.askForNMI(300 * time.Millisecond)
	if back, err := d.Park(patience); !back || err != nil {
		return fmt.Errorf("with an NMI: %v, %v", back, err)
	}
	if _, err := d.Park(time.Millisecond); !errors.Is(err, kmod.ErrUnread) {
		return fmt.Errorf("with news: %v", err)
	}
	buffer := make([]byte, 4096)
	n, err := unix.Read(d.FD(), buffer)
	if err != nil {
		return err
	}
	if event, _ := d.Decode(buffer[:n]); event != saver.PowerBack {
		return fmt.Errorf("event %v", event)
	}
	settle()
	return nil
}

func parkUnread(m *machine) error {
	f, err := open(unix.O_RDWR | unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	defer f.close()
	if err := f.selfTest(1); err != nil {
		return err
	}
	_, err = f.park(time.Second)
	if err := wantError("with a self-test unread", err, unix.EAGAIN); err != nil {
		return err
	}
	if err := f.drain(); err != nil {
		return err
	}
	_, err = f.park(time.Millisecond)
	return err
}

// manyParks: one at a time, and who comes in between is told so.
func manyParks(f file) error {
	errs := make([]error, 4)
	var all sync.WaitGroup
	for i := range errs {
		all.Go(func() {
			for range 10 {
				if _, err := f.park(2 * time.Millisecond); err != nil && !errors.Is(err, unix.EBUSY) {
					errs[i] = err
				}
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// parkAndDetectors parks for much longer than the detectors of lockups and stalls, set as short as they can be,
// have patience, with an RCU grace period under way.
func parkAndDetectors(m *machine) error {
	if err := os.WriteFile("/proc/sys/kernel/watchdog_thresh", []byte("1"), 0); err != nil {
		return err
	}
	f, err := open(unix.O_RDWR | unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	defer f.close()
	mark, err := m.log.mark()
	if err != nil {
		return err
	}
	var stop atomic.Bool
	var graces sync.WaitGroup
	graces.Go(func() {
		for !stop.Load() {
			unix.Syscall(unix.SYS_MEMBARRIER, 1, 0, 0) // MEMBARRIER_CMD_GLOBAL waits for a grace period
		}
	})
	_, err = f.park(4 * time.Second)
	time.Sleep(1500 * time.Millisecond) // let the detectors look
	stop.Store(true)
	graces.Wait()
	if err != nil {
		return err
	}
	if err := m.log.expectNoComplaint(mark); err != nil {
		return err
	}
	// The detector of stalls is as it was.
	suppress, err := os.ReadFile("/sys/module/rcupdate/parameters/rcu_cpu_stall_suppress")
	if err == nil && strings.TrimSpace(string(suppress)) != "0" {
		err = fmt.Errorf("rcu_cpu_stall_suppress is left at %s", suppress)
	}
	return err
}
