package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/nvram/nvdimm"
)

// registerOptions are the flags of nvram registers.
type registerOptions struct {
	system string
	read   string
	write  string
	offset nvram.Bytes
	force  bool
}

func (a *app) nvramRegisters() *cobra.Command {
	var o registerOptions
	c := &cobra.Command{
		Use: "registers [DIMM]", Short: "Show the configuration registers of memory modules, read and write the label storage area; works without the daemon",
		Long: `Registers lists the memory modules of this machine, or shows one of them (nmem0) with its
regions and its label storage area: some KiB beside the memory, in which the kernel
keeps the namespaces, and the part of a module's configuration that can be written.

--read copies the area to a FILE ("-": standard output), --write copies a FILE into
it, reads it back, and lets the kernel take it up. The kernel owns the area while a
region with the module is active, so a write is then refused with exit code 4. --force
takes the regions offline for the write; that is refused while anything on them is
mounted, mapped or open. Wrong labels lose the namespaces: keep what --read gave.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) == 0 && (o.read != "" || o.write != ""):
				return withRemedy(usagef("a DIMM is missing"), "`nvh nvram registers` lists them.")
			case o.read != "" && o.write != "":
				return usagef("give either --read or --write")
			case o.force && o.write == "":
				return usagef("--force is for --write")
			case len(args) == 0:
				return a.listDIMMs(nvdimm.System(o.system))
			case o.read != "":
				return a.readLabels(args[0], o)
			case o.write != "":
				return a.writeLabels(args[0], o)
			}
			return a.showRegisters(args[0], nvdimm.System(o.system))
		},
	}
	f := c.Flags()
	f.StringVar(&o.read, "read", "", "copy the label storage area to this `FILE`")
	f.StringVar(&o.write, "write", "", "copy this `FILE` into the label storage area")
	f.Var(&o.offset, "offset", "where in the area to begin")
	f.Lookup("offset").DefValue = "0"
	f.BoolVar(&o.force, "force", false, "take active regions of the module offline for the write")
	rootFlag(c, &o.system)
	return c
}

// moduleList is every module and region of a machine.
type moduleList struct {
	DIMMs   []nvdimm.DIMM   `json:"dimms"`
	Regions []nvdimm.Region `json:"regions"`
}

func (a *app) listDIMMs(system nvdimm.System) error {
	dimms, err := system.DIMMs()
	if err != nil {
		return err
	}
	regions, err := system.Regions()
	if err != nil {
		return err
	}
	list := moduleList{append([]nvdimm.DIMM{}, dimms...), append([]nvdimm.Region{}, regions...)}
	return show(a, list, func(a *app, l moduleList) error {
		if len(l.DIMMs) == 0 {
			_, err := fmt.Fprintln(a.stdout, "no memory modules: the kernel knows no NVDIMM")
			return err
		}
		return errors.Join(printDIMMs(a, l.DIMMs), printRegions(a, l.Regions))
	})
}

// registers is one module.
type registers struct {
	nvdimm.DIMM
	Regions  []string   `json:"regions"`
	Labels   *labelArea `json:"labels"` // null: it cannot be reached
	Obstacle string     `json:"obstacle,omitempty"`
}

type labelArea struct {
	Size     nvram.Bytes `json:"size"`
	Transfer nvram.Bytes `json:"max_transfer"`
}

func (a *app) showRegisters(name string, system nvdimm.System) error {
	d, err := system.DIMM(name)
	if err != nil {
		return err
	}
	r := registers{DIMM: d, Regions: []string{}}
	regions, err := system.Regions()
	if err != nil {
		return err
	}
	for _, region := range regions {
		for _, m := range region.Mappings {
			if m.DIMM == name {
				r.Regions = append(r.Regions, region.Name)
			}
		}
	}
	labels, err := system.OpenLabels(name)
	if err == nil {
		r.Labels = &labelArea{nvram.Bytes(labels.Size()), nvram.Bytes(labels.Transfer())}
		err = labels.Close()
	}
	if err != nil {
		r.Obstacle = err.Error()
	}
	return show(a, r, printRegisters)
}

func printRegisters(a *app, r registers) error {
	t := newTable(a.stdout)
	t.row("dimm:", r.Name)
	t.row("id:", r.ID)
	t.row("serial:", r.Serial)
	t.row("handle:", r.Handle)
	t.row("state:", r.State)
	t.row("flags:", flagsOf(r.DIMM))
	t.row("dirty shutdowns:", dirtyOf(r.DIMM))
	t.row("regions:", strings.Join(r.Regions, ", "))
	if r.Labels != nil {
		t.row("label storage area:", fmt.Sprintf("%s, %s at a time", size(r.Labels.Size), size(r.Labels.Transfer)))
	} else {
		t.row("label storage area:", r.Obstacle)
	}
	if err := t.flush(); err != nil {
		return err
	}
	problems := r.Problems()
	if len(problems) == 0 {
		return nil
	}
	t = newTable(a.stdout, "FATAL", "WHAT", "REMEDY")
	for _, p := range problems {
		t.row(yesNo(p.Fatal), p.What, p.Remedy)
	}
	return t.flush()
}

func (a *app) readLabels(dimm string, o registerOptions) (err error) {
	labels, err := nvdimm.System(o.system).OpenLabels(dimm)
	if err != nil {
		return err
	}
	defer labels.Close() // opened to read: closing cannot lose anything
	if int(o.offset) > labels.Size() {
		return usagef("offset %v is beyond the label storage area of %d bytes", o.offset, labels.Size())
	}
	content, err := io.ReadAll(io.NewSectionReader(labels, int64(o.offset), int64(labels.Size())-int64(o.offset)))
	if err != nil {
		return err
	}
	if o.read == "-" {
		_, err = a.stdout.Write(content)
		return err
	}
	return os.WriteFile(o.read, content, 0o600)
}

func (a *app) writeLabels(dimm string, o registerOptions) error {
	content, err := a.fileOrStdin(o.write)
	if err != nil {
		return err
	}
	if len(content) == 0 {
		return usagef("%s is empty: nothing to write", o.write)
	}
	err = nvdimm.System(o.system).WriteLabels(dimm, content, int64(o.offset), o.force)
	switch {
	case errors.Is(err, nvdimm.ErrActive):
		return withRemedy(err, "Stop what uses the regions, then write with --force; or take them offline with 'ndctl disable-region'.")
	case errors.Is(err, nvdimm.ErrInUse):
		return withRemedy(err, "Stop nvhd and the VMs, and unmount the file systems on it.")
	case err != nil:
		return err
	}
	fmt.Fprintf(a.stderr, "%s: %s bytes written and read back\n", dimm, strconv.Itoa(len(content)))
	return nil
}

func (a *app) fileOrStdin(name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(a.stdin)
	}
	return os.ReadFile(name)
}
