package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nv-hypervisor/nv-hypervisor/api"
	"github.com/nv-hypervisor/nv-hypervisor/host"
	"github.com/nv-hypervisor/nv-hypervisor/outage"
	"github.com/nv-hypervisor/nv-hypervisor/qemu"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

const qemuLong = `Qemu makes an existing QEMU command line persistent by one option, -nvm, as in the
paper: the guest's RAM then lies in NVRAM, and an outage saves the rest.

  -nvm NAME[,pool=POOL]   the name of the VM, and the pool for its RAM
  -nv-restore             continue from the saved image; without one it fails

The other arguments are those of qemu-system-x86_64. What decides about memory,
machine, monitor and migration is taken over or refused with a reason. The first
time the VM is created; later the command line must describe the same VM. A VM
that has a saved image is only started with -nv-restore.

With -nographic or a serial port on stdio the console is attached (Ctrl-] leaves
it); with -daemonize the command returns at once; otherwise it waits until the VM
ends. Its own options --socket and --format stand before or among the others.`

func (a *app) qemuCommand() *cobra.Command {
	return &cobra.Command{
		Use: "qemu -nvm NAME[,pool=POOL] [-nv-restore] QEMU-ARGUMENT…", Short: "Run a QEMU command line as a persistent VM", Long: qemuLong,
		Example:            "  nvh qemu -nvm web -m 1G -smp 2 -drive file=web.qcow2,if=virtio,cache=none -nographic\n  nvh qemu -nvm web -nv-restore -m 1G -smp 2 -drive file=web.qcow2,if=virtio,cache=none -nographic",
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 || len(args) == 1 && (args[0] == "-h" || args[0] == "--help") {
				return cmd.Help()
			}
			line, err := a.parseQEMULine(args)
			if err != nil {
				return err
			}
			return a.runQEMULine(cmd.Context(), line)
		},
	}
}

// qemuLine is a QEMU command line with our two options.
type qemuLine struct {
	definition vm.Definition
	restore    bool
	options    qemu.Options
}

func (a *app) parseQEMULine(args []string) (qemuLine, error) {
	var line qemuLine
	rest, err := a.takeOwnOptions(args, &line)
	if err != nil {
		return line, err
	}
	if line.definition.Name == "" {
		return line, withRemedy(usagef("-nvm NAME is missing"), "`nvh qemu --help` explains it.")
	}
	if err := api.CheckName(line.definition.Name); err != nil {
		return line, err
	}
	binary, rest, err := takeBinary(rest)
	if err != nil {
		return line, err
	}
	guest, options, err := qemu.ParseCommandLine(rest)
	if err != nil {
		return line, asUsage(err)
	}
	guest.QEMU = binary
	line.definition.Guest, line.options = guest, options
	for _, note := range options.Notes {
		fmt.Fprintf(a.stderr, "note: %s\n", oneLine(note))
	}
	return line, nil
}

// takeOwnOptions takes our options out of args, wherever they stand.
func (a *app) takeOwnOptions(args []string, line *qemuLine) (rest []string, err error) {
	for i := 0; i < len(args); i++ {
		name, value, attached := strings.Cut(args[i], "=")
		switch name {
		case "-nv-restore", "--nv-restore":
			line.restore = true
			continue
		case "-nvm", "--nvm", "--socket", "--format":
		default:
			rest = append(rest, args[i])
			continue
		}
		if !attached {
			if i+1 == len(args) {
				return nil, usagef("%s lacks its argument", name)
			}
			i++
			value = args[i]
		}
		if err := a.ownOption(name, value, &line.definition); err != nil {
			return nil, err
		}
	}
	return rest, nil
}

func (a *app) ownOption(name, value string, d *vm.Definition) error {
	switch name {
	case "--socket":
		a.socket = value
		return nil
	case "--format":
		return a.format.Set(value)
	}
	if d.Name != "" {
		return usagef("-nvm is given twice")
	}
	for i, o := range splitOptions(value) {
		switch {
		case i == 0 && !o.hasValue:
			d.Name = o.key
		case i > 0 && o.key == "pool" && o.hasValue:
			d.Pool = o.value
		default:
			return usagef("unknown part %q of -nvm %s", o.text(), value)
		}
	}
	return nil
}

