package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
)

func (a *app) nvramCommand() *cobra.Command {
	return group("nvram", "NVRAM pools", a.nvramInit(), a.nvramLs(), a.nvramCheck(), a.nvramDump(), a.nvramImport(),
		a.nvramHealth(), a.nvramRegisters())
}

func (a *app) nvramInit() *cobra.Command {
	var o nvram.InitOptions
	c := &cobra.Command{
		Use: "init PATH", Short: "Make a pool; works without the daemon",
		Long: `Init makes PATH a pool. Kinds:

  shm     a directory or file on tmpfs: survives every process, not the host
  fsdax   a directory or file on ext4 or xfs mounted with -o dax
  devdax  a device /dev/daxX.Y
  file    a directory or file on an ordinary file system, for the battery tier

In the layout "directory" every region is a file; in "single" one file or device
holds all, which needs QEMU 8.1 or newer. What is there is never overwritten
without --force.`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			o.Path = args[0]
			if err := nvram.Init(o); err != nil {
				return err
			}
			p, err := nvram.OpenReadOnly(o.Path)
			if err != nil {
				return err
			}
			defer p.Close()
			return show(a, p.Info(), func(a *app, i nvram.PoolInfo) error {
				_, err := fmt.Fprintf(a.stdout, "%s: a pool of kind %s, layout %s, %s\n", i.Path, i.Kind, i.Layout, size(i.Size))
				return err
			})
		},
	}
	f := c.Flags()
	f.Var((*kindFlag)(&o.Kind), "kind", "what the pool is made of (default by PATH)")
	f.Var((*layoutFlag)(&o.Layout), "layout", "how the regions lie in it (default by PATH)")
	f.Var(&o.Size, "size", "capacity of a file, quota of a directory; a device has its own")
	f.Lookup("size").DefValue = ""
	f.BoolVar(&o.Force, "force", false, "initialise again; everything in the pool is lost")
	c.RegisterFlagCompletionFunc("kind", words("shm", "fsdax", "devdax", "file"))
	c.RegisterFlagCompletionFunc("layout", words("directory", "single"))
	return c
}

// kindFlag is --kind.
type kindFlag nvram.Kind

func (f *kindFlag) String() string { return string(*f) }
func (f *kindFlag) Type() string   { return "kind" }
func (f *kindFlag) Set(s string) error {
	k, err := nvram.ParseKind(s)
	*f = kindFlag(k)
	return err
}

// layoutFlag is --layout.
type layoutFlag nvram.Layout

func (f *layoutFlag) String() string { return string(*f) }
func (f *layoutFlag) Type() string   { return "layout" }
func (f *layoutFlag) Set(s string) error {
	switch nvram.Layout(s) {
	case nvram.LayoutDirectory, nvram.LayoutSingle:
		*f = layoutFlag(s)
		return nil
	}
	return usagef("%q is neither directory nor single", s)
}

func (a *app) nvramLs() *cobra.Command {
	return &cobra.Command{
		Use: "ls [PATH]", Aliases: []string{"list"}, Short: "List the daemon's pools, or the regions of the pool at PATH",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				return a.listRegions(args[0])
			}
			client, err := a.connect()
			if err != nil {
				return err
			}
			pools, err := client.Pools(cmd.Context())
			if err != nil {
				return err
			}
			if a.format == formatJSON {
				return a.printJSON(pools)
			}
			t := newTable(a.stdout, "NAME", "DEFAULT", "KIND", "LAYOUT", "SIZE", "USED", "FREE", "REGIONS", "PATH")
			for _, p := range pools {
				t.row(p.Name, yesNo(p.Default), string(p.Kind), string(p.Layout), size(p.Size), size(p.Used), size(p.Free),
					strconv.Itoa(p.Regions), p.Path)
			}
			if err := t.flush(); err != nil {
				return err
			}
			for _, p := range pools {
				if p.Warning != "" {
					fmt.Fprintf(a.stderr, "warning: pool %s: %s\n", p.Name, oneLine(p.Warning))
				}
			}
			return nil
		},
	}
}

