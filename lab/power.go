package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/lab/agent"
	"github.com/nv-hypervisor/nv-hypervisor/lab/debian"
	"github.com/nv-hypervisor/nv-hypervisor/lab/emulator"
	"github.com/nv-hypervisor/nv-hypervisor/lab/plan"
	"github.com/nv-hypervisor/nv-hypervisor/lab/system"
)

// ErrOn and ErrOff are the wrong state of a host for what is asked of it.
var (
	ErrOn  = errors.New("the host is on")
	ErrOff = errors.New("the host is off")
)

// cmdline of the host's kernel. Kernel messages cost milliseconds each on an emulated serial port, moving the kernel half a
// second, and the CPU that is emulated has none of the faults that mitigations are for. Of a kernel that complains of itself, the backtraces are wanted.
//
// tsc=reliable: an emulated CPU reads this machine's own counter, the same for all. Linux does not know that, since the CPU does not
// promise it (unsynchronized_tsc in arch/x86/kernel/tsc.c), and would read the HPET instead: a device, behind a
// lock of the outer QEMU and one of its own, at every look at the time. See docs/lab.md for what that did.
const cmdline = "console=ttyS0 loglevel=5 nokaslr mitigations=off cryptomgr.notests panic=0 tsc=reliable softlockup_all_cpu_backtrace=1"

// outerQEMU is the one from backports. That of Debian 12, 7.2, loses a write to code that another CPU translates at this moment, and goes on with
// the old code for ever: see docs/lab.md. It locks the page before it translates since 8.1.
func outerQEMU(ctx context.Context, cache string) (string, error) {
	found, err := emulator.Backports(ctx, cache)
	return found.Path, err
}

// Boot is PowerOn, and waits until nvhd serves. It returns how far the host has come, also with an error.
func (h *Host) Boot(ctx context.Context) (plan.Report, error) {
	if err := h.PowerOn(ctx); err != nil {
		return plan.Report{}, err
	}
	return h.AwaitReady(ctx)
}

// PowerOn gives the host power and returns while it boots. The programs under test are those that are in
// Options.Bin now.
func (h *Host) PowerOn(ctx context.Context) error {
	unlock, err := debian.Lock(ctx, h.path(lockFile))
	if err != nil {
		return err
	}
	defer unlock()
	if h.On() {
		return fmt.Errorf("power on %s: %w", h.folder, ErrOn)
	}
	if !h.waking { // else the product is that which is in memory
		err = h.installProduct(ctx)
	}
	if err := errors.Join(err, h.writeCommand(), h.removeSockets()); err != nil {
		return fmt.Errorf("power on %s: %w", h.folder, err)
	}
	return h.spawn()
}

// installProduct makes the image with the programs under test and the plan of this boot.
func (h *Host) installProduct(ctx context.Context) error {
	work, err := os.MkdirTemp(h.folder, "product-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if err := os.Chmod(work, 0o755); err != nil {
		return err
	}
	size := int64(8 << 20)
	for _, name := range programs {
		n, err := copyProgram(filepath.Join(work, name), filepath.Join(h.config.Options.Bin, name))
		if err != nil {
			return fmt.Errorf("install %s: %w: run make build", name, err)
		}
		size += n + n/8
	}
	p := h.config.Options.plan()
	p.Standby = h.standby
	if p.POD {
		n, err := copyProgram(filepath.Join(work, plan.Module), h.config.Module)
		if err != nil {
			return err
		}
		size += n + n/8
	}
	if err := p.Write(filepath.Join(work, plan.File)); err != nil {
		return err
	}
	const mib = 1 << 20
	return system.MakeImage(ctx, h.path(productFile), work, (size+mib-1)/mib*mib)
}

func copyProgram(to, from string) (int64, error) {
	in, err := os.Open(from)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(out, in)
	return n, errors.Join(err, out.Close())
}

// removeSockets removes those of a QEMU that was killed, so that nobody connects to them instead of the new ones.
func (h *Host) removeSockets() error {
	for _, name := range append(portSockets(), monitorSocket, consoleSocket) {
		if err := os.Remove(h.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// writeCommand writes the outer QEMU's command line as a shell takes it, for somebody who wants to boot the host by hand.
func (h *Host) writeCommand() error {
	var b strings.Builder
	fmt.Fprintf(&b, "#!/bin/sh\n# Gives this emulated host power.\ncd %s || exit\nexec %s", quote(h.folder), quote(h.config.QEMU))
	for _, a := range h.args() {
		if strings.HasPrefix(a, "-") {
			b.WriteString(" \\\n\t")
		} else {
			b.WriteByte(' ')
		}
		b.WriteString(quote(a))
	}
	return os.WriteFile(h.path(commandFile), []byte(b.String()+"\n"), 0o755)
}

func quote(s string) string {
	if strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=,./:+") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// bootLimit bounds a boot when the caller does not. It takes under 20 s on two idle cores.
const bootLimit = 3 * time.Minute

// AwaitReady waits until nvhd serves, a step of the boot has failed, or the host is off.
func (h *Host) AwaitReady(ctx context.Context) (plan.Report, error) {
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	var r plan.Report
	for {
		last := h.Report(ctx, &r)
		if last == nil && r.Ready {
			return r, nil
		}
		if last == nil {
			last = r.Failure()
		}
		if r.Failure() != nil {
			return r, h.Explain(last)
		}
		if !h.On() {
			return r, h.Explain(fmt.Errorf("the outer QEMU has ended: %w", ErrOff))
		}
		select {
		case <-ctx.Done():
			return r, h.Explain(errors.Join(ctx.Err(), last))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// reportLimit bounds one question: a host that is switched on does not answer for seconds, but nobody answers on a
// port of one that was switched off.
const reportLimit = 20 * time.Second

// Report asks the host how far its boot has come.
func (h *Host) Report(ctx context.Context, r *plan.Report) error {
	ctx, cancel := context.WithTimeout(ctx, reportLimit)
	defer cancel()
	return h.session(ctx, func(c *agent.Client) error { return c.Query(ctx, r) })
}

// Tail is the end of a log, which is a file in the host's folder.
func (h *Host) Tail(name string) string {
	content, err := os.ReadFile(h.path(name))
	if err != nil {
		return "(" + err.Error() + ")"
	}
	const enough = 3000
	return string(content[max(0, len(content)-enough):])
}
