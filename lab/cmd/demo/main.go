// Demo shows on this machine what NV-Hypervisor is for: two real Linux guests, one persistent and one volatile, an
// outage, everything killed with SIGKILL, and what is left of each guest when the daemon is started again.
//
// It ends with exit code 0 only if every line of its comparison was verified: the persistent guest went on with the
// very next count, in the same boot, with its memory and its disk intact, and the volatile guest had lost everything.
// It leaves no process and no file behind.
//
// What it cannot show here: the pool is tmpfs, which stands in for NVRAM. It survives the death of every process, as
// the demo's power cut is, but not that of the host.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/lab/rig"
	"github.com/nv-hypervisor/nv-hypervisor/nvram"
)

// limit bounds the demo; it takes about a tenth of it.
const limit = 5 * time.Minute

func main() {
	bin := flag.String("bin", "bin", "`folder` with nvh and nvhd")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := run(ctx, *bin, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: FAILED: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, bin string, out io.Writer) (err error) {
	r, err := rig.New(ctx, rig.Options{Bin: bin, Size: nvram.GiB})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	d := demo{Rig: r, out: out}
	for _, step := range []func(context.Context) error{d.boot, d.announce, d.cut, d.recover, d.compare, d.timings} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}
