package powersupply

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// kernelGroup is the multicast group in which the kernel itself speaks; udev repeats its events in group 2.
const kernelGroup = 1

// largestUevent is above what the kernel composes: UEVENT_BUFFER_SIZE (include/linux/kobject.h), 2 KiB, and a header.
const largestUevent = 8 << 10

// uevents is a socket on which the kernel tells of devices. Its messages have no netlink header, so
// what a netlink library does is of no use for them.
type uevents struct {
	file *os.File // for its deadlines and because Close ends a read
	raw  syscall.RawConn
}

func dialUevents() (listener, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("listen to the kernel's uevents: %w: allow AF_NETLINK (systemd: RestrictAddressFamilies)", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernelGroup}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("join the kernel's uevents: %w", err)
	}
	file := os.NewFile(uintptr(fd), "uevents")
	raw, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("listen to the kernel's uevents: %w", err)
	}
	return &uevents{file, raw}, nil
}

// errOverrun: the socket's buffer was full and messages are lost.
var errOverrun = errors.New("uevents were lost")

// next returns the next message of the kernel that is a uevent.
func (u *uevents) next(p []byte) (uevent, error) {
	for {
		var n int
		var from unix.Sockaddr
		var err error
		if rawErr := u.raw.Read(func(fd uintptr) bool {
			n, from, err = unix.Recvfrom(int(fd), p, 0)
			return err != unix.EAGAIN && err != unix.EINTR
		}); rawErr != nil {
			return uevent{}, rawErr
		}
		if err == unix.ENOBUFS {
			return uevent{}, errOverrun
		}
		if err != nil {
			return uevent{}, err
		}
		// Only root can send to the group, and only the kernel's address is 0.
		if sender, ok := from.(*unix.SockaddrNetlink); !ok || sender.Pid != 0 {
			continue
		}
		if e, err := parseUevent(p[:n]); err == nil {
			return e, nil
		}
	}
}

// listen makes changed ready whenever a supply may have changed, until ctx is done, or for the last time when it fails.
// It closes the socket.
func (u *uevents) listen(ctx context.Context, changed chan<- struct{}) error {
	stop := context.AfterFunc(ctx, func() { u.file.Close() })
	defer func() {
		if stop() {
			u.file.Close()
		}
	}()
	for p := make([]byte, largestUevent); ; {
		e, err := u.next(p)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil && e.subsystem != "power_supply" {
			continue
		}
		select {
		case changed <- struct{}{}:
		default: // a look is due anyway
		}
		if err != nil && err != errOverrun {
			return fmt.Errorf("listen to the kernel's uevents: %w", err)
		}
	}
}

// roundTrip asks for a uevent by writing to a device's file and waits for it. It closes the socket.
func (u *uevents) roundTrip(ctx context.Context, file string) error {
	defer u.file.Close()
	id := uuid()
	if err := ask(file, "change "+id); err != nil {
		return fmt.Errorf("ask for a uevent: %w: run as root, with /sys writable", err)
	}
	defer context.AfterFunc(ctx, func() { u.file.SetReadDeadline(time.Unix(1, 0)) })()
	for p := make([]byte, largestUevent); ; {
		e, err := u.next(p)
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("the uevent that was asked for did not come: %w: uevents reach the initial network namespace only", ctx.Err())
		case err != nil && err != errOverrun:
			return fmt.Errorf("wait for a uevent: %w", err)
		case err == nil && e.synthetic == id:
			return nil
		}
	}
}

func ask(file, what string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(what)
	return errors.Join(err, f.Close())
}

// uuid is a random one (RFC 9562, version 4), the form in which the kernel takes the name of a synthetic event.
func uuid() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
