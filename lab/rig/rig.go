// Package rig runs the real product on one machine, with everything of its own: a
// pool, an nvhd, QEMUs with the small Linux guest, and a power that can be cut.
//
// The cut is SIGKILL of the daemon and of every QEMU, without warning. What
// survives is what survives a power failure: the pool (here tmpfs, standing in for
// NVRAM) and the disk. The daemon that boots afterwards knows nothing else.
//
// A Rig is used by one goroutine at a time. Close leaves no process and no file.
package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/api"
	"github.com/nv-hypervisor/nv-hypervisor/lab/guest"
	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/qemu"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

// Options describe a rig. Only Bin is required.
type Options struct {
	Bin    string       // folder with nvh and nvhd
	QEMU   string       // binary for all VMs; empty: the installed one
	Kind   nvram.Kind   // of the pool; empty: shm
	Layout nvram.Layout // of the pool; empty: directory
	Size   nvram.Bytes  // of the pool; 0: 4 GiB
	Config string       // more lines for nvhd.toml, before the pool
	Within []string     // a command that executes the daemon it is given: in a namespace, say
	Output io.Writer    // the daemon's log; nil: kept in a file, shown by errors
}

// Rig is the machine.
type Rig struct {
	Dir    string // everything but the pool; short, because sockets lie in it
	Pool   string // path of the pool
	Socket string // of nvhd

	opt    Options
	image  guest.Image
	client *api.Client
	daemon *exec.Cmd
	ended  chan error // gets how the daemon ended
}

// limit bounds waits that nobody else bounds.
const limit = 2 * time.Minute

// New makes a rig whose daemon is not started yet.
func New(ctx context.Context, opt Options) (*Rig, error) {
	if opt.Kind == "" {
		opt.Kind = nvram.KindShm
	}
	if opt.Layout == "" {
		opt.Layout = nvram.LayoutDirectory
	}
	if opt.Size == 0 {
		opt.Size = 4 * nvram.GiB
	}
	cache, err := CacheDir()
	if err != nil {
		return nil, err
	}
	image, err := guest.Build(ctx, cache)
	if err != nil {
		return nil, fmt.Errorf("rig: %w", err)
	}
	dir, err := os.MkdirTemp("/tmp", "nvh-rig-")
	if err != nil {
		return nil, fmt.Errorf("rig: %w", err)
	}
	r := &Rig{
		Dir: dir, Pool: filepath.Join("/dev/shm", filepath.Base(dir)), Socket: filepath.Join(dir, "run", "nvhd.sock"),
		opt: opt, image: image,
	}
	if err := r.prepare(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("rig: %w", err), r.Close())
	}
	return r, nil
}

// CacheDir is where downloads are kept: $NVH_CACHE, or nvh in the user's cache folder.
func CacheDir() (string, error) {
	if dir := os.Getenv("NVH_CACHE"); dir != "" {
		return dir, nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache folder: %w: set NVH_CACHE", err)
	}
	return filepath.Join(dir, "nvh"), nil
}

func (r *Rig) prepare(ctx context.Context) error {
	out, err := r.Nvh(ctx, "nvram", "init", r.Pool, "--kind", string(r.opt.Kind), "--layout", string(r.opt.Layout), "--size", strconv.FormatUint(uint64(r.opt.Size), 10))
	if err != nil {
		return fmt.Errorf("initialise the pool: %w: %s", err, out)
	}
	return r.WriteConfig(r.opt.Config, r.Pool)
}

// ConfigPath is the daemon's configuration file.
func (r *Rig) ConfigPath() string { return filepath.Join(r.Dir, "nvhd.toml") }

// StateDir is the daemon's state directory.
func (r *Rig) StateDir() string { return filepath.Join(r.Dir, "state") }

// LogPath is the daemon's log.
func (r *Rig) LogPath() string { return filepath.Join(r.Dir, "nvhd.log") }