// takeBinary takes a QEMU program from the head of a complete command line.
func takeBinary(args []string) (binary string, rest []string, err error) {
	if len(args) == 0 || !strings.HasPrefix(filepath.Base(args[0]), "qemu-system-") {
		return "", args, nil
	}
	found, err := exec.LookPath(args[0])
	if err != nil {
		return "", nil, asUsage(err)
	}
	binary, err = filepath.Abs(found)
	return binary, args[1:], err
}

func (a *app) runQEMULine(ctx context.Context, line qemuLine) error {
	client, err := a.connect()
	if err != nil {
		return err
	}
	created, err := a.ensureVM(ctx, client, line)
	if err != nil {
		return err
	}
	name := line.definition.Name
	// From here on, so that a VM that ends quickly is noticed.
	watch, err := client.Events(ctx, nil)
	if err != nil {
		return err
	}
	defer watch.Close()
	if err := startLine(ctx, client, name, line.restore); err != nil {
		if created {
			err = errors.Join(err, client.Remove(context.WithoutCancel(ctx), name, false))
		}
		return err
	}
	switch {
	case line.options.Daemonize:
		return a.showChange(client.Info(ctx, name))
	case line.options.Console:
		return a.attachUntilEnd(ctx, client, name)
	}
	fmt.Fprintf(a.stderr, "%s runs; interrupting this command leaves it running\n", name)
	info, err := waitForEnd(ctx, client, watch, name)
	return a.showEnd(info, err)
}

// ensureVM creates the VM, or checks that there is one that can be started by
// this command line.
func (a *app) ensureVM(ctx context.Context, client *api.Client, line qemuLine) (created bool, err error) {
	name := line.definition.Name
	info, err := client.Info(ctx, name)
	if errors.Is(err, vm.ErrNotFound) && !line.restore {
		_, err = client.Create(ctx, line.definition)
		return err == nil, err
	}
	if err != nil {
		return false, err
	}
	if differs := differences(info, line.definition); len(differs) > 0 {
		return false, withRemedy(fmt.Errorf("VM %s: %w: it is defined otherwise: %s", name, vm.ErrExists, strings.Join(differs, "; ")),
			"Give the same arguments as when it was created, choose another name, or remove it with `nvh rm`.")
	}
	if info.Image != nil && !line.restore {
		return false, withRemedy(fmt.Errorf("VM %s: %w: it has a saved image", name, vm.ErrState),
			fmt.Sprintf("Add -nv-restore to continue from it; `nvh start --discard-image %s` gives it up and boots.", name))
	}
	return false, nil
}

func startLine(ctx context.Context, client *api.Client, name string, restore bool) (err error) {
	if restore {
		var t outage.Timeline
		t, err = client.Restore(ctx, name)
		for _, v := range t.VMs {
			if v.Outcome == "failed" && err == nil {
				err = fmt.Errorf("VM %s: %s", name, v.Reason)
			}
		}
		return err
	}
	_, err = client.Start(ctx, name, host.StartOptions{})
	return err
}

// attachUntilEnd shows the console until the VM ends or the user leaves it.
func (a *app) attachUntilEnd(ctx context.Context, client *api.Client, name string) error {
	stream, err := client.Console(ctx, name)
	if err != nil {
		return err
	}
	if err := a.attach(ctx, name, stream); err != nil {
		return err
	}
	info, err := client.Info(ctx, name)
	if err != nil {
		return err
	}
	if hasProcess(info.State) {
		fmt.Fprintf(a.stderr, "%s goes on; `nvh console %s` attaches again\n", name, name)
		return nil
	}
	return a.showEnd(info, nil)
}

// showEnd reports how a VM ended; a failure is one of the command too.
func (a *app) showEnd(info vm.Info, err error) error {
	if err != nil {
		return err
	}
	if info.State == vm.Failed {
		return withRemedy(fmt.Errorf("VM %s failed: %s", info.Name, info.Reason), fmt.Sprintf("`nvh logs %s` shows what QEMU said.", info.Name))
	}
	return a.showChange(info, nil)
}
