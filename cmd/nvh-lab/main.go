// Command nvh-lab runs emulated hosts whose power can be cut: see package lab and docs/lab.md.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() { os.Exit(mainCode()) }

func mainCode() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	root := a.rootCommand()
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintf(a.stderr, "nvh-lab: %v\n", err)
		return 1
	}
	return a.exit
}
