package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nv-hypervisor/nv-hypervisor/lab"
	"github.com/nv-hypervisor/nv-hypervisor/lab/kernel"
	"github.com/nv-hypervisor/nv-hypervisor/lab/plan"
	"github.com/nv-hypervisor/nv-hypervisor/nvram"
)

func (a *app) upCommand() *cobra.Command {
	var o lab.Options
	var dimms []string
	c := &cobra.Command{
		Use: "up", Short: "Make a host and power it on", Args: cobra.NoArgs,
		Long: `Up makes a host and returns when nvhd serves in it. The first host downloads Debian
packages (about 120 MB) into the cache, $NVH_CACHE or ~/.cache/nvh; nothing is installed.`,
		Example: `  nvh-lab up
  nvh-lab up --host big --nvdimm 1G --nvdimm 512M,devdax --qemu 10.0 --kernel 6.12`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, text := range dimms {
				d, err := parseNVDIMM(text)
				if err != nil {
					return err
				}
				o.NVDIMMs = append(o.NVDIMMs, d)
			}
			return a.up(cmd.Context(), o)
		},
	}
	f := c.Flags()
	f.StringVar(&o.Bin, "bin", "", "folder with nvh and nvhd (default that of nvh-lab)")
	f.StringVar((*string)(&o.Kernel), "kernel", string(kernel.V6_1), "Debian's kernel: 6.1 or 6.12")
	f.StringVar(&o.QEMU, "qemu", "7.2", "QEMU inside: 7.2 or 10.0")
	f.StringVar((*string)(&o.Persistence), "persistence", string(lab.MemoryController), "persistence domain: memory_controller or cpu_cache")
	f.StringArrayVar(&dimms, "nvdimm", nil, "an NVDIMM, SIZE[,fsdax|devdax]; can be repeated (default 512M,fsdax)")
	f.IntVar(&o.CPUs, "cpus", 2, "CPUs of the host")
	f.VarP(&o.Memory, "memory", "m", "DRAM of the host (default 2G)")
	f.BoolVar(&o.NoDetector, "no-detector", false, "boot without the kernel module of the outage detector")
	c.Flags().Lookup("memory").DefValue = ""
	return c
}

func parseNVDIMM(text string) (lab.NVDIMM, error) {
	size, mode, hasMode := strings.Cut(text, ",")
	d := lab.NVDIMM{Mode: plan.FSDAX}
	if hasMode {
		d.Mode = plan.Mode(mode)
	}
	var err error
	d.Size, err = nvram.ParseBytes(size)
	return d, err
}

func (a *app) up(ctx context.Context, o lab.Options) error {
	if o.Bin == "" {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find nvh and nvhd: %w: use --bin", err)
		}
		o.Bin = filepath.Dir(self)
	}
	folder, err := a.folder()
	if err != nil {
		return err
	}
	h, err := lab.Create(ctx, folder, o)
	if err != nil {
		return err
	}
	return a.boot(ctx, h)
}

// boot powers a host on and tells how long it took.
func (a *app) boot(ctx context.Context, h *lab.Host) error {
	start := time.Now()
	report, err := h.Boot(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "%s is up: nvhd serves after %.1f s (%s)\n", a.name, time.Since(start).Seconds(), report)
	return nil
}

func (a *app) powerOnCommand() *cobra.Command {
	var noDetector bool
	c := &cobra.Command{
		Use: "power-on", Short: "Give a host its power back", Args: cobra.NoArgs,
		Long: `Power-on boots a host whose power was cut, with the programs that lie in its --bin
folder now, and returns when nvhd serves.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			h, err := a.host()
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("no-detector") {
				if err := h.SetDetector(!noDetector); err != nil {
					return err
				}
			}
			return a.boot(cmd.Context(), h)
		},
	}
	c.Flags().BoolVar(&noDetector, "no-detector", false, "from now on, boot without the kernel module of the outage detector")
	return c
}

func (a *app) cutCommand() *cobra.Command {
	return &cobra.Command{
		Use: "cut", Short: "Pull the plug", Args: cobra.NoArgs,
		Long: `Cut ends the host at once, as a power failure does: what was in its DRAM is lost, what
is in its NVDIMMs and on its disk stays.`,
		RunE: func(*cobra.Command, []string) error {
			h, err := a.host()
			if err != nil {
				return err
			}
			if !h.On() {
				return lab.ErrOff
			}
			return h.Cut()
		},
	}
}

func (a *app) nmiCommand() *cobra.Command {
	return &cobra.Command{
		Use: "nmi", Short: "Announce a power outage by a non-maskable interrupt", Args: cobra.NoArgs,
		Long: `Nmi raises the non-maskable interrupt by which a power-outage detector warns the host.
The power stays on until cut.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			h, err := a.host()
			if err != nil {
				return err
			}
			_, err = h.NMI(cmd.Context())
			return err
		},
	}
}

func (a *app) downCommand() *cobra.Command {
	return &cobra.Command{
		Use: "down", Short: "Remove a host with all it holds", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			h, err := a.host()
			if err != nil {
				return err
			}
			return h.Remove()
		},
	}
}

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show a host", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			h, err := a.host()
			if err != nil {
				return err
			}
			return a.status(cmd.Context(), h)
		},
	}
}

// statusLimit is how long a host that boots is waited for.
const statusLimit = 3 * time.Second

func (a *app) status(ctx context.Context, h *lab.Host) error {
	o := h.Options()
	fmt.Fprintf(a.stdout, "folder       %s\n", h.Folder())
	fmt.Fprintf(a.stdout, "machine      %d CPUs, %v DRAM, persistence domain %s\n", o.CPUs, o.Memory, o.Persistence)
	for n, d := range o.NVDIMMs {
		fmt.Fprintf(a.stdout, "NVDIMM %d     %v, %s\n", n, d.Size, d.Mode)
	}
	fmt.Fprintf(a.stdout, "QEMU inside  %s\n", o.QEMU)
	if !h.On() {
		fmt.Fprintf(a.stdout, "power        off\n")
		return nil
	}
	fmt.Fprintf(a.stdout, "power        on\n")
	ctx, cancel := context.WithTimeout(ctx, statusLimit)
	defer cancel()
	var r plan.Report
	err := h.Report(ctx, &r)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		fmt.Fprintf(a.stdout, "boot         has not come far enough to tell\n")
		return nil
	case err != nil:
		return err
	}
	fmt.Fprintf(a.stdout, "kernel       %s\nboot         %s\n", r.Kernel, r)
	if err := r.Failure(); err != nil {
		fmt.Fprintf(a.stdout, "failure      %v\n", err)
	}
	fmt.Fprintf(a.stdout, "nvhd         process %d, started again %d times\n", r.Daemon, r.Restarts)
	return nil
}
