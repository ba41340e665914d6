package saver

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/vm/record"
)

// Thread is one thread of a QEMU process and the SCHED_FIFO priority it gets
// while its VM is saved. vCPU threads must rank below the others: a busy vCPU
// would otherwise starve the main loop that is to stop it.
type Thread struct {
	ID       int
	Priority int
}

// Disk is one disk image whose identity goes into the save record. Size and
// mtime are taken after QEMU has drained and flushed it. FD stays open and may
// be O_PATH, so that fstat(2) touches no directory. A block device keeps the
// identity it was opened with, because its inode does not follow writes.
type Disk struct {
	FD          int
	BlockDevice bool
	Identity    record.DiskIdentity
}

// Options say how one VM is to be saved.
type Options struct {
	Name     string
	Priority int    // higher is saved earlier
	Volatile bool   // only paused, never dumped
	Socket   string // QEMU's emergency monitor
	Capacity int    // bytes a dump may take: the size of a slot
	FileURI  bool   // hand the descriptor over as an fdset and dump to "file:" (QEMU ≥ 8.2)
	Adopted  bool   // its guest may run already, unlike that of a QEMU which waits for Cont
	Disks    []Disk

	// VolatileCaches: dirty lines of the guest's RAM in CPU caches are lost with the
	// power, so its record waits for a flush of all caches.
	VolatileCaches bool
	// FlushRAM writes back the guest's RAM where the host has no Hardware to do it. It
	// takes about as long as reading the RAM, so an outage uses it only with SlowFlush.
	FlushRAM  func() error
	SlowFlush bool
}

// Target is one VM, prepared: connection open, descriptor passed, commands
// encoded, slot chosen. Between Attach and Detach it belongs to the Saver's thread.
type Target struct {
	opt  Options
	conn int // non-blocking once handed to the Saver

	dump    int    // memfd that QEMU writes the volatile state to
	writer  int    // the open file QEMU shares: its offset is the length of the dump
	dumpMap []byte // its mapping, Capacity bytes
	uri     string

	stopLine     []byte
	stopDumpLine []byte // stop and migrate in one write: one round trip less
	dumpLine     []byte
	contLine     []byte

	commit *record.Commit // nil: not armed

	threads []Thread

	// Owned by the Saver's thread.
	phase    phase
	live     bool // marked running: its guest may have executed since its last commit
	raised   bool
	line     lineBuffer
	disks    []record.DiskIdentity
	times    times
	setup    bool // this dump's MIGRATION "setup" was seen
	length   int  // bytes dumped
	failure  failure
	detail   []byte // what QEMU said of the save, at most detailSize bytes
	refusal  []byte // what it said of the preparation step waited for, if it refused
	waiter   chan error
	waitFor  []byte // reply id the waiter waits for
	waitTill int64
	attached bool
	gone     bool // QEMU hung up during a save

	released atomic.Bool // see Released
}

const detailSize = 512

// ErrHandshake is a monitor that did not complete QMP's greeting or refused a
// preparation step.
var ErrHandshake = errors.New("emergency monitor handshake failed")

// Connect opens the VM's emergency monitor and prepares everything that does not
// depend on the next record. It may block until ctx ends.
func Connect(ctx context.Context, opt Options) (*Target, error) {
	t := &Target{opt: opt, conn: -1, dump: -1, writer: -1}
	if err := t.open(ctx); err != nil {
		t.Close()
		return nil, fmt.Errorf("%s: prepare emergency save: %w", opt.Name, err)
	}
	return t, nil
}

