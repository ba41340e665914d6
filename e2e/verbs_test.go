package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/lab/guest"
	"github.com/nv-hypervisor/nv-hypervisor/lab/rig"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

// The paper's names, on a guest: dump-devices saves and ends QEMU, a saved VM stays saved over a boot of the host,
// nv-restore continues it. suspend --all does the first for all, and the next start of the daemon continues them.
func TestSaveRestoreSuspend(t *testing.T) {
	eachQEMU(t, func(t *testing.T, opt rig.Options) {
		r, ctx := boot(t, opt)
		must(t, r.Launch(ctx, r.Guest("db", memory)))
		tick(t, ctx, r, "db", 2)
		events := follow(t, ctx, r)

		before := len(r.Ticks("db"))
		_, err := r.Nvh(ctx, "dump-devices", "db")
		must(t, err)
		if len(r.QEMUs()) != 0 {
			t.Error("QEMU still runs after the save")
		}
		must(t, r.Cut())
		must(t, r.Boot(ctx))
		if info, err := r.Client().Info(ctx, "db"); err != nil || info.State != vm.Saved {
			t.Fatalf("after a boot of the host the VM that was saved is %s, %v", info.State, err)
		}
		_, err = r.Nvh(ctx, "nv-restore", "db")
		must(t, err)
		continued(t, ctx, r, "db", before)

		before = len(r.Ticks("db"))
		_, err = r.Nvh(ctx, "suspend", "--all")
		must(t, err)
		must(t, r.Cut())
		must(t, r.Boot(ctx))
		continued(t, ctx, r, "db", before)
		if text := events(); !strings.Contains(text, "devices-dumped") {
			t.Errorf("no devices-dumped among the events:\n%s", text)
		}
	})
}

// follow collects what nvh events prints until the daemon goes away.
func follow(t *testing.T, ctx context.Context, r *rig.Rig) func() string {
	t.Helper()
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "nvh"), "--format", "json", "events")
	cmd.Env = append(os.Environ(), "NVH_SOCKET="+r.Socket)
	var out bytes.Buffer
	cmd.Stdout = &out
	must(t, cmd.Start())
	time.Sleep(200 * time.Millisecond) // until it is connected
	return func() string { cmd.Process.Kill(); cmd.Wait(); return out.String() }
}

// An existing QEMU command line becomes persistent by one option, and takes its state up again by another.
func TestForeignCommandLine(t *testing.T) {
	eachQEMU(t, func(t *testing.T, opt rig.Options) {
		r, ctx := boot(t, opt)
		disk, err := r.Disk("old.img", 16<<20)
		must(t, err)
		g := r.Guest("legacy", memory)
		line := []string{
			"-machine", "q35", "-m", "192", "-nographic", "-kernel", g.Kernel, "-initrd", g.Initrd, "-append", g.Cmdline,
			"-drive", "file=" + disk.Path + ",format=raw,if=virtio,cache=none", "-nic", "none",
		}
		run := func(args ...string) *exec.Cmd {
			cmd := exec.CommandContext(ctx, filepath.Join(bin, "nvh"), append(args, line...)...)
			cmd.Env = append(os.Environ(), "NVH_SOCKET="+r.Socket)
			log, err := os.OpenFile(filepath.Join(r.Dir, "nvh-qemu.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
			must(t, err)
			cmd.Stdout, cmd.Stderr = log, log
			must(t, cmd.Start())
			must(t, log.Close())
			t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
			return cmd
		}
		run("qemu", "-nvm", "legacy")
		first := tick(t, ctx, r, "legacy", 3)
		must(t, r.Signal())
		_, err = r.AwaitState(ctx, "legacy", vm.Saved)
		must(t, err)
		must(t, r.Cut())
		before := len(r.Ticks("legacy"))
		must(t, r.Boot(ctx))
		continued(t, ctx, r, "legacy", before)

		_, err = r.Nvh(ctx, "save", "legacy")
		must(t, err)
		before = len(r.Ticks("legacy"))
		run("qemu", "-nvm", "legacy", "-nv-restore")
		_, err = r.AwaitTick(ctx, "legacy", before, func(k guest.Tick) bool { return k.BootID == first.BootID && k.SumOK })
		if err != nil {
			log, _ := os.ReadFile(filepath.Join(r.Dir, "nvh-qemu.log"))
			t.Fatalf("%v\n%s", err, log)
		}
	})
}
