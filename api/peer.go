package api

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/internal/connlimit"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

// peer is who is at the other end of a connection, as the kernel recorded it
// when they connected (SO_PEERCRED, SO_PEERGROUPS; unix(7)).
type peer struct {
	PID    int
	UID    int
	Groups []int // the primary group and the supplementary ones
	Err    error // why it could not be determined
}

// access says who is served besides root.
type access struct {
	UID int // the daemon's own user
	GID int // members of this group; -1: none
	// Group is the name of GID, for the remedy.
	Group string
}

func newAccess(group string) (access, error) {
	a := access{UID: os.Geteuid(), GID: -1, Group: group}
	if group == "" {
		return a, nil
	}
	gid, err := groupID(group)
	a.GID = gid
	return a, err
}

// check returns nil when p is served.
func (a access) check(p peer) error {
	if p.Err != nil {
		return fmt.Errorf("%w: the peer is unknown: %w", ErrForbidden, p.Err)
	}
	if p.UID == 0 || p.UID == a.UID || (a.GID >= 0 && slices.Contains(p.Groups, a.GID)) {
		return nil
	}
	remedy := "Run the command as root, or set `group` in the daemon's configuration and join that group."
	if a.Group != "" {
		remedy = fmt.Sprintf("Run the command as root, or join the group with `usermod -aG %s USER` and log in again.", a.Group)
	}
	return vm.WithRemedy(fmt.Errorf("%w: user %d may not use this daemon", ErrForbidden, p.UID), remedy)
}

type peerKey struct{}

// withPeer keeps the peer of a new connection for its requests.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	c = connlimit.Unwrap(c)
	return context.WithValue(ctx, peerKey{}, peerOf(c))
}

func peerFrom(ctx context.Context) peer {
	if p, ok := ctx.Value(peerKey{}).(peer); ok {
		return p
	}
	return peer{Err: fmt.Errorf("no connection")}
}

func peerOf(c net.Conn) (p peer) {
	conn, ok := c.(*net.UnixConn)
	if !ok {
		return peer{Err: fmt.Errorf("%T is not a unix socket", c)}
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return peer{Err: err}
	}
	if err := raw.Control(func(fd uintptr) { p = credentials(int(fd)) }); err != nil {
		return peer{Err: err}
	}
	return p
}

func credentials(fd int) peer {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return peer{Err: fmt.Errorf("SO_PEERCRED: %w", err)}
	}
	groups, err := supplementaryGroups(fd)
	if err != nil {
		return peer{Err: err}
	}
	return peer{PID: int(cred.Pid), UID: int(cred.Uid), Groups: append(groups, int(cred.Gid))}
}

// supplementaryGroups asks for SO_PEERGROUPS (Linux 4.13), which golang.org/x/sys
// has no wrapper for.
func supplementaryGroups(fd int) ([]int, error) {
	groups := make([]uint32, 64)
	for {
		size := uint32(len(groups)) * 4
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		if errno == unix.ERANGE { // size now says how much is needed
			groups = make([]uint32, size/4)
			continue
		}
		if errno != 0 {
			return nil, fmt.Errorf("SO_PEERGROUPS: %w", errno)
		}
		var ids []int
		for _, g := range groups[:size/4] {
			ids = append(ids, int(g))
		}
		return ids, nil
	}
}
