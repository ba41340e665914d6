package handles

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/nvram/nvramtest"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantCode(t *testing.T, err error, code syscall.Errno) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %v", code)
	}
	if got := Code(err); got != code {
		t.Fatalf("error %q has the code %v, want %v", err, got, code)
	}
}

// newPool makes a pool of 64 MiB in tmpfs.
func newPool(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "handles-test-")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	path := filepath.Join(dir, "pool")
	must(t, nvram.Init(nvram.InitOptions{Path: path, Size: 64 * nvram.MiB}))
	return path
}

// memoryAt is the memory as the C program sees it.
func memoryAt(t *testing.T, table *Table, address uintptr) []byte {
	t.Helper()
	for _, r := range table.regions {
		if r.address == address {
			return r.memory.Bytes()
		}
	}
	t.Fatalf("no region at %#x", address)
	return nil
}

func TestContentIsFoundAgain(t *testing.T) {
	path := newPool(t)
	var table Table
	number, err := table.Open(path, false)
	must(t, err)
	address, err := table.Alloc(number, "a", 5)
	must(t, err)
	copy(memoryAt(t, &table, address), "hello")
	must(t, table.Persist(address, 5))
	again, size, err := table.Map(number, "a")
	must(t, err)
	if again != address || size != 2*nvram.MiB {
		t.Fatalf("mapped again at %#x with %v, not at %#x with 2 MiB", again, size, address)
	}
	must(t, table.Close(number))
	if len(table.regions) != 0 {
		t.Fatal("a region outlived its pool")
	}

	second, err := table.Open(path, false)
	must(t, err)
	if second == number {
		t.Fatal("a number was used again")
	}
	address, _, err = table.Map(second, "a")
	must(t, err)
	if got := string(memoryAt(t, &table, address)[:5]); got != "hello" {
		t.Fatalf("found %q", got)
	}
	must(t, table.Close(second))
}

func TestUseAfterEnd(t *testing.T) {
	path := newPool(t)
	var table Table
	number, err := table.Open(path, false)
	must(t, err)
	address, err := table.Alloc(number, "a", nvram.MiB)
	must(t, err)
	must(t, table.Free(number, "a"))
	wantCode(t, table.Free(number, "a"), syscall.ENOENT)
	wantCode(t, table.Persist(address, 1), syscall.EFAULT)
	must(t, table.Close(number))
	wantCode(t, table.Close(number), syscall.EBADF)
	_, err = table.Alloc(number, "b", 1)
	wantCode(t, err, syscall.EBADF)
	_, _, err = table.Map(number, "a")
	wantCode(t, err, syscall.EBADF)
	wantCode(t, table.Free(number, "a"), syscall.EBADF)
	_, err = table.Regions(number)
	wantCode(t, err, syscall.EBADF)
	_, err = table.Info(number)
	wantCode(t, err, syscall.EBADF)
}

func TestReadOnly(t *testing.T) {
	path := newPool(t)
	var table Table
	number, err := table.Open(path, false)
	must(t, err)
	_, err = table.Alloc(number, "a", 1)
	must(t, err)
	reader, err := table.Open(path, true) // beside the other
	must(t, err)
	address, _, err := table.Map(reader, "a")
	must(t, err)
	wantCode(t, table.Persist(address, 1), syscall.EROFS)
	_, err = table.Alloc(reader, "b", 1)
	wantCode(t, err, syscall.EROFS)
	wantCode(t, table.Free(reader, "a"), syscall.EROFS)
	must(t, table.Close(reader))
	must(t, table.Close(number))
}

func TestRegionsOfMachinesAreLeftAlone(t *testing.T) {
	path := newPool(t)
	p, err := nvram.Open(path)
	must(t, err)
	_, err = p.Alloc(nvram.Request{Name: "vm", Size: nvram.MiB, Use: nvram.UseRAM}, nvram.Request{Name: "vm.state", Size: nvram.MiB, Use: nvram.UseState})
	must(t, err)
	must(t, p.Close())
	var table Table
	number, err := table.Open(path, false)
	must(t, err)
	for _, name := range []string{"vm", "vm.state"} {
		_, _, err := table.Map(number, name)
		wantCode(t, err, syscall.EPERM)
		wantCode(t, table.Free(number, name), syscall.EPERM)
	}
	regions, err := table.Regions(number)
	must(t, err)
	if len(regions) != 2 {
		t.Fatalf("regions: %+v", regions)
	}
	must(t, table.Close(number))
}

// recorded is a table with one region of four pages, at an address of its own, that records what is done to it.
func recorded(t *testing.T) (*Table, uintptr, *nvramtest.Recorder) {
	t.Helper()
	recorder := nvramtest.NewRecorder(make([]byte, 4*4096))
	address := uintptr(unsafe.Pointer(&recorder.Bytes()[0]))
	table := &Table{}
	table.add(&region{address: address, size: 4 * 4096, memory: recorder, unmap: func() error { return nil }})
	return table, address, recorder
}

