package main

import (
	"context"
	"fmt"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/outage"
)

// timings prints what was measured in this run beside the paper's figures: NV-Hypervisor, DSN 2014, slides "Timings"
// and "Overall recovery time" (two Xeons, QEMU 1.4.2 with binary translation, Viking NVDIMMs).
func (d *demo) timings(context.Context) error {
	save, resume := vmOf(d.saved, persistent), vmOf(d.restored, persistent)
	if len(save.Steps) == 0 || len(resume.Steps) == 0 {
		return fmt.Errorf("the timelines have no steps of %s: %+v, %+v", persistent, save, resume)
	}
	stop, commit := step(save, "stop"), step(save, "commit")
	cont := step(resume, "cont")
	d.say("\nTimeline of the outage, in ms since the signal (one run, not a benchmark: make bench measures):")
	w := tabwriter.NewWriter(d.out, 0, 4, 2, ' ', 0)
	fmt.Fprintf(w, "  step\tbegan\tended\n  signal to nvhd's thread\t0.00\t%s\n", ms(d.woken))
	for _, s := range save.Steps {
		fmt.Fprintf(w, "  %s\t%s\t%s\n", s.Name, ms(d.woken+s.Start.Duration()), ms(d.woken+s.End.Duration()))
	}
	fmt.Fprintf(w, "\t\t\n  \there\tpaper, 2014\n")
	fmt.Fprintf(w, "  outage announced to the first stop sent\t%s ms\t11 ms\n", ms(d.woken+stop.Start.Duration()))
	fmt.Fprintf(w, "  saving the volatile state\t%s ms\t8 ms\n", ms(commit.End.Duration()-stop.Start.Duration()))
	fmt.Fprintf(w, "  the whole sequence\t%s ms\t30-50 ms expected\n", ms(d.woken+commit.End.Duration()))
	fmt.Fprintf(w, "  nvhd's start to the guest running\t%.2f s\t8 s (QEMU start alone)\n", cont.End.Duration().Seconds())
	if err := w.Flush(); err != nil {
		return err
	}
	d.say("\nVerified: the persistent guest survived, the volatile one did not.")
	return nil
}

func vmOf(t outage.Timeline, name string) outage.VMTimeline {
	i := slices.IndexFunc(t.VMs, func(v outage.VMTimeline) bool { return v.Name == name })
	if i < 0 {
		return outage.VMTimeline{}
	}
	return t.VMs[i]
}

func step(v outage.VMTimeline, name string) outage.Step {
	i := slices.IndexFunc(v.Steps, func(s outage.Step) bool { return s.Name == name })
	if i < 0 {
		return outage.Step{}
	}
	return v.Steps[i]
}

func ms(d time.Duration) string { return fmt.Sprintf("%.2f", d.Seconds()*1e3) }
