package qemu_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/qemu"
)

// TestForeignCommandLine takes a command line as people write them through a save
// and a load, with the devices that QEMU adds by itself.
func TestForeignCommandLine(t *testing.T) {
	onEach(t, func(t *testing.T, b *qemu.Binary) {
		ctx := testContext(t)
		dir := t.TempDir()
		newImage(t, filepath.Join(dir, "hda"), 4<<20)
		newImage(t, filepath.Join(dir, "block"), 4<<20)
		newImage(t, filepath.Join(dir, "cd"), 4<<20)
		t.Chdir(dir)
		g, options, err := qemu.ParseCommandLine(strings.Fields("-M q35 -accel tcg -m 16 -smp 2,cores=2 -nographic hda -cdrom cd " +
			"-blockdev driver=raw,node-name=d,file.driver=file,file.filename=block -device virtio-blk-pci,drive=d " +
			"-nic user,model=e1000 -usb -device usb-tablet -rtc base=localtime -boot order=c -no-reboot"))
		must(t, err)
		if !options.Console || len(g.Disks) != 3 {
			t.Errorf("options %+v, disks %+v", options, g.Disks)
		}
		l, rt := pin(t, b, g), newRuntime(t, g.Memory)
		p := start(t, l, rt)
		for _, d := range l.Disks {
			wantOpenFlags(t, p.PID(), d.Path, !d.ReadOnly)
		}
		bound, err := p.StateBound(ctx)
		must(t, err)
		state := newFile(t, rt, "state")
		must(t, p.Dump(ctx, state))
		if size := checkState(t, state); size > int64(bound) {
			t.Errorf("the state has %d bytes, bound %v", size, bound)
		}
		must(t, p.Kill())
		rt.Incoming = true
		q := start(t, l, rt)
		must(t, q.Load(ctx, state))
		must(t, q.Cont(ctx))
	})
}

// wantOpenFlags looks at the descriptors of a process: a disk that is written is
// open for direct I/O.
func wantOpenFlags(t *testing.T, pid int, path string, direct bool) {
	t.Helper()
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	must(t, err)
	for _, fd := range fds {
		target, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, fd.Name()))
		if err != nil || target != path {
			continue
		}
		info, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%s", pid, fd.Name()))
		must(t, err)
		_, rest, _ := strings.Cut(string(info), "flags:\t")
		octal, _, _ := strings.Cut(rest, "\n")
		flags, err := strconv.ParseUint(octal, 8, 32)
		must(t, err)
		if got := flags&unix.O_DIRECT != 0; got != direct {
			t.Errorf("%s is open with direct I/O %v, want %v", path, got, direct)
		}
		return
	}
	t.Errorf("pid %d has not opened %s", pid, path)
}

func TestOwnDisksAreDirect(t *testing.T) {
	onEach(t, func(t *testing.T, b *qemu.Binary) {
		dir := t.TempDir()
		g := small
		g.Disks = []qemu.Disk{
			{Path: dir + "/none"}, {Path: dir + "/sync", Cache: "directsync"}, {Path: dir + "/ro,comma", ReadOnly: true},
			{Path: dir + "/unsafe", Cache: "unsafe", Force: true},
		}
		for _, d := range g.Disks {
			newImage(t, d.Path, 1<<20)
		}
		p := start(t, pin(t, b, g), newRuntime(t, g.Memory))
		for _, d := range g.Disks {
			wantOpenFlags(t, p.PID(), d.Path, !d.Force)
		}
	})
}

func TestDeviceThatCannotBeSaved(t *testing.T) {
	onEach(t, func(t *testing.T, b *qemu.Binary) {
		g := small
		g.Extra = []string{"-device", "nvme,serial=x"}
		l := pin(t, b, g)
		_, err := qemu.Start(testContext(t), l, newRuntime(t, g.Memory))
		wantError(t, err, "its state cannot be saved")
		start(t, l, newRuntime(t, 0)) // a volatile VM may have it
	})
}
