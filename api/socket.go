package api

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

// maxSocketPath is the longest path of a unix socket: sun_path of
// sockaddr_un(7) has 108 bytes, one of them for the final NUL.
const maxSocketPath = 107

// ErrSocketInUse means that a daemon already answers on the socket.
var ErrSocketInUse = errors.New("another nvhd is running")

// CheckSocketPath refuses a path no unix socket can have.
func CheckSocketPath(path string) error {
	if path == "" {
		return vm.WithRemedy(invalid("the socket path is empty"), "Give the path of the daemon's socket.")
	}
	if len(path) > maxSocketPath {
		return vm.WithRemedy(
			invalid("socket path of %d bytes: %s: the kernel allows %d", len(path), path, maxSocketPath),
			"Choose a shorter path for the socket.")
	}
	return nil
}

// Listen creates the daemon's socket with mode 0660, owned by group unless that
// is empty. A socket file that a dead daemon left behind is replaced; a live
// one gives ErrSocketInUse. Of two daemons that start at the same moment one
// wins: the file path+".lock" is locked as long as the listener is open.
func Listen(path, group string) (net.Listener, error) {
	if err := CheckSocketPath(path); err != nil {
		return nil, err
	}
	gid := -1
	if group != "" {
		var err error
		if gid, err = groupID(group); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("create the socket's directory: %w", err)
	}
	lock, err := lockSocket(path)
	if err != nil {
		return nil, err
	}
	l, err := listenLocked(path, gid)
	if err != nil {
		lock.Close()
		return nil, err
	}
	return &listener{UnixListener: l, lock: lock}, nil
}

func lockSocket(path string) (*os.File, error) {
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the socket: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, inUse(path)
		}
		return nil, fmt.Errorf("lock the socket %s: %w", path, err)
	}
	return lock, nil
}

func listenLocked(path string, gid int) (*net.UnixListener, error) {
	if err := removeStale(path); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	// Until here the mode is the umask's. Peers are checked one by one anyway.
	if err := errors.Join(os.Chmod(path, 0o660), os.Chown(path, -1, gid)); err != nil {
		l.Close()
		return nil, fmt.Errorf("restrict %s: %w", path, err)
	}
	return l, nil
}

// removeStale removes the socket file of a daemon that is gone.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at the socket: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return vm.WithRemedy(fmt.Errorf("%s is there and is not a socket", path),
			"Move it away or choose another path for the socket.")
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		conn.Close()
		return inUse(path)
	}
	// Only a refused connection proves that nobody listens: a daemon whose
	// backlog is full gives EAGAIN.
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%w: %s is there and does not answer: %w", ErrSocketInUse, path, err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove the stale socket: %w", err)
	}
	return nil
}

func inUse(path string) error {
	return vm.WithRemedy(fmt.Errorf("%w: it answers on %s", ErrSocketInUse, path),
		"Stop it first, or give this one a socket of its own.")
}

func groupID(name string) (int, error) {
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, vm.WithRemedy(fmt.Errorf("socket group %q: %w", name, err),
			fmt.Sprintf("Create it with `groupadd --system %s` or change the configured group.", name))
	}
	return strconv.Atoi(g.Gid)
}

// listener is a unix listener that holds the lock beside its socket.
type listener struct {
	*net.UnixListener
	lock *os.File
	once sync.Once
}

func (l *listener) Close() error {
	err := l.UnixListener.Close()
	l.once.Do(func() { l.lock.Close() })
	return err
}