func (t *Target) open(ctx context.Context) error {
	var err error
	if t.conn, err = dialMonitor(ctx, t.opt.Socket); err != nil {
		return err
	}
	t.line.data = make([]byte, lineBufferSize)
	t.detail = make([]byte, 0, detailSize)
	t.refusal = make([]byte, 0, detailSize)
	t.disks = make([]record.DiskIdentity, len(t.opt.Disks))
	t.stopLine = []byte(`{"execute":"stop","id":"` + idStop + `"}` + "\n")
	t.contLine = []byte(`{"execute":"cont","id":"` + idCont + `"}` + "\n")
	if t.opt.Volatile {
		return nil
	}
	if err := t.openDump(); err != nil {
		return err
	}
	t.uri = "fd:" + fdName
	if t.opt.FileURI {
		t.uri = "file:/dev/fdset/" + fdSet
	}
	t.dumpLine = []byte(`{"execute":"migrate","arguments":{"uri":"` + t.uri + `"},"id":"` + idDump + `"}` + "\n")
	t.stopDumpLine = append(append([]byte(nil), t.stopLine...), t.dumpLine...)
	return nil
}

// openDump makes the buffer QEMU dumps into: anonymous memory, allocated now, so
// that no page fault of ours waits in the hot path.
func (t *Target) openDump() error {
	fd, err := unix.MemfdCreate("nvh-state-"+t.opt.Name, unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("memfd_create: %w", err)
	}
	t.dump = fd
	// QEMU takes a descriptor of an fdset only with the exact access mode.
	t.writer, err = unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("reopen the state buffer: %w", err)
	}
	if err := unix.Fallocate(fd, 0, 0, int64(t.opt.Capacity)); err != nil {
		return fmt.Errorf("reserve %d bytes of memory for the volatile state: %w", t.opt.Capacity, err)
	}
	t.dumpMap, err = unix.Mmap(fd, 0, t.opt.Capacity, unix.PROT_READ, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return fmt.Errorf("map the volatile state buffer: %w", err)
	}
	return nil
}

// Close releases the target. It must not be attached.
func (t *Target) Close() {
	if t.dumpMap != nil {
		unix.Munmap(t.dumpMap)
		t.dumpMap = nil
	}
	for _, fd := range []*int{&t.writer, &t.dump, &t.conn} {
		if *fd >= 0 {
			unix.Close(*fd)
			*fd = -1
		}
	}
	for i := range t.opt.Disks {
		if t.opt.Disks[i].FD >= 0 {
			unix.Close(t.opt.Disks[i].FD)
			t.opt.Disks[i].FD = -1
		}
	}
}

// Released tells whether Cont let the guest run, or be ready to, and no save has
// stopped it since. It is false before the result of that save can be seen anywhere.
func (t *Target) Released() bool { return t.released.Load() }

// Name is the VM's name.
func (t *Target) Name() string { return t.opt.Name }

// DiskIdentities are the disks as they were when the target was connected.
func (t *Target) DiskIdentities() []record.DiskIdentity {
	ids := make([]record.DiskIdentity, len(t.opt.Disks))
	for i, d := range t.opt.Disks {
		ids[i] = d.Identity
	}
	return ids
}

// dialMonitor connects to a QMP socket and completes the handshake in blocking
// mode with deadlines, then switches the descriptor to non-blocking.
func dialMonitor(ctx context.Context, path string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	limit := 10 * time.Second
	if d, ok := ctx.Deadline(); ok {
		limit = min(limit, max(time.Until(d), time.Millisecond))
	}
	tv := unix.NsecToTimeval(limit.Nanoseconds())
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv)
	err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	if err == nil {
		err = handshake(fd)
	}
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("%w: %s: %w", ErrHandshake, path, err)
	}
	return fd, nil
}

func handshake(fd int) error {
	if _, err := readUntil(fd, []byte(`"QMP"`)); err != nil {
		return fmt.Errorf("no greeting (is another client connected?): %w", err)
	}
	if _, err := unix.Write(fd, []byte(`{"execute":"qmp_capabilities","id":"`+idHello+`"}`+"\n")); err != nil {
		return fmt.Errorf("send qmp_capabilities: %w", err)
	}
	if _, err := readUntil(fd, []byte(`"`+idHello+`"`)); err != nil {
		return fmt.Errorf("qmp_capabilities: %w", err)
	}
	return nil
}
