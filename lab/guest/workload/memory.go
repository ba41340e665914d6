package main

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"github.com/nv-hypervisor/nv-hypervisor/lab/guest/journal"
	"github.com/nv-hypervisor/nv-hypervisor/lab/guest/pattern"
)

// sweepTime is how long a full verification in slices may take.
const sweepTime = 3 * time.Second

// memoryReserve is left to the kernel and to the program itself.
const memoryReserve = 24 << 20

// memory is the checked buffer, cut into one pattern per checker. Each checker goroutine owns its pattern and
// answers every request once.
type memory struct {
	requests []chan request
	answers  chan answer
	sum      uint64
	err      error // first mismatch, kept
}

type request int

const (
	requestStep request = iota
	requestCheckAll
)

type answer struct {
	sum uint64
	err error
}

func newMemory(p params, boot journal.BootID) (*memory, error) {
	size := p.memoryMiB << 20
	var info syscall.Sysinfo_t
	if err := syscall.Sysinfo(&info); err != nil {
		return nil, fmt.Errorf("memory: %w", err)
	}
	if free := uint64(info.Freeram) * uint64(info.Unit); uint64(size)+memoryReserve > free {
		return nil, fmt.Errorf("memory: nvh.mem=%d MiB does not fit, %d MiB are free: give the guest more memory or lower nvh.mem", p.memoryMiB, free>>20)
	}
	// Outside the Go heap, so that the collector neither scans nor counts it.
	raw, err := syscall.Mmap(-1, 0, size, syscall.PROT_READ|syscall.PROT_WRITE,
		syscall.MAP_PRIVATE|syscall.MAP_ANONYMOUS|syscall.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("memory: map %d MiB: %w", p.memoryMiB, err)
	}
	words := unsafe.Slice((*uint64)(unsafe.Pointer(unsafe.SliceData(raw))), size/8)
	blocks := len(words) / pattern.WordsPerBlock
	m := &memory{answers: make(chan answer)}
	seed := binary.LittleEndian.Uint64(boot[:8])
	for i := range p.checkers {
		from, to := blocks*i/p.checkers, blocks*(i+1)/p.checkers
		c := &checker{
			cpu: i % runtime.NumCPU(), seed: seed + uint64(i), busy: p.loadCPU || p.loadWrite, writes: p.loadWrite,
			words:    words[from*pattern.WordsPerBlock : to*pattern.WordsPerBlock],
			slice:    int(time.Duration(to-from)*min(p.tick, sweepTime)/sweepTime) + 1,
			requests: make(chan request), answers: m.answers,
		}
		m.requests = append(m.requests, c.requests)
		go c.run()
	}
	return m, m.collect()
}

// step advances every pattern and verifies a slice of each.
func (m *memory) step() { m.ask(requestStep) }

// checkAll verifies everything.
func (m *memory) checkAll() { m.ask(requestCheckAll) }

func (m *memory) ask(r request) {
	for _, c := range m.requests {
		c <- r
	}
	if err := m.collect(); err != nil {
		say("error=%q", err.Error())
	}
}

// collect waits for one answer of each checker and returns a mismatch when it is the first.
func (m *memory) collect() error {
	before := m.err
	m.sum = 0
	for range m.requests {
		a := <-m.answers
		m.sum ^= a.sum
		if m.err == nil {
			m.err = a.err
		}
	}
	if before == nil {
		return m.err
	}
	return nil
}

type checker struct {
	cpu      int
	seed     uint64
	busy     bool
	writes   bool
	words    []uint64
	slice    int // blocks verified in a step
	requests chan request
	answers  chan<- answer
}

func (c *checker) run() {
	runtime.LockOSThread()
	if err := bindToCPU(c.cpu); err != nil {
		c.answers <- answer{err: err}
		return
	}
	p, err := pattern.New(c.seed, c.words)
	if err != nil {
		c.answers <- answer{err: fmt.Errorf("memory: %w: raise nvh.mem or lower nvh.cpus", err)}
		return
	}
	c.answers <- answer{sum: p.Sum()}
	for {
		switch c.await(p) {
		case requestStep:
			p.Step()
			p.CheckNext(c.slice)
		case requestCheckAll:
			p.CheckAll()
		}
		c.answers <- answer{sum: p.Sum(), err: p.Err()}
	}
}

// await waits for a request; a busy checker verifies blocks, or rewrites them, until one comes.
func (c *checker) await(p *pattern.Pattern) request {
	for c.busy {
		select {
		case r := <-c.requests:
			return r
		default:
			if c.writes {
				p.Step()
			} else {
				p.CheckNext(1)
			}
		}
	}
	return <-c.requests
}
