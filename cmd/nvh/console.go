package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/nv-hypervisor/nv-hypervisor/api"
)

// escapeKey is Ctrl-], as in telnet and virsh.
const escapeKey = 0x1d

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
	restore, err := rawTerminal(input)
	if err != nil {
		return err
	}
	defer restore()
	keys, err := openKeyboard(input)
	if err != nil {
		return err
	}
	fmt.Fprintf(a.stderr, "console of %s; Ctrl-] leaves it\r\n", name)

	left := make(chan bool, 1)
	go func() { left <- typeInto(stream, keys) }()
	ended := make(chan error, 1)
	go func() { _, err := io.Copy(a.stdout, stream); ended <- err }()
	leaving, outputErr := watch(left, ended)

	keys.Stop()
	stream.Close()
	if leaving {
		<-ended
	} else {
		<-left
	}
	keys.Close()
	if leaving {
		fmt.Fprintf(a.stderr, "\r\nleft the console of %s\r\n", name)
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if outputErr != nil && !errors.Is(outputErr, io.ErrUnexpectedEOF) {
		return fmt.Errorf("console of %s: %w", name, outputErr)
	}
	fmt.Fprintf(a.stderr, "\r\nthe console of %s has ended\r\n", name)
	return nil
}

// watch waits until the user leaves or the output ends. The end of the input
// alone is no reason to stop showing the output.
func watch(left chan bool, ended chan error) (leaving bool, err error) {
	select {
	case escaped := <-left:
		if escaped {
			return true, nil
		}
		left <- false // for the caller, who waits for it
		return false, <-ended
	case err := <-ended:
		return false, err
	}
}

// typeInto copies keys to the console. It reports true at the escape key and
// false when the input or the console ends.
func typeInto(console io.Writer, keys io.Reader) bool {
	buffer := make([]byte, 1024)
	for {
		n, err := keys.Read(buffer)
		text, _, escaped := bytes.Cut(buffer[:n], []byte{escapeKey})
		if _, failed := console.Write(text); failed != nil {
			return false
		}
		if escaped {
			return true
		}
		if err != nil {
			return false
		}
	}
}
