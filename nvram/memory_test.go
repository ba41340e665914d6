package nvram

import (
	"bytes"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/nv-hypervisor/nv-hypervisor/nvram/nvramtest"
	"golang.org/x/sys/unix"
)

// The recording memory is the same interface.
var _ Memory = (*nvramtest.Recorder)(nil)
var _ Memory = nvramtest.Memory(nil)

// eachMemory gives every implementation that writes, over a mapped file.
func eachMemory(t *testing.T, size Bytes, test func(t *testing.T, m Memory)) {
	for _, c := range poolCases {
		if c.layout != LayoutDirectory {
			continue
		}
		t.Run(string(c.kind), func(t *testing.T) {
			path := filepath.Join(shmDir(t), "pool")
			c.init(t, path, 16*MiB)
			p := mustOpen(t, path)
			mustAlloc(t, p, Request{"a", size, UseUser})
			m, err := p.Map("a")
			must(t, err)
			defer m.Close()
			test(t, m)
		})
	}
}

// TestMemoryIsMemory compares with a slice: whatever the way bytes take, they arrive, and no others change.
func TestMemoryIsMemory(t *testing.T) {
	eachMemory(t, 2*MiB, func(t *testing.T, m Memory) {
		random := rand.New(rand.NewPCG(1, 2))
		model := make([]byte, 20000)
		for range 3000 {
			off := random.IntN(len(model))
			p := make([]byte, random.IntN(min(1500, len(model)-off)+1))
			for i := range p {
				p[i] = byte(random.Uint32())
			}
			switch random.IntN(4) {
			case 0:
				m.Store(off, p)
				m.Flush(off, len(p))
			case 1, 2:
				m.Copy(off, p)
			case 3:
				off, p = off&^7, bytes.Repeat([]byte{byte(off)}, 8)
				m.Store8(off, uint64(p[0])*0x0101010101010101)
				m.Flush(off, 8)
			}
			copy(model[min(off, len(model)):], p)
			must(t, m.Fence())
		}
		if !bytes.Equal(m.Bytes()[:len(model)], model) {
			t.Error("content differs from the model")
		}
		if !allZero(m.Bytes()[len(model)+8:]) {
			t.Error("bytes changed that were not written")
		}
	})
}

func TestMemoryDoesNotAllocate(t *testing.T) {
	buffer := make([]byte, 9000)
	eachMemory(t, 2*MiB, func(t *testing.T, m Memory) {
		if n := testing.AllocsPerRun(10, func() {
			m.Store(100, buffer)
			m.Flush(100, len(buffer))
			m.Copy(20001, buffer)
			m.Store8(64, 1)
			m.Flush(64, 8)
			if m.Fence() != nil {
				t.Error("fence failed")
			}
		}); n != 0 {
			t.Errorf("%v allocations", n)
		}
	})
}

func TestMemoryPanicsOutsideOfItself(t *testing.T) {
	eachMemory(t, 2*MiB, func(t *testing.T, m Memory) {
		end := len(m.Bytes())
		for name, f := range map[string]func(){
			"store": func() { m.Store(end-1, []byte{1, 2}) }, "copy": func() { m.Copy(end-1, []byte{1, 2}) },
			"store8": func() { m.Store8(end-4, 1) }, "unaligned store8": func() { m.Store8(4, 1) },
			"flush": func() { m.Flush(end-1, 2) }, "before": func() { m.Store(-1, []byte{1}) },
		} {
			func() {
				defer func() {
					if recover() == nil {
						t.Errorf("%s did not panic", name)
					}
				}()
				f()
			}()
		}
	})
}

// TestFenceReportsFailure wants that a pool whose fence failed takes no further change: what is persistent is not known.
func TestFenceReportsFailure(t *testing.T) {
	w, err := mapAnonymous()
	must(t, err)
	m := &syncMemory{data: w.data}
	must(t, w.close())
	m.Flush(0, 10)
	if m.Fence() == nil {
		t.Fatal("msync of memory that is not mapped succeeded")
	}
	if m.Fence() == nil {
		t.Error("the next fence forgot what was not written")
	}

	r := nvramtest.NewRecorder(make([]byte, metadataSize))
	must(t, format(r, crashTable(LayoutDirectory)))
	c := recordedCore(LayoutDirectory, r, newRecordedFiles(nil, map[ID]bool{}))
	must(t, c.load())
	c.meta = brokenMemory{r}
	if c.rename(map[string]string{}) != nil {
		t.Error("nothing to do failed")
	}
	if _, err := c.alloc([]Request{{"a", crashUnit, UseUser}}); err == nil {
		t.Fatal("alloc over a fence that fails succeeded")
	}
	c.meta = r
	if _, err := c.alloc([]Request{{"b", crashUnit, UseUser}}); err == nil {
		t.Error("the pool goes on after a fence failed")
	}
}

type brokenMemory struct{ Memory }

func (brokenMemory) Fence() error { return unix.EIO }

func mapAnonymous() (*window, error) {
	b, err := unix.Mmap(-1, 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	return &window{mapped: b, data: b}, err
}

// BenchmarkMemory compares Copy with Store and Flush, for what a VM's volatile state takes.
func BenchmarkMemory(b *testing.B) {
	path := filepath.Join(b.TempDir(), "pool")
	if err := Init(InitOptions{Path: path, Kind: KindShm, Size: 2 * MiB}); err != nil {
		b.Fatal(err)
	}
	p, err := Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	if _, err := p.Alloc(Request{"a", 2 * MiB, UseState}); err != nil {
		b.Fatal(err)
	}
	m, err := p.Map("a")
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	data := make([]byte, 512*KiB)
	b.Run("copy and fence 512 KiB", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			m.Copy(0, data)
			_ = m.Fence()
		}
	})
	b.Run("store, flush and fence 512 KiB", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			m.Store(0, data)
			m.Flush(0, len(data))
			_ = m.Fence()
		}
	})
}