// A store survives every crash behind its Persist, and not behind one of the bytes beside it: so it is the region's own flush, of the right
// bytes, and its fence that count.
func TestPersistFlushesAndFences(t *testing.T) {
	table, address, recorder := recorded(t)
	survives := func(off int) bool {
		lost := false
		for state := range recorder.CrashStates(16, 1) {
			if state.Point == recorder.Len() && state.Image[off] == 0 {
				lost = true
			}
		}
		return !lost
	}
	const off = 4096
	recorder.Store(off, []byte{1})
	if survives(off) {
		t.Fatal("a store survives by itself: the recorder is blind")
	}
	must(t, table.Persist(address+off-64, 64))
	must(t, table.Persist(address+off+64, 64))
	if survives(off) {
		t.Fatal("a store survives because of its neighbours")
	}
	must(t, table.Persist(address+off, 1))
	if !survives(off) {
		t.Fatal("a persisted store can be lost")
	}
}

// failingMemory is a device that lost its power.
type failingMemory struct{ nvram.Memory }

func (failingMemory) Fence() error { return syscall.EIO }

func TestPersistReportsTheDevice(t *testing.T) {
	table, address, _ := recorded(t)
	table.regions[0].memory = failingMemory{table.regions[0].memory}
	wantCode(t, table.Persist(address, 1), syscall.EIO)
}

func TestPersistStaysInOneRegion(t *testing.T) {
	table, address, _ := recorded(t)
	const size = 4 * 4096
	for _, test := range []struct {
		name    string
		address uintptr
		size    nvram.Bytes
		fits    bool
	}{
		{"all", address, size, true},
		{"nothing", address, 0, true},
		{"nothing at the end", address + size, 0, true},
		{"last byte", address + size - 1, 1, true},
		{"beyond the end", address + size - 1, 2, false},
		{"at the end", address + size, 1, false},
		{"before the start", address - 1, 1, false},
		{"across the start", address - 1, 2, false},
		{"more than there is", address, ^nvram.Bytes(0), false},
		{"round the address space", address + 64, ^nvram.Bytes(63), false},
	} {
		err := table.Persist(test.address, test.size)
		if test.fits != (err == nil) {
			t.Errorf("%s: %v", test.name, err)
		}
		if err != nil && !errors.Is(err, ErrNotMapped) {
			t.Errorf("%s: %v is not ErrNotMapped", test.name, err)
		}
	}
}

// The race detector watches this one. Close comes in the middle of everything.
func TestManyThreads(t *testing.T) {
	path := newPool(t)
	var table Table
	number, err := table.Open(path, false)
	must(t, err)
	shared, err := table.Alloc(number, "shared", 1)
	must(t, err)
	var started, done sync.WaitGroup
	for n := range 6 {
		started.Add(1)
		done.Go(func() {
			name := fmt.Sprintf("r%d", n)
			for i := 0; ; i++ {
				err := oneRound(&table, number, name, shared)
				if i == 0 {
					started.Done()
				}
				switch {
				case err == nil:
				case errors.Is(err, ErrNotOpen), errors.Is(err, ErrNotMapped): // closed
					return
				default:
					t.Errorf("%s: %v", name, err)
					return
				}
			}
		})
	}
	started.Wait()
	must(t, table.Close(number))
	done.Wait()
	if len(table.regions) != 0 || len(table.pools) != 0 {
		t.Fatalf("left over: %d regions, %d pools", len(table.regions), len(table.pools))
	}
	report, err := nvram.Check(path)
	must(t, err)
	if len(report.Findings) > 0 {
		t.Fatalf("check: %+v", report.Findings)
	}
}

func oneRound(table *Table, number uint64, name string, shared uintptr) error {
	address, err := table.Alloc(number, name, 1)
	if err != nil {
		return err
	}
	if err := table.Persist(address, 4096); err != nil {
		return err
	}
	if err := table.Persist(shared, 64); err != nil {
		return err
	}
	again, _, err := table.Map(number, name)
	if err != nil {
		return err
	}
	if again != address {
		return fmt.Errorf("mapped at %#x and at %#x", address, again)
	}
	return table.Free(number, name)
}

// Every code is in the header's list, and every error of package nvram has one of its own.
func TestCodesAreDocumented(t *testing.T) {
	header, err := os.ReadFile("../nvram.h")
	must(t, err)
	documented := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^ \*     (E[A-Z]+) `).FindAllSubmatch(header, -1) {
		documented[string(m[1])] = true
	}
	for _, c := range codes {
		name := unix.ErrnoName(c.code)
		if name == "EFSCORRUPTED" {
			name = "EUCLEAN" // the same number
		}
		if !documented[name] {
			t.Errorf("nvram.h does not list %s (%v)", name, c.err)
		}
	}
	source, err := os.ReadFile("../../nvram/errors.go")
	must(t, err)
	mapped, err := os.ReadFile("errno.go")
	must(t, err)
	for _, m := range regexp.MustCompile(`(?m)^\t(Err[A-Za-z]+) +=`).FindAllSubmatch(source, -1) {
		if !strings.Contains(string(mapped), "{nvram."+string(m[1])+", ") {
			t.Errorf("nvram.%s has no code", m[1])
		}
	}
	wantCode(t, &os.PathError{Op: "open", Path: "x", Err: syscall.EACCES}, syscall.EACCES)
	wantCode(t, errors.New("an argument"), syscall.EINVAL)
}
