package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/BurntSushi/toml"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nv-hypervisor/nv-hypervisor/api"
	"github.com/nv-hypervisor/nv-hypervisor/host"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

const createLong = `Create defines a VM and takes its memory out of a pool. The definition comes from
flags, or from a TOML file, whose values the flags override. What follows -- is
appended to QEMU's command line as it is.

--disk takes a path, or path=…,format=raw|qcow2,cache=none|directsync,read-only,
and can be repeated. A comma in a path is written twice. Other cache modes lose
completed writes in a power cut; they also need "force".

--net takes user, user,forward=tcp::2222-:22, tap:DEVICE or bridge:NAME, each with
mac=… if wanted, and can be repeated.

Relative paths are relative to the current directory, in a file to that of the file.`

const createExample = `  nvh create web --memory 1G --cpus 2 --disk web.qcow2 --net user,forward=tcp::8080-:80
  nvh create -f web.toml --start
  nvh create probe --volatile --kernel vmlinuz --initrd initrd --cmdline console=ttyS0 -- -device virtio-balloon`

func (a *app) createCommand() *cobra.Command {
	var file string
	var start bool
	d := vm.Definition{}
	c := &cobra.Command{
		Use: "create NAME [flags] [-- QEMU-ARGUMENT…]", Short: "Define a VM", Long: createLong, Example: createExample,
		RunE: func(cmd *cobra.Command, args []string) error {
			name, extra, err := splitAtDash(cmd, args)
			if err != nil {
				return err
			}
			definition, err := a.definitionOf(cmd.Flags(), file, d)
			if err != nil {
				return err
			}
			if name != "" {
				definition.Name = name
			}
			if definition.Name == "" {
				return usagef("the VM has no name")
			}
			definition.Extra = append(definition.Extra, extra...)
			return a.create(cmd, definition, start)
		},
	}
	f := c.Flags()
	f.StringVarP(&file, "file", "f", "", "TOML file with the definition; - is stdin")
	f.BoolVar(&start, "start", false, "start the VM when it is created")
	definitionFlags(f, &d)
	c.RegisterFlagCompletionFunc("on-lost", words(string(vm.OnLostBoot), string(vm.OnLostHold)))
	c.RegisterFlagCompletionFunc("accel", words("kvm", "tcg"))
	return c
}

// defaultMemory is enough for a small Linux guest.
const defaultMemory = 512 << 20

// definitionFlags declares the flags; their values end in d.
func definitionFlags(f *pflag.FlagSet, d *vm.Definition) {
	d.Memory = defaultMemory
	f.VarP(&d.Memory, "memory", "m", "size of the RAM: 512M, 4G; a multiple of 2M")
	f.IntVarP(&d.CPUs, "cpus", "c", 1, "number of vCPUs")
	f.StringVar(&d.Machine, "machine", "", "machine type; stored with its version (default the host's)")
	f.StringVar(&d.CPU, "cpu", "", "CPU model (default host under KVM, max under TCG)")
	f.StringVar(&d.Accel, "accel", "", "kvm or tcg (default kvm where it works)")
	f.StringVar(&d.QEMU, "qemu", "", "path of the QEMU binary (default the host's)")
	f.Var(&diskFlags{&d.Disks}, "disk", "a disk image; see above")
	f.Var(&netFlags{&d.Nets}, "net", "a network interface; see above")
	f.StringVar(&d.Kernel, "kernel", "", "Linux kernel to boot")
	f.StringVar(&d.Initrd, "initrd", "", "initial RAM disk for the kernel")
	f.StringVar(&d.Cmdline, "cmdline", "", "kernel command line")
	f.BoolVar(&d.Volatile, "volatile", false, "RAM in DRAM: paused and lost in an outage")
	f.StringVar(&d.Pool, "pool", "", "pool that holds the RAM (default the host's)")
	f.IntVar(&d.Priority, "priority", 0, "0 to 1000; higher is saved and resumed earlier")
	f.Var((*onLostFlag)(&d.OnLost), "on-lost", "without a valid image after an outage: boot or hold (default boot)")
	f.Var(&d.StateSize, "state-size", "room for the volatile state, allocated twice (default 8M)")
	f.Lookup("state-size").DefValue = ""
}

