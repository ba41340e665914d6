package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nv-hypervisor/nv-hypervisor/host"
	"github.com/nv-hypervisor/nv-hypervisor/outage"
)

func (a *app) podCommand() *cobra.Command {
	return group("pod", "Look at the power-outage detectors (POD), and test them", a.podLs(), a.podTest(), a.podEvent())
}

func (a *app) podLs() *cobra.Command {
	return &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List what announces outages", Args: cobra.NoArgs,
		Long: `Ls lists the detectors: how much time they leave (tier), whether they are heard and
since when, and for those of the battery and planned tiers what they know of the power,
in their own words as well, and how long the battery lasts by their estimate. What is
made of it is in nvh status.

For the kernel module nvh_pod it shows what the module has counted since it was loaded,
and the latencies of outages from the first instruction of its interrupt handler: until
the event was readable, and until nvhd had it.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.connect()
			if err != nil {
				return err
			}
			list, err := client.Detectors(cmd.Context())
			if err != nil {
				return err
			}
			return show(a, list, printDetectors)
		},
	}
}

func printDetectors(a *app, list []host.Detector) error {
	now := time.Now()
	t := newTable(a.stdout, "DETECTOR", "TIER", "CONNECTED", "SINCE", "CONDITION", "DETAIL", "CHARGE", "RUNTIME", "PROBLEM")
	for _, d := range list {
		detail := d.Detail
		if detail == d.Error { // a lost source says why in both
			detail = ""
		}
		t.row(d.Name, d.Tier.String(), yesNo(d.Connected), agoPtr(now, d.Since), condition(d), detail, percent(d.Charge), lasts(d.Runtime), d.Error+d.Warning)
	}
	if err := t.flush(); err != nil {
		return err
	}
	return printKernelCounts(a, list)
}

func condition(d host.Detector) string {
	if d.Condition == nil {
		return ""
	}
	return d.Condition.String()
}

func percent(charge *float64) string {
	if charge == nil {
		return ""
	}
	return fmt.Sprintf("%.0f %%", *charge)
}

func lasts(seconds *float64) string {
	if seconds == nil {
		return ""
	}
	return time.Duration(*seconds * float64(time.Second)).Round(time.Second).String()
}

// printKernelCounts has a table of its own, as few detectors count.
func printKernelCounts(a *app, list []host.Detector) error {
	t := newTable(a.stdout, "KERNEL MODULE", "EVENTS", "TESTS", "SPURIOUS", "PASSED ON", "WAKE-UP µs", "MAX", "READ µs", "MAX")
	counted := false
	for _, d := range list {
		k := d.Kernel
		if k == nil {
			continue
		}
		counted = true
		n := func(v uint64) string { return strconv.FormatUint(v, 10) }
		us := func(m outage.Micros) string { return fmt.Sprintf("%.0f", float64(m)) }
		t.row(d.Name, n(k.Events), n(k.SelfTests), n(k.Spurious), n(k.PassedOn), us(k.WakeupLast), us(k.WakeupMax), us(k.ReadLast), us(k.ReadMax))
	}
	if !counted {
		return nil
	}
	fmt.Fprintln(a.stdout)
	return t.flush()
}

// errPodTest is the failure of pod test; the table has said the rest.
var errPodTest = errors.New("the test of a detector failed")

func (a *app) podTest() *cobra.Command {
	return &cobra.Command{
		Use: "test [NAME]", Short: "Test the detectors, without an outage", Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.oneDetector,
		Long: `Test tries the way from a detector to the daemon, of all detectors that can be tested
or of the one named, as nvh pod ls shows it. The kernel module delivers an event that
announces nothing, to the thread that would save the VMs; the others are asked a
question the whole way to their source. Nothing is saved. Without a detector that can
be tested it fails with exit code 3.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.connect()
			if err != nil {
				return err
			}
			list, err := client.TestDetectors(cmd.Context(), strings.Join(args, ""))
			if err != nil {
				return err
			}
			if err := show(a, list, printDetectorTests); err != nil {
				return err
			}
			for _, d := range list {
				if d.Error != "" {
					return withRemedy(fmt.Errorf("%w: %s", errPodTest, d.Name), "See docs/detectors.md for this kind of detector, the kernel's log (dmesg) and nvhd's.")
				}
			}
			return nil
		},
	}
}

// oneDetector completes the name of a detector.
func (a *app) oneDetector(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	client, err := a.connect()
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	list, err := client.Detectors(c.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, d := range list {
		names = append(names, d.Name+"\t"+d.Tier.String())
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func printDetectorTests(a *app, list []host.DetectorTest) error {
	t := newTable(a.stdout, "DETECTOR", "LATENCY µs", "ERROR")
	for _, d := range list {
		latency := fmt.Sprintf("%.0f", float64(d.Latency))
		if d.Error != "" {
			latency = ""
		}
		t.row(d.Name, latency, d.Error)
	}
	return t.flush()
}
