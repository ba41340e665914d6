package main

import (
	"errors"
	"fmt"
	"strconv"

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
		Long: "Ls lists the detectors. For the kernel module nvh_pod it shows what the module has\ncounted since it was loaded, and the latencies of outages from the first instruction\nof its interrupt handler: until the event was readable, and until nvhd had it.",
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
	t := newTable(a.stdout, "DETECTOR", "EVENTS", "TESTS", "SPURIOUS", "PASSED ON", "WAKE-UP µs", "MAX", "READ µs", "MAX")
	for _, d := range list {
		if d.Kernel == nil {
			t.row(d.Name, d.Error, "", "", "", "", "", "", "")
			continue
		}
		n := func(v uint64) string { return strconv.FormatUint(v, 10) }
		us := func(m outage.Micros) string { return fmt.Sprintf("%.0f", float64(m)) }
		k := d.Kernel
		t.row(d.Name, n(k.Events), n(k.SelfTests), n(k.Spurious), n(k.PassedOn), us(k.WakeupLast), us(k.WakeupMax), us(k.ReadLast), us(k.ReadMax))
	}
	return t.flush()
}

// errPodTest is the failure of pod test; the table has said the rest.
var errPodTest = errors.New("a detector's test event did not arrive")

func (a *app) podTest() *cobra.Command {
	return &cobra.Command{
		Use: "test", Short: "Send a test event from the kernel to the daemon", Args: cobra.NoArgs,
		Long: "Test makes the kernel module deliver an event that announces nothing, and reports how\nlong it took to the thread that would save the VMs. Nothing is saved. Without a\ndetector that can be tested it fails with exit code 3.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.connect()
			if err != nil {
				return err
			}
			list, err := client.TestDetectors(cmd.Context())
			if err != nil {
				return err
			}
			if err := show(a, list, printDetectorTests); err != nil {
				return err
			}
			for _, d := range list {
				if d.Error != "" {
					return withRemedy(fmt.Errorf("%w: %s", errPodTest, d.Name), "Look at the kernel's log (dmesg) and at nvhd's.")
				}
			}
			return nil
		},
	}
}

func printDetectorTests(a *app, list []host.DetectorTest) error {
	t := newTable(a.stdout, "DETECTOR", "LATENCY µs", "ERROR")
	for _, d := range list {
		t.row(d.Name, fmt.Sprintf("%.0f", float64(d.Latency)), d.Error)
	}
	return t.flush()
}
