package floor

import (
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/bench/power"
	"github.com/nv-hypervisor/nv-hypervisor/vm/saver"
)

// Wake measures the least that being told of an event costs: a thread that waits in
// read(2), at the priority of the product's if realtime is set, is woken by another.
// What it takes is the kernel's, and that of whoever runs this machine below the kernel.
func Wake(realtime bool) (time.Duration, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return 0, fmt.Errorf("bare wake-up: %w", err)
	}
	defer unix.Close(fd)
	ready := make(chan error)
	woken := make(chan int64)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		ready <- setPriorities([]thread{{0, loopPriority}}, realtime)
		var event [8]byte
		unix.Read(fd, event[:])
		woken <- saver.Now()
	}()
	refused := <-ready
	time.Sleep(time.Millisecond) // until it waits
	var sent int64
	power.Act(func() {
		sent = saver.Now()
		unix.Write(fd, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	})
	took := time.Duration(<-woken - sent)
	if refused != nil {
		return 0, fmt.Errorf("bare wake-up: %w", refused)
	}
	return took, nil
}
