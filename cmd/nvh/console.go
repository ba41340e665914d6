package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/nv-hypervisor/nv-hypervisor/api"
	"github.com/nv-hypervisor/nv-hypervisor/internal/terminal"
)

func (a *app) consoleCommand() *cobra.Command {
	return a.vmCommand("console", "Attach to the serial console of a VM",
		`Console joins the terminal to the serial console of a VM. Ctrl-] leaves it; the
guest goes on. When the input is not a terminal and ends, the output goes on until
the VM ends or nvh is interrupted. One console can be attached at a time.`,
		func(ctx context.Context, client *api.Client, name string) error {
			stream, err := client.Console(ctx, name)
			if err != nil {
				return err
			}
			return a.attach(ctx, name, stream)
		})
}

// attach joins stdin and stdout with a console until Ctrl-], the end of the
// VM, or the end of ctx.
func (a *app) attach(ctx context.Context, name string, stream io.ReadWriteCloser) error {
	defer stream.Close()
	input, ok := a.stdin.(*os.File)
	if !ok {
		return fmt.Errorf("the console needs a file as input, not %T", a.stdin)
	}
	leaving, err := terminal.Join(input, a.stdout, stream, func() {
		fmt.Fprintf(a.stderr, "console of %s; Ctrl-] leaves it\r\n", name)
	})
	if leaving {
		fmt.Fprintf(a.stderr, "\r\nleft the console of %s\r\n", name)
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("console of %s: %w", name, err)
	}
	fmt.Fprintf(a.stderr, "\r\nthe console of %s has ended\r\n", name)
	return nil
}
