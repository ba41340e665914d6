package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/nv-hypervisor/nv-hypervisor/lab"
)

// app is one run of nvh-lab.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer

	name string // of the host
	exit int    // code of the command that ran inside
}

const rootLong = `nvh-lab runs an emulated host: Debian's kernel with its NVDIMM driver and KVM, QEMU,
nvhd as its service, on a machine that is a QEMU itself. Its NVDIMMs keep their
content when its power is cut, its DRAM does not.

Hosts live in folders below $NVH_LAB, $XDG_STATE_HOME/nvh-lab or
~/.local/state/nvh-lab. They go on when nvh-lab ends, until down.`

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use: "nvh-lab", Short: "An emulated host with NVRAM, and a plug that can be pulled", Long: rootLong,
		SilenceErrors: true, SilenceUsage: true, // no Args: cobra refuses unknown commands only then
	}
	root.PersistentFlags().StringVarP(&a.name, "host", "n", "lab", "name of the host")
	root.AddCommand(a.upCommand(), a.execCommand(), a.copyCommand(), a.consoleCommand(), a.statusCommand(),
		a.nmiCommand(), a.cutCommand(), a.powerOnCommand(), a.downCommand())
	return root
}

// folder is where the host lives.
func (a *app) folder() (string, error) {
	if err := lab.CheckName(a.name); err != nil {
		return "", err
	}
	base := os.Getenv("NVH_LAB")
	if state := os.Getenv("XDG_STATE_HOME"); base == "" && state != "" {
		base = filepath.Join(state, "nvh-lab")
	}
	if base == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("find the home folder: %w: set NVH_LAB", err)
		}
		base = filepath.Join(home, ".local/state/nvh-lab")
	}
	return filepath.Abs(filepath.Join(base, a.name))
}

// host finds the host that was named.
func (a *app) host() (*lab.Host, error) {
	folder, err := a.folder()
	if err != nil {
		return nil, err
	}
	h, err := lab.Open(folder)
	if err != nil {
		return nil, fmt.Errorf("%w: `nvh-lab up` makes one", err)
	}
	return h, nil
}
