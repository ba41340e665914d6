package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/nv-hypervisor/nv-hypervisor/api"
	"github.com/nv-hypervisor/nv-hypervisor/host"
	"github.com/nv-hypervisor/nv-hypervisor/outage"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

// vmCommand returns a command that takes the name of one VM.
func (a *app) vmCommand(verb, short, long string, do func(ctx context.Context, c *api.Client, name string) error) *cobra.Command {
	return &cobra.Command{
		Use: verb + " NAME", Short: short, Long: long,
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.oneVM,
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.connect()
			if err != nil {
				return err
			}
			return do(cmd.Context(), client, args[0])
		},
	}
}

// showChange prints the result of a verb that changed a VM.
func (a *app) showChange(info vm.Info, err error) error {
	if err != nil {
		return err
	}
	return show(a, info, func(a *app, i vm.Info) error {
		_, err := fmt.Fprintf(a.stdout, "%s: %s\n", i.Name, stateAndReason(i))
		for _, w := range i.Warnings {
			fmt.Fprintf(a.stderr, "warning: %s: %s\n", i.Name, oneLine(w))
		}
		return err
	})
}

func stateAndReason(i vm.Info) string {
	if i.Reason == "" {
		return string(i.State)
	}
	return fmt.Sprintf("%s (%s)", i.State, oneLine(i.Reason))
}

// showOutcome prints the result of a verb that has a timeline.
func (a *app) showOutcome(t outage.Timeline, err error) error {
	if err != nil {
		return err
	}
	return show(a, t, printTimeline)
}

func (a *app) startCommand() *cobra.Command {
	var o host.StartOptions
	c := a.vmCommand("start", "Resume the saved image of a VM, or boot it",
		`Start resumes the saved image of a VM. A VM that has none is booted. A doubtful
image is refused (exit code 6) and kept; with --discard-image the VM boots from
scratch instead.`,
		func(ctx context.Context, client *api.Client, name string) error {
			return a.showChange(client.Start(ctx, name, o))
		})
	c.Flags().BoolVar(&o.DiscardImage, "discard-image", false, "give up the saved image and boot from scratch")
	return c
}

func (a *app) stopCommand() *cobra.Command {
	var o host.StopOptions
	c := a.vmCommand("stop", "Shut down a VM", `Stop asks the guest to shut down and waits until it has. With --force QEMU is
ended at once, as if the power of this one VM had been cut; nothing is saved.`,
		func(ctx context.Context, client *api.Client, name string) error {
			if o.Timeout < 0 {
				return usagef("--timeout %v is negative", o.Timeout)
			}
			return a.showChange(client.Stop(ctx, name, o))
		})
	c.Flags().BoolVar(&o.Force, "force", false, "end QEMU at once")
	c.Flags().DurationVar(&o.Timeout, "timeout", time.Minute, "how long the guest may take")
	return c
}

func (a *app) pauseCommand() *cobra.Command {
	return a.vmCommand("pause", "Stop the vCPUs of a VM", "",
		func(ctx context.Context, client *api.Client, name string) error {
			return a.showChange(client.Pause(ctx, name))
		})
}

func (a *app) resumeCommand() *cobra.Command {
	return a.vmCommand("resume", "Let the vCPUs of a paused VM run again",
		"Resume ends a pause. To continue a VM from its saved image use `nvh start` or `nvh restore`.",
		func(ctx context.Context, client *api.Client, name string) error {
			return a.showChange(client.Unpause(ctx, name))
		})
}

func (a *app) saveCommand() *cobra.Command {
	c := a.vmCommand("save", "Save the volatile state of a VM and end its QEMU",
		`Save does for one VM what an outage does for all: stop it, write the state of its
devices and vCPUs to NVRAM, commit the save record. Then QEMU ends.
dump-devices is the name of this verb in the paper.`,
		func(ctx context.Context, client *api.Client, name string) error {
			return a.showOutcome(client.Save(ctx, name))
		})
	c.Aliases = []string{"dump-devices"}
	return c
}

func (a *app) restoreCommand() *cobra.Command {
	c := a.vmCommand("restore", "Continue a VM from its saved image",
		`Restore loads the saved state of a VM and lets it continue at the next
instruction. Other than start it never boots: without an image it fails.
nv-restore is the name of this verb in the paper.`,
		func(ctx context.Context, client *api.Client, name string) error {
			return a.showOutcome(client.Restore(ctx, name))
		})
	c.Aliases = []string{"nv-restore"}
	return c
}

func (a *app) suspendCommand() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use: "suspend --all", Short: "Save every persistent VM, as before a planned reboot", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !all {
				return withRemedy(usagef("suspend is for all VMs and wants --all"), "`nvh save NAME` saves one VM.")
			}
			client, err := a.connect()
			if err != nil {
				return err
			}
			return a.showOutcome(client.SuspendAll(cmd.Context()))
		},
	}
	c.Flags().BoolVar(&all, "all", false, "yes, all of them")
	return c
}

func (a *app) rmCommand() *cobra.Command {
	var discard bool
	c := a.vmCommand("rm", "Remove a VM and its memory",
		"Rm removes a stopped VM and frees its NVRAM. Its disks stay. A saved image is only\nremoved with --discard-image.",
		func(ctx context.Context, client *api.Client, name string) error {
			if err := client.Remove(ctx, name, discard); err != nil {
				return err
			}
			if a.format == formatTable {
				fmt.Fprintf(a.stdout, "%s: removed\n", name)
			}
			return nil
		})
	c.Flags().BoolVar(&discard, "discard-image", false, "remove the VM even if it has a saved image")
	return c
}
