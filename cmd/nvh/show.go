package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nv-hypervisor/nv-hypervisor/api"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

func (a *app) lsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List the VMs", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.connect()
			if err != nil {
				return err
			}
			infos, err := client.List(cmd.Context())
			if err != nil {
				return err
			}
			return show(a, infos, printVMs)
		},
	}
}

func printVMs(a *app, infos []vm.Info) error {
	now := time.Now()
	t := newTable(a.stdout, "NAME", "STATE", "MEMORY", "CPUS", "WHERE", "PRIORITY", "IMAGE", "STARTED")
	for _, i := range infos {
		t.row(i.Name, string(i.State), size(i.Memory), strconv.Itoa(i.CPUs), where(i), strconv.Itoa(i.Priority),
			imageLine(now, i.Image), agoPtr(now, i.StartedAt))
	}
	return t.flush()
}

// where says in which memory a VM lives.
func where(i vm.Info) string {
	if i.Volatile {
		return "DRAM"
	}
	return i.Pool
}

func imageLine(now time.Time, image *vm.ImageInfo) string {
	switch {
	case image == nil:
		return ""
	case !image.Valid:
		return "refused"
	}
	return ago(now, image.SavedAt)
}

func (a *app) infoCommand() *cobra.Command {
	return a.vmCommand("info", "Show everything about a VM", "",
		func(ctx context.Context, client *api.Client, name string) error {
			info, err := client.Info(ctx, name)
			if err != nil {
				return err
			}
			return show(a, info, printInfo)
		})
}

func printInfo(a *app, i vm.Info) error {
	now := time.Now()
	t := newTable(a.stdout)
	line := func(name, value string) {
		if value != "" && value != "0" {
			t.row(name+":", value)
		}
	}
	line("name", i.Name)
	line("uuid", i.UUID)
	line("state", string(i.State))
	line("reason", i.Reason)
	line("memory", size(i.Memory)+" in "+where(i))
	line("cpus", strconv.Itoa(i.CPUs))
	line("machine", i.Machine)
	line("accelerator", i.Accel)
	line("qemu", i.QEMU)
	line("pid", strconv.Itoa(i.PID))
	line("started", agoPtr(now, i.StartedAt))
	t.row("priority:", strconv.Itoa(i.Priority))
	line("on lost", string(i.OnLost))
	line("generation", strconv.FormatUint(i.Generation, 10))
	for _, d := range i.Definition.Disks {
		line("disk", joinNonEmpty(", ", d.Path, d.Format, prefixed("cache ", d.Cache), onlyIf(d.ReadOnly, "read-only")))
	}
	for _, n := range i.Definition.Nets {
		line("network", joinNonEmpty(", ", n.Type, n.Device, n.MAC, strings.Join(n.Forward, ", ")))
	}
	line("kernel", i.Definition.Kernel)
	line("initrd", i.Definition.Initrd)
	line("command line", i.Definition.Cmdline)
	if image := i.Image; image != nil {
		t.row("image:", fmt.Sprintf("generation %d, %s of state, saved %s", image.Generation, size(image.StateSize), ago(now, image.SavedAt)))
		line("saved in", image.Outage)
		line("refused", image.Refusal)
	}
	line("kept aside", strings.Join(i.Kept, ", "))
	for _, w := range i.Warnings {
		line("warning", w)
	}
	return t.flush()
}

func joinNonEmpty(separator string, parts ...string) string {
	var kept []string
	for _, p := range parts {
		if p != "" {
			kept = append(kept, p)
		}
	}
	return strings.Join(kept, separator)
}

func prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}

func onlyIf(v bool, s string) string {
	if v {
		return s
	}
	return ""
}