// WriteConfig writes the daemon's configuration with one pool, named "nv".
func (r *Rig) WriteConfig(more, pool string) error {
	content := fmt.Sprintf("state_dir = %q\nruntime_dir = %q\n", r.StateDir(), filepath.Join(r.Dir, "run"))
	if r.opt.QEMU != "" {
		content += fmt.Sprintf("qemu = %q\n", r.opt.QEMU)
	}
	content += more + fmt.Sprintf("\n[[pool]]\nname = \"nv\"\npath = %q\n", pool)
	return os.WriteFile(r.ConfigPath(), []byte(content), 0o600)
}

// Nvh runs the command line against this rig's daemon and returns what it printed.
func (r *Rig) Nvh(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(r.opt.Bin, "nvh"), args...)
	cmd.Env = append(os.Environ(), "NVH_SOCKET="+r.Socket)
	var out, problem bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problem
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("nvh %s: %w: %s", strings.Join(args, " "), err, problem.String())
	}
	return out.String(), nil
}

// Client speaks to the daemon.
func (r *Rig) Client() *api.Client { return r.client }

// Start starts the daemon and returns as soon as it answers; recovery goes on.
func (r *Rig) Start(ctx context.Context) error {
	log := r.opt.Output
	if log == nil {
		f, err := os.OpenFile(r.LogPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		log = f
	}
	args := append(slices.Clone(r.opt.Within), filepath.Join(r.opt.Bin, "nvhd"), "-config", r.ConfigPath())
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "TMPDIR="+r.Dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("rig: start nvhd: %w", err)
	}
	r.daemon, r.ended = cmd, make(chan error, 1)
	ended := make(chan struct{})
	go func() {
		r.ended <- cmd.Wait()
		close(ended)
	}()
	client, err := api.NewClient(r.Socket)
	if err != nil {
		return err
	}
	r.client = client
	return r.poll(ctx, "nvhd to answer", func() (bool, error) {
		select {
		case <-ended:
			return false, fmt.Errorf("nvhd ended: %s", r.lastLog())
		default:
		}
		s, err := client.Status(ctx)
		return err == nil && s.PID == cmd.Process.Pid, nil
	})
}

// Boot is Start, and waits until recovery is through.
func (r *Rig) Boot(ctx context.Context) error {
	if err := r.Start(ctx); err != nil {
		return err
	}
	return r.poll(ctx, "recovery", func() (bool, error) {
		s, err := r.client.Status(ctx)
		return err == nil && !s.Recovering, err
	})
}

// DaemonPID is the daemon's process id.
func (r *Rig) DaemonPID() int { return r.daemon.Process.Pid }

// Signal announces an outage, as a UPS daemon would.
func (r *Rig) Signal() error { return unix.Kill(r.DaemonPID(), unix.SIGPWR) }

// Cut is the power failure: everything dies at once.
func (r *Rig) Cut() error {
	r.KillDaemon()
	return r.killQEMUs()
}

// KillDaemon kills nvhd alone.
func (r *Rig) KillDaemon() {
	if r.daemon == nil {
		return
	}
	r.daemon.Process.Kill()
	<-r.ended
	r.daemon = nil
	if r.client != nil {
		r.client.Close()
	}
}

// Stop ends nvhd in an orderly way, as systemctl stop does; the QEMUs stay.
func (r *Rig) Stop() error {
	if err := r.daemon.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	err := <-r.ended
	r.daemon = nil
	return err
}

// QEMUs lists the process ids of this rig's QEMUs that serve a VM.
func (r *Rig) QEMUs() []int { return r.processes("path=" + r.Dir + "/run/vms/") }

// Probes lists the process ids of QEMUs that the daemon asks what they can do.
func (r *Rig) Probes() []int { return r.processes("path=" + r.Dir + "/nvh-probe-") }

