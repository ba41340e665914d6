// Command nvh is the command line of NV-Hypervisor. It asks the daemon nvhd
// over its socket; only the verbs on the bytes of a pool (nvram init, check and
// dump) work without one.
//
// What scripts can rely on, here and in docs/scripting.md: results go to
// stdout, everything else to stderr; with --format json the output is exactly
// what the API sends; the exit codes of exit.go are stable.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() { os.Exit(mainCode()) }

func mainCode() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	return a.run(ctx, os.Args[1:])
}
