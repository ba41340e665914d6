package main

import (
	"context"
	"encoding/json"
	"io"

	"github.com/spf13/cobra"

	"github.com/nv-hypervisor/nv-hypervisor/api"
	"github.com/nv-hypervisor/nv-hypervisor/host"
)

func (a *app) logsCommand() *cobra.Command {
	var follow, console bool
	c := a.vmCommand("logs", "Print the log of a VM's QEMU, or of its console", "",
		func(ctx context.Context, client *api.Client, name string) error {
			which := api.LogQEMU
			if console {
				which = api.LogConsole
			}
			log, err := client.Log(ctx, name, which, follow)
			if err != nil {
				return err
			}
			defer log.Close()
			_, err = io.Copy(a.stdout, log)
			return err
		})
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on printing what is added")
	c.Flags().BoolVar(&console, "console", false, "what the guest wrote to its serial console")
	return c
}

func (a *app) writeEventJSON(e host.Event) error { return json.NewEncoder(a.stdout).Encode(e) }