// processes finds live processes by a part of their arguments.
func (r *Rig) processes(argument string) []int {
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	var pids []int
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(content, []byte(argument)) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err == nil && alive(pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func (r *Rig) killQEMUs() error {
	for range 500 {
		pids := r.QEMUs()
		if len(pids) == 0 {
			return nil
		}
		for _, pid := range pids {
			unix.Kill(pid, unix.SIGKILL)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("rig: QEMUs %v do not die", r.QEMUs())
}

// alive tells whether a process runs; a zombie does not.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	rest := stat[bytes.LastIndexByte(stat, ')')+1:]
	return !bytes.HasPrefix(bytes.TrimSpace(rest), []byte("Z"))
}

// Close cuts the power for good and removes everything.
func (r *Rig) Close() error {
	err := r.Cut()
	return errors.Join(err, os.RemoveAll(r.Pool), os.RemoveAll(r.Dir))
}

func (r *Rig) lastLog() string {
	content, err := os.ReadFile(r.LogPath())
	if err != nil {
		return err.Error()
	}
	return string(content[max(0, len(content)-2000):])
}

// poll asks until it is so.
func (r *Rig) poll(ctx context.Context, what string, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		ok, err := done()
		if ok {
			return nil
		}
		if err != nil {
			return fmt.Errorf("rig: wait for %s: %w", what, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("rig: wait for %s: %w; the daemon's log ends: %s", what, ctx.Err(), r.lastLog())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Guest is the definition of a VM that runs the workload. more are further
// parameters of its kernel command line, such as "nvh.mem=64".
func (r *Rig) Guest(name string, memory nvram.Bytes, more ...string) vm.Definition {
	return vm.Definition{Name: name, Guest: qemu.Guest{
		Memory: memory, CPUs: 1, Kernel: r.image.Kernel, Initrd: r.image.Initrd,
		Cmdline: strings.Join(append([]string{r.image.Cmdline}, more...), " "),
	}}
}

// Disk makes an empty raw image for a guest.
func (r *Rig) Disk(name string, size nvram.Bytes) (qemu.Disk, error) {
	path := filepath.Join(r.Dir, name)
	f, err := os.Create(path)
	if err != nil {
		return qemu.Disk{}, err
	}
	defer f.Close()
	return qemu.Disk{Path: path, Format: "raw"}, f.Truncate(int64(size))
}

// Ticks reads what a guest's workload has printed so far, all its boots.
func (r *Rig) Ticks(name string) []guest.Tick {
	content, err := os.ReadFile(filepath.Join(r.StateDir(), "vms", name, "console.log"))
	if err != nil {
		return nil
	}
	var ticks []guest.Tick
	for line := range bytes.Lines(content) {
		if t, ok := guest.ParseLine(string(line)); ok {
			ticks = append(ticks, t)
		}
	}
	return ticks
}

// AwaitTick waits for the first tick after the first `after` ones that is as wanted.
func (r *Rig) AwaitTick(ctx context.Context, name string, after int, want func(guest.Tick) bool) (guest.Tick, error) {
	var found guest.Tick
	err := r.poll(ctx, "a tick of guest "+name, func() (bool, error) {
		ticks := r.Ticks(name)
		for _, t := range ticks[min(after, len(ticks)):] {
			if want(t) {
				found = t
				return true, nil
			}
		}
		return false, nil
	})
	return found, err
}

// AwaitState waits until a VM is in a state.
func (r *Rig) AwaitState(ctx context.Context, name string, want vm.State) (vm.Info, error) {
	var info vm.Info
	err := r.poll(ctx, fmt.Sprintf("VM %s to be %s", name, want), func() (bool, error) {
		var err error
		info, err = r.client.Info(ctx, name)
		return err == nil && info.State == want, err
	})
	return info, err
}

// Launch creates a VM and starts it.
func (r *Rig) Launch(ctx context.Context, d vm.Definition) error {
	if _, err := r.client.Create(ctx, d); err != nil {
		return err
	}
	_, err := r.client.Start(ctx, d.Name, startOptions)
	return err
}