// regionList is a pool with its regions, read without the daemon.
type regionList struct {
	Pool    nvram.PoolInfo `json:"pool"`
	Regions []nvram.Region `json:"regions"`
}

func (a *app) listRegions(path string) error {
	p, err := nvram.OpenReadOnly(path)
	if err != nil {
		return err
	}
	defer p.Close()
	return show(a, regionList{p.Info(), append([]nvram.Region{}, p.Regions()...)}, func(a *app, l regionList) error {
		now := time.Now()
		t := newTable(a.stdout, "REGION", "USE", "SIZE", "OFFSET", "CREATED", "ID")
		for _, r := range l.Regions {
			t.row(r.Name, string(r.Use), size(r.Size), size(r.Offset), ago(now, r.Created), r.ID.String())
		}
		return t.flush()
	})
}

func (a *app) nvramCheck() *cobra.Command {
	return &cobra.Command{
		Use: "check PATH", Short: "Look for every inconsistency of a pool; works without the daemon, changes nothing",
		Long: "Check reads a pool and lists what is wrong with it, each with a remedy. The exit\ncode is 9 when something is wrong that the next start of the daemon does not repair\nby itself.",
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			report, err := nvram.Check(args[0])
			if err != nil {
				return err
			}
			if report.Findings == nil {
				report.Findings = []nvram.Finding{}
			}
			if err := show(a, report, printReport); err != nil {
				return err
			}
			if err := report.Err(); err != nil {
				return poolDamaged(report)
			}
			return nil
		},
	}
}

// errPoolDamaged is the failure of check; the report has said the rest.
var errPoolDamaged = errors.New("the pool is damaged")

func poolDamaged(r nvram.Report) error {
	n := 0
	for _, f := range r.Findings {
		if f.Severity == nvram.SeverityError {
			n++
		}
	}
	return withRemedy(fmt.Errorf("%w: %s: %d errors", errPoolDamaged, r.Path, n), "Follow the remedies above.")
}

func printReport(a *app, r nvram.Report) error {
	if r.Info != nil {
		fmt.Fprintf(a.stdout, "%s: kind %s, layout %s, %d regions, %s of %s free\n",
			r.Path, r.Info.Kind, r.Info.Layout, r.Info.Regions, size(r.Info.Free), size(r.Info.Size))
	}
	if len(r.Findings) == 0 {
		_, err := fmt.Fprintf(a.stdout, "%s: sound\n", r.Path)
		return err
	}
	t := newTable(a.stdout, "SEVERITY", "WHERE", "WHAT", "REMEDY")
	for _, f := range r.Findings {
		t.row(string(f.Severity), f.Where, f.What, f.Remedy)
	}
	return t.flush()
}

func (a *app) nvramDump() *cobra.Command {
	return &cobra.Command{
		Use: "dump PATH", Short: "Print the metadata of a pool, damaged or not; works without the daemon",
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if a.format == formatJSON {
				return withRemedy(usagef("dump is for reading and has no JSON"), "`nvh nvram check` and `nvh nvram ls PATH` have.")
			}
			return nvram.Dump(args[0], a.stdout)
		},
	}
}

func (a *app) nvramImport() *cobra.Command {
	var name string
	c := &cobra.Command{
		Use: "import PATH", Short: "Take over a pool that comes from elsewhere, and its VMs",
		Long: "Import lets the daemon open the pool at PATH and take over the VMs in it, with their\nsaved images. Their disks must be at the same paths as before.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			client, err := a.connect()
			if err != nil {
				return err
			}
			infos, err := client.ImportPool(cmd.Context(), path, name)
			if err != nil {
				return err
			}
			return show(a, infos, printVMs)
		},
	}
	c.Flags().StringVar(&name, "name", "", "name of the pool (default the last part of PATH)")
	return c
}
