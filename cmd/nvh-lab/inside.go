package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/nv-hypervisor/nv-hypervisor/internal/terminal"
	"github.com/nv-hypervisor/nv-hypervisor/lab/agent"
)

func (a *app) execCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "exec COMMAND [ARGUMENT…]", Short: "Run a command in a host", Args: cobra.MinimumNArgs(1),
		Long: `Exec runs a command in the host, with its input, output and exit code. Ctrl-C kills it.`,
		Example: `  nvh-lab exec nvh ls
  nvh-lab exec sh -c 'dmesg | tail'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := a.host()
			if err != nil {
				return err
			}
			a.exit, err = h.Exec(cmd.Context(), agent.Command{Args: args}, agent.Streams{Stdin: a.stdin, Stdout: a.stdout, Stderr: a.stderr})
			return err
		},
	}
	c.Flags().SetInterspersed(false) // the command's own flags are not ours
	return c
}

func (a *app) copyCommand() *cobra.Command {
	return &cobra.Command{
		Use: "cp FROM TO", Short: "Copy files and folders into a host or out of it", Args: cobra.ExactArgs(2),
		Long: `Cp copies a file, or a folder with all it holds. A path in the host is written with a
colon in front. If TO is a folder, the copy is made in it.`,
		Example: `  nvh-lab cp disk.qcow2 :/var/lib/disk.qcow2
  nvh-lab cp :/var/lib/nvh/vms .`,
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := a.host()
			if err != nil {
				return err
			}
			from, fromInside := insidePath(args[0])
			to, toInside := insidePath(args[1])
			switch {
			case fromInside && !toInside:
				return h.CopyOut(cmd.Context(), from, to)
			case toInside && !fromInside:
				return h.CopyIn(cmd.Context(), from, to)
			}
			return fmt.Errorf("cp: one of the two paths must be in the host: write it with a colon in front")
		},
	}
}

func insidePath(arg string) (path string, inside bool) {
	if len(arg) > 0 && arg[0] == ':' {
		return arg[1:], true
	}
	return arg, false
}

func (a *app) consoleCommand() *cobra.Command {
	return &cobra.Command{
		Use: "console", Short: "Attach to the serial console of a host", Args: cobra.NoArgs,
		Long: `Console joins the terminal to the serial port of the host, where a root shell listens.
Ctrl-] leaves it.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			h, err := a.host()
			if err != nil {
				return err
			}
			conn, err := h.Console(cmd.Context())
			if err != nil {
				return err
			}
			defer conn.Close()
			defer context.AfterFunc(cmd.Context(), func() { conn.Close() })()
			input, ok := a.stdin.(*os.File)
			if !ok {
				return fmt.Errorf("the console needs a file as input, not %T", a.stdin)
			}
			left, err := terminal.Join(input, a.stdout, conn, func() {
				fmt.Fprintf(a.stderr, "console of %s; Ctrl-] leaves it\r\n", a.name)
			})
			if left || cmd.Context().Err() != nil {
				return nil
			}
			fmt.Fprintf(a.stderr, "\r\nthe console of %s has ended\r\n", a.name)
			return err
		},
	}
}
