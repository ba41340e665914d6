package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nv-hypervisor/nv-hypervisor/host"
	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/nvram/nvdimm"
)

func (a *app) nvramHealth() *cobra.Command {
	system := string(nvdimm.Host)
	c := &cobra.Command{
		Use: "health [PATH|POOL]", Short: "Show the memory modules under a pool, and whether they can be trusted",
		Long: `Health shows what the kernel and the firmware say of the memory under a pool of the
daemon, under all of them, or under a PATH (with a slash in it), which needs no daemon and
no pool: the modules with their flags and their dirty-shutdown counts, how far a
store must get to survive a power cut, whether the file system maps the memory itself,
and in how large pages. The exit code is 9 when something must not be trusted.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 && strings.Contains(args[0], "/") {
				h, err := nvram.HealthOf(args[0], nvdimm.System(system))
				if err != nil {
					return err
				}
				return errors.Join(show(a, h, printHealth), unhealthy(h))
			}
			list, err := a.poolHealth(cmd.Context(), args)
			if err != nil {
				return err
			}
			if len(args) == 1 {
				return errors.Join(show(a, list[0], printPoolHealth), unhealthy(list[0].Health))
			}
			err = show(a, list, printAllHealth)
			for _, h := range list {
				err = errors.Join(err, unhealthy(h.Health))
			}
			return err
		},
	}
	rootFlag(c, &system)
	return c
}

// rootFlag is --root of the commands that look at the machine itself.
func rootFlag(c *cobra.Command, system *string) {
	c.Flags().StringVar(system, "root", "/", "read sys, proc and dev below this folder: another machine's, copied")
}

// poolHealth asks the daemon about one pool, or all.
func (a *app) poolHealth(ctx context.Context, names []string) ([]host.PoolHealth, error) {
	client, err := a.connect()
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		pools, err := client.Pools(ctx)
		if err != nil {
			return nil, err
		}
		for _, p := range pools {
			names = append(names, p.Name)
		}
	}
	list := []host.PoolHealth{}
	for _, name := range names {
		h, err := client.PoolHealth(ctx, name)
		if err != nil {
			return nil, err
		}
		list = append(list, h)
	}
	return list, nil
}

// unhealthy is the failure of health; the table has said the rest.
func unhealthy(h nvram.Health) error {
	if err := h.Err(); err != nil {
		return withRemedy(fmt.Errorf("%s: %w", h.Path, nvram.ErrUnhealthy), "Follow the remedies above.")
	}
	for _, p := range h.Problems { // what came over the wire has lost its errors
		if p.Severity == nvram.SeverityError {
			return withRemedy(fmt.Errorf("%s: %w", h.Path, nvram.ErrUnhealthy), "Follow the remedies above.")
		}
	}
	return nil
}

func printAllHealth(a *app, list []host.PoolHealth) error {
	for i, h := range list {
		if i > 0 {
			fmt.Fprintln(a.stdout)
		}
		if err := printPoolHealth(a, h); err != nil {
			return err
		}
	}
	return nil
}

func printPoolHealth(a *app, h host.PoolHealth) error {
	trusted := yesNo(h.Trusted)
	if h.Forced {
		trusted += ", because of trust_unhealthy"
	}
	t := newTable(a.stdout)
	t.row("pool:", h.Name)
	t.row("trusted:", trusted)
	if err := t.flush(); err != nil {
		return err
	}
	return printHealth(a, h.Health)
}

func printHealth(a *app, h nvram.Health) error {
	t := newTable(a.stdout)
	t.row("path:", h.Path)
	kind := string(h.Kind)
	if kind == "" {
		kind = "no pool"
	}
	t.row("kind:", kind)
	t.row("lies on:", strings.Join(h.Devices, ", "))
	if fs := h.FileSystem; fs != nil {
		t.row("file system:", fmt.Sprintf("%s from %s, %s", fs.Type, fs.Source, strings.Join(fs.Options, ",")))
	}
	t.row("direct access:", yesNo(h.DAX))
	if h.Kind == nvram.KindFSDAX {
		t.row("MAP_SYNC:", yesNo(h.MapSync))
	}
	if p := h.Pages; p != nil && p.Sampled > 0 {
		t.row("pages:", fmt.Sprintf("%d of %d samples in pages of %s", p.Huge, p.Sampled, size(p.Unit)))
	}
	t.row("persistence domain:", string(h.Domain))
	t.row("dirty shutdowns:", strconv.FormatUint(h.DirtyShutdown, 10))
	if err := errors.Join(t.flush(), printRegions(a, h.Regions), printDIMMs(a, h.DIMMs)); err != nil {
		return err
	}
	if len(h.Problems) == 0 {
		return nil
	}
	t = newTable(a.stdout, "SEVERITY", "WHERE", "WHAT", "REMEDY")
	for _, p := range h.Problems {
		t.row(string(p.Severity), p.Where, p.What, p.Remedy)
	}
	return t.flush()
}

func printRegions(a *app, list []nvdimm.Region) error {
	if len(list) == 0 {
		return nil
	}
	t := newTable(a.stdout, "REGION", "SIZE", "DOMAIN", "NUMA NODE", "ACTIVE", "BAD BYTES", "DIMMS")
	for _, r := range list {
		var dimms []string
		for _, m := range r.Mappings {
			dimms = append(dimms, m.DIMM)
		}
		node := ""
		if r.NUMANode >= 0 {
			node = strconv.Itoa(r.NUMANode)
		}
		t.row(r.Name, size(nvram.Bytes(r.Size)), string(r.Domain), node, yesNo(r.Active), strconv.FormatUint(r.BadBytes, 10), strings.Join(dimms, ", "))
	}
	return t.flush()
}

func printDIMMs(a *app, list []nvdimm.DIMM) error {
	if len(list) == 0 {
		return nil
	}
	t := newTable(a.stdout, "DIMM", "STATE", "FLAGS", "DIRTY SHUTDOWNS", "SERIAL", "ID")
	for _, d := range list {
		t.row(d.Name, d.State, flagsOf(d), dirtyOf(d), d.Serial, d.ID)
	}
	return t.flush()
}

func flagsOf(d nvdimm.DIMM) string {
	if !d.FlagsKnown {
		return "not known"
	}
	var words []string
	for _, f := range d.Flags {
		words = append(words, string(f))
	}
	return strings.Join(words, " ")
}

func dirtyOf(d nvdimm.DIMM) string {
	if d.DirtyShutdown == nil {
		return "not counted"
	}
	return strconv.FormatUint(*d.DirtyShutdown, 10)
}
