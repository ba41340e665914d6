package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/nv-hypervisor/nv-hypervisor/api"
	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/outage"
)

func (a *app) outageCommand() *cobra.Command {
	return group("outage", "Announce outages and look at what happened in them",
		a.outageLs(), a.outageShow(),
		a.outageVerb("simulate", "Announce an outage, as a detector would",
			"Simulate saves every persistent VM exactly as a real outage does, and leaves them saved.",
			func(ctx context.Context, c *api.Client) (outage.Timeline, error) { return c.Simulate(ctx) }),
		a.outageVerb("clear", "Announce that power is back: the VMs go on in place",
			"Clear ends an outage that did not cut the power. VMs whose QEMU still runs go on in\nplace and their images become void.",
			func(ctx context.Context, c *api.Client) (outage.Timeline, error) { return c.Clear(ctx) }))
}

func (a *app) outageVerb(verb, short, long string, do func(context.Context, *api.Client) (outage.Timeline, error)) *cobra.Command {
	return &cobra.Command{
		Use: verb, Short: short, Long: long, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.connect()
			if err != nil {
				return err
			}
			return a.showOutcome(do(cmd.Context(), client))
		},
	}
}

func (a *app) outageLs() *cobra.Command {
	return &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List outages, saves and recoveries", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.connect()
			if err != nil {
				return err
			}
			all, err := client.Outages(cmd.Context())
			if err != nil {
				return err
			}
			return show(a, all, printTimelines)
		},
	}
}

func (a *app) outageShow() *cobra.Command {
	return &cobra.Command{
		Use: "show [ID]", Short: "Show one timeline, step by step",
		Long: "Show prints what happened to whom, and when, in microseconds since the event. ID may\nbe shortened as long as it is unique; without one, or with \"latest\", it is the newest.",
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.oneOutage,
		RunE: func(cmd *cobra.Command, args []string) error {
			id := "latest"
			if len(args) == 1 {
				id = args[0]
			}
			client, err := a.connect()
			if err != nil {
				return err
			}
			return a.showOutcome(client.Outage(cmd.Context(), id))
		},
	}
}

// oneOutage completes the id of a timeline.
func (a *app) oneOutage(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	client, err := a.connect()
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	all, err := client.Outages(c.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ids := []string{"latest"}
	for _, t := range all {
		ids = append(ids, t.ID+"\t"+t.Outcome)
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}

func printTimelines(a *app, all []outage.Timeline) error {
	now := time.Now()
	t := newTable(a.stdout, "ID", "KIND", "SOURCE", "WHEN", "OUTCOME", "VMS", "DURATION")
	for _, o := range all {
		t.row(o.ID, o.Kind, o.Source, ago(now, o.Event), o.Outcome, strconv.Itoa(len(o.VMs)), millis(o.Duration))
	}
	return t.flush()
}

// millis shows a duration in milliseconds: "16.4 ms".
func millis(m outage.Micros) string { return fmt.Sprintf("%.1f ms", float64(m)/1000) }

// micros shows a duration in whole microseconds.
func micros(m outage.Micros) string { return strconv.FormatFloat(float64(m), 'f', 0, 64) }

func printTimeline(a *app, o outage.Timeline) error {
	fmt.Fprintf(a.stdout, "%s: %s by %s at %s: %s after %s\n", o.ID, o.Kind, oneLine(announcedBy(o)),
		o.Event.Local().Format("2006-01-02 15:04:05.000"), o.Outcome, millis(o.Duration))
	if len(o.Steps) > 0 {
		fmt.Fprintln(a.stdout)
		t := newTable(a.stdout, "HOST", "STEP", "START µs", "END µs", "LENGTH µs")
		printSteps(t, "", o.Steps)
		if err := t.flush(); err != nil {
			return err
		}
	}
	if len(o.VMs) == 0 {
		return nil
	}
	fmt.Fprintln(a.stdout)
	t := newTable(a.stdout, "VM", "STEP", "START µs", "END µs", "LENGTH µs")
	for _, v := range o.VMs {
		printSteps(t, v.Name, v.Steps)
		t.row(v.Name, vmTotal(v), micros(begin(v.Steps)), micros(end(v.Steps)), micros(end(v.Steps)-begin(v.Steps)))
	}
	return t.flush()
}

// announcedBy is the source of a timeline, with its tier and why all was saved.
func announcedBy(o outage.Timeline) string {
	if more := joinNonEmpty(": ", o.Tier, o.Cause); more != "" {
		return o.Source + " (" + more + ")"
	}
	return o.Source
}

func printSteps(t *table, who string, steps []outage.Step) {
	for _, s := range steps {
		t.row(who, s.Name, micros(s.Start), micros(s.End), micros(s.End-s.Start))
	}
}

// vmTotal is the last line of a VM: how it ended.
func vmTotal(v outage.VMTimeline) string {
	text := "= " + v.Outcome
	if v.StateSize > 0 {
		text += ", " + size(nvram.Bytes(v.StateSize))
	}
	if v.Reason != "" {
		text += " (" + v.Reason + ")"
	}
	return text
}

func begin(steps []outage.Step) outage.Micros {
	if len(steps) == 0 {
		return 0
	}
	first := steps[0].Start
	for _, s := range steps {
		first = min(first, s.Start)
	}
	return first
}

func end(steps []outage.Step) outage.Micros {
	var last outage.Micros
	for _, s := range steps {
		last = max(last, s.End)
	}
	return last
}
