package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/nv-hypervisor/nv-hypervisor/pod/webhook"
)

func (a *app) podEvent() *cobra.Command {
	var e webhook.Event
	var runtime time.Duration
	var charge float64
	c := &cobra.Command{
		Use: "event CONDITION", Short: "Say how the power is", Args: cobra.ExactArgs(1), ValidArgs: webhook.Conditions(),
		Long: `Event tells nvhd how the power is, as a detector would: for a UPS daemon's hook, a
script of the BMC, or a person. CONDITION is mains, on-battery, low-battery, or going,
when the host will go down whatever the power does. What is made of it the policy
decides; an event is not itself an order to save. The condition test only tries the way.

Each --source is remembered apart, and the worst that one of them says counts. If the
webhook has stale_after, a source must repeat its word that often. nvhd hears events when
its webhook is configured (nvhd.toml); its listener is not needed for this command.`,
		Example: "  nvh pod event on-battery --runtime 5m --detail 'feed A lost'\n  nvh pod event mains",
		RunE: func(cmd *cobra.Command, args []string) error {
			e.Condition = args[0]
			if cmd.Flags().Changed("runtime") {
				seconds := runtime.Seconds()
				e.Runtime = &seconds
			}
			if cmd.Flags().Changed("charge") {
				e.Charge = &charge
			}
			client, err := a.connect()
			if err != nil {
				return err
			}
			answer, err := client.Announce(cmd.Context(), e)
			if err != nil {
				return err
			}
			return show(a, answer, printHeard)
		},
	}
	c.Flags().DurationVar(&runtime, "runtime", 0, "how long the battery lasts")
	c.Flags().Float64Var(&charge, "charge", 0, "charge of the battery in percent")
	c.Flags().StringVar(&e.Detail, "detail", "", "a remark for operators")
	c.Flags().StringVar(&e.Source, "source", "nvh", "who says so")
	return c
}

func printHeard(a *app, answer webhook.Answer) error {
	t := newTable(a.stdout)
	t.row("power:", answer.Condition)
	if answer.Expires > 0 {
		t.row("say it again within:", (time.Duration(answer.Expires * float64(time.Second))).String())
	}
	return t.flush()
}
