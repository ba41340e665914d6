package main

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/kmod/abi"
	"github.com/nv-hypervisor/nv-hypervisor/pod/kmod"
)

var ioctlChecks = []check{
	{"the version is the header's", func(m *machine) error {
		d, err := kmod.Open(kmod.DefaultPath)
		if err != nil {
			return err
		}
		defer d.Close()
		version, err := d.Version()
		if err == nil && version != abi.Version {
			err = fmt.Errorf("version %d", version)
		}
		return err
	}},
	{"unknown requests give ENOTTY", opened(unix.O_RDWR, func(f file) error {
		for _, request := range []uintptr{0, 5, abi.IoctlSelfTest + 1, abi.IoctlPark + 1<<16, abi.IoctlFlush | 1<<30, unix.TCGETS} {
			if err := wantError(fmt.Sprintf("%#x", request), f.ioctlAt(request, 0), unix.ENOTTY); err != nil {
				return err
			}
		}
		return nil
	})},
	{"bad addresses give EFAULT", opened(unix.O_RDWR, func(f file) error {
		const ofTheKernel = 0xffff888000000000
		for _, request := range []uintptr{abi.IoctlVersion, abi.IoctlStats, abi.IoctlFlush, abi.IoctlPark} {
			for _, address := range []uintptr{0, 1, ofTheKernel} {
				if err := wantError(fmt.Sprintf("%#x at %#x", request, address), f.ioctlAt(request, address), unix.EFAULT); err != nil {
					return err
				}
			}
		}
		return nil
	})},
	{"who may only read may only look", opened(unix.O_RDONLY, func(f file) error {
		var anything [64]byte
		for _, request := range []uintptr{abi.IoctlFlush, abi.IoctlPark, abi.IoctlSelfTest} {
			if err := wantError(fmt.Sprintf("%#x", request), f.ioctl(request, unsafe.Pointer(&anything)), unix.EBADF); err != nil {
				return err
			}
		}
		_, err := f.stats()
		return err
	})},
	{"opening for writing alone gives EINVAL", func(*machine) error {
		f, err := open(unix.O_WRONLY)
		if err == nil {
			f.close()
		}
		return wantError("open", err, unix.EINVAL)
	}},
	{"bad parks give EINVAL", opened(unix.O_RDWR, func(f file) error {
		for _, park := range []abi.Park{
			{}, {TimeoutNS: abi.ParkMaxNS + 1}, {TimeoutNS: ^uint64(0)}, {TimeoutNS: 1, Reserved: 1},
		} {
			if err := wantError(fmt.Sprintf("%+v", park), f.ioctl(abi.IoctlPark, unsafe.Pointer(&park)), unix.EINVAL); err != nil {
				return err
			}
		}
		return nil
	})},
	{"flush", flush},
	{"flushes from all sides", opened(unix.O_RDWR, manyFlushes)},
	{"Flush, Park and Decode do not allocate", allocations},
}

func flush(m *machine) error {
	f, err := open(unix.O_RDWR)
	if err != nil {
		return err
	}
	defer f.close()
	shortest := time.Hour
	for range 20 {
		var took uint64
		before := monotonic()
		if err := f.ioctl(abi.IoctlFlush, unsafe.Pointer(&took)); err != nil {
			return err
		}
		if all := monotonic() - before; took == 0 || took > all {
			return fmt.Errorf("took %d ns by its own account, %d ns by ours", took, all)
		}
		shortest = min(shortest, time.Duration(took))
	}
	m.say("figure flush-shortest %v", shortest)
	return nil
}

func manyFlushes(f file) error {
	errs := make([]error, 4)
	var all sync.WaitGroup
	for i := range errs {
		all.Go(func() {
			for range 50 {
				var took uint64
				errs[i] = errors.Join(errs[i], f.ioctl(abi.IoctlFlush, unsafe.Pointer(&took)))
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// allocations counts as testing.AllocsPerRun does, which needs a test binary.
func allocations(*machine) error {
	d, err := kmod.Open(kmod.DefaultPath)
	if err != nil {
		return err
	}
	defer d.Close()
	buffer := make([]byte, 4096)
	run := func() {
		err = d.Flush()
		if err == nil {
			_, err = d.Park(time.Millisecond)
		}
		d.Decode(buffer)
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	run()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 20 {
		run()
	}
	runtime.ReadMemStats(&after)
	if n := after.Mallocs - before.Mallocs; n >= 20 && err == nil {
		err = fmt.Errorf("%d allocations in 20 runs", n)
	}
	return err
}