// flagFields copies what one flag sets from the flags' definition to the file's.
var flagFields = map[string]func(to, from *vm.Definition){
	"memory":     func(to, from *vm.Definition) { to.Memory = from.Memory },
	"cpus":       func(to, from *vm.Definition) { to.CPUs = from.CPUs },
	"machine":    func(to, from *vm.Definition) { to.Machine = from.Machine },
	"cpu":        func(to, from *vm.Definition) { to.CPU = from.CPU },
	"accel":      func(to, from *vm.Definition) { to.Accel = from.Accel },
	"qemu":       func(to, from *vm.Definition) { to.QEMU = from.QEMU },
	"disk":       func(to, from *vm.Definition) { to.Disks = from.Disks },
	"net":        func(to, from *vm.Definition) { to.Nets = from.Nets },
	"kernel":     func(to, from *vm.Definition) { to.Kernel = from.Kernel },
	"initrd":     func(to, from *vm.Definition) { to.Initrd = from.Initrd },
	"cmdline":    func(to, from *vm.Definition) { to.Cmdline = from.Cmdline },
	"volatile":   func(to, from *vm.Definition) { to.Volatile = from.Volatile },
	"pool":       func(to, from *vm.Definition) { to.Pool = from.Pool },
	"priority":   func(to, from *vm.Definition) { to.Priority = from.Priority },
	"on-lost":    func(to, from *vm.Definition) { to.OnLost = from.OnLost },
	"state-size": func(to, from *vm.Definition) { to.StateSize = from.StateSize },
}

// definitionOf merges the file, if there is one, with the flags that were given.
func (a *app) definitionOf(f *pflag.FlagSet, file string, flags vm.Definition) (vm.Definition, error) {
	cwd, err := os.Getwd()
	if err != nil {
		return flags, err
	}
	absolute(cwd, &flags)
	if file == "" {
		return flags, nil
	}
	d, err := a.readDefinition(file, cwd)
	if err != nil {
		return d, err
	}
	f.Visit(func(flag *pflag.Flag) {
		if set, ok := flagFields[flag.Name]; ok {
			set(&d, &flags)
		}
	})
	return d, nil
}

// readDefinition reads a TOML file strictly.
func (a *app) readDefinition(file, cwd string) (vm.Definition, error) {
	d := vm.Definition{}
	d.Memory, d.CPUs = defaultMemory, 1
	dir, read := filepath.Dir(file), func() (toml.MetaData, error) { return toml.DecodeFile(file, &d) }
	if file == "-" {
		dir, read = cwd, func() (toml.MetaData, error) { return toml.NewDecoder(a.stdin).Decode(&d) }
	}
	meta, err := read()
	if err != nil {
		if _, notRead := errors.AsType[*fs.PathError](err); notRead {
			return d, asUsage(fmt.Errorf("read the definition: %w", err))
		}
		return d, asUsage(fmt.Errorf("%s: %w", file, err))
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return d, withRemedy(usagef("%s: unknown key %q", file, unknown[0].String()), "docs/scripting.md lists the keys of a definition.")
	}
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(cwd, dir)
	}
	absolute(dir, &d)
	return d, nil
}

// absolute makes every path of d independent of where the daemon runs.
func absolute(dir string, d *vm.Definition) {
	paths := []*string{&d.QEMU, &d.Kernel, &d.Initrd}
	for i := range d.Disks {
		paths = append(paths, &d.Disks[i].Path)
	}
	for _, p := range paths {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
}

// splitAtDash tells the VM's name from what follows --.
func splitAtDash(cmd *cobra.Command, args []string) (name string, extra []string, err error) {
	if at := cmd.ArgsLenAtDash(); at >= 0 {
		args, extra = args[:at], args[at:]
	}
	switch len(args) {
	case 0:
		return "", extra, nil
	case 1:
		return args[0], extra, nil
	}
	return "", nil, withRemedy(usagef("one NAME is wanted, not %q", args), "Put arguments for QEMU behind --.")
}

func (a *app) create(cmd *cobra.Command, d vm.Definition, start bool) error {
	if err := api.CheckName(d.Name); err != nil {
		return err
	}
	client, err := a.connect()
	if err != nil {
		return err
	}
	info, err := client.Create(cmd.Context(), d)
	if err != nil || !start {
		return a.showChange(info, err)
	}
	return a.showChange(client.Start(cmd.Context(), d.Name, host.StartOptions{}))
}
