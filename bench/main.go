// Command bench measures the real product on this machine: how long after the
// announcement of an outage the first guest is told to stop and its state is
// committed, beside a bare loop that does the least a save needs, and how long after
// the daemon's start the guests run again. With -soak it cuts the power at random
// moments and counts what became of the guests.
//
// See docs/benchmarks.md for how to run it and how to read what it prints.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/bench/soak"
	"github.com/nv-hypervisor/nv-hypervisor/bench/suite"
	"github.com/nv-hypervisor/nv-hypervisor/lab/emulator"
	"github.com/nv-hypervisor/nv-hypervisor/lab/rig"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are the command line.
type options struct {
	args                  []string
	bin, qemu, json, only string
	samples               int
	quick                 bool
	seed                  uint64
	soak                  bool
	duration              time.Duration
}

func run(ctx context.Context, args []string) error {
	o := options{args: args}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&o.bin, "bin", "bin", "`folder` with nvh and nvhd, as make build leaves them")
	flags.StringVar(&o.qemu, "qemu", "installed", "\"installed\", \"backports\", or the `path` of a QEMU")
	flags.StringVar(&o.json, "json", "", "write all samples to this `file` as well")
	flags.StringVar(&o.only, "only", "", "measure cases whose name GROUP/KIND/LOAD matches this `regexp`: {single,fleet}/{save,restart}/{none,hogs}")
	flags.IntVar(&o.samples, "samples", 0, "`number` of samples of each save, default 100; restarts get a fifth of it")
	flags.BoolVar(&o.quick, "quick", false, "few samples of small VMs: a test of the benchmark, not a measurement")
	flags.Uint64Var(&o.seed, "seed", 1, "`seed` of all that is random")
	flags.BoolVar(&o.soak, "soak", false, "cut the power at random moments and count what becomes of the guests")
	flags.DurationVar(&o.duration, "duration", 10*time.Minute, "how long to soak")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if o.samples < 0 || o.duration <= 0 {
		return errors.New("-samples and -duration must be more than zero")
	}
	if _, err := os.Stat(filepath.Join(o.bin, "nvhd")); err != nil {
		return fmt.Errorf("%w: run make build, or name the folder of nvhd with -bin", err)
	}
	var err error
	if o.qemu, err = findQEMU(ctx, o.qemu); err != nil {
		return err
	}
	if o.soak {
		return cut(ctx, o)
	}
	return measure(ctx, o)
}

// Samples that are taken unless told otherwise.
const (
	fullSamples  = 100
	quickSamples = 3
)

func measure(ctx context.Context, o options) error {
	opt := suite.Options{Bin: o.bin, QEMU: o.qemu, Samples: o.samples, Quick: o.quick, Seed: o.seed, Progress: os.Stderr}
	if o.samples == 0 {
		opt.Samples = fullSamples
		if o.quick {
			opt.Samples = quickSamples
		}
	}
	if o.only != "" {
		var err error
		if opt.Only, err = regexp.Compile(o.only); err != nil {
			return fmt.Errorf("-only: %w", err)
		}
	}
	r, err := suite.Run(ctx, opt)
	if err != nil {
		return err
	}
	r.Command = append([]string{"bench"}, o.args...)
	if o.json != "" {
		if err := r.WriteFile(o.json); err != nil {
			return err
		}
	}
	return r.WriteTables(os.Stdout)
}

// cut is the soak. It fails if anything happened to a guest that must not.
func cut(ctx context.Context, o options) error {
	r, err := soak.Run(ctx, soak.Options{Bin: o.bin, QEMU: o.qemu, Duration: o.duration, Seed: o.seed, Progress: os.Stderr})
	if err != nil {
		return err
	}
	r.Command = append([]string{"bench"}, o.args...)
	if o.json != "" {
		if err := r.WriteFile(o.json); err != nil {
			return err
		}
	}
	return errors.Join(r.WriteTable(os.Stdout), r.Err())
}

// findQEMU turns the words for the two supported versions into paths.
func findQEMU(ctx context.Context, name string) (string, error) {
	switch name {
	case "installed":
		e, err := emulator.Installed(ctx)
		return e.Path, err
	case "backports":
		cache, err := rig.CacheDir()
		if err != nil {
			return "", err
		}
		e, err := emulator.Backports(ctx, cache)
		return e.Path, err
	}
	return filepath.Abs(name)
}
