package floor

import (
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/bench/power"
)

// wakeLimit is how long the bare thread waits to be woken.
const wakeLimit = time.Second

// errWake is a wake-up that took longer than wakeLimit.
var errWake = errors.New("bare wake-up: the thread was not woken in time")

// Wake measures the least that being told of an event costs: a thread that waits, at
// the priority of the product's if realtime is set, is woken by another. What that
// takes is the kernel's, and that of whoever runs this machine below the kernel.
func Wake(realtime bool) (time.Duration, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return 0, fmt.Errorf("bare wake-up: %w", err)
	}
	defer unix.Close(fd)
	defer quiet()()
	ready := make(chan error)
	woken := make(chan int64)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		ready <- setPriorities([]thread{{0, loopPriority}}, realtime)
		waiting := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, err := await(waiting, wakeLimit); err != nil || n == 0 {
			woken <- 0
			return
		}
		woken <- now()
	}()
	refused := <-ready
	time.Sleep(time.Millisecond) // until it waits
	var sent int64
	power.Act(func() {
		sent = now()
		err = write(fd, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	})
	at := <-woken
	switch {
	case refused != nil || err != nil:
		return 0, fmt.Errorf("bare wake-up: %w", errors.Join(refused, err))
	case at == 0:
		return 0, errWake
	}
	return time.Duration(at - sent), nil
}
