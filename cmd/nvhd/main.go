// Nvhd is the NV-Hypervisor daemon: it keeps virtual machines in NVRAM, saves
// their volatile state when the power fails, and resumes them when it returns.
//
// Killing it at any moment, by any means, costs no VM: every QEMU goes on, and the
// next nvhd adopts it or recovers from what NVRAM holds.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	ossignal "os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/nv-hypervisor/nv-hypervisor/api"
	"github.com/nv-hypervisor/nv-hypervisor/host"
	"github.com/nv-hypervisor/nv-hypervisor/internal/version"
	"github.com/nv-hypervisor/nv-hypervisor/pod/signal"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
	"github.com/nv-hypervisor/nv-hypervisor/vm/saver"
)

func main() {
	started := saver.Now()
	configPath := flag.String("config", "", "configuration `file`; default "+host.DefaultConfigPath+" if it exists")
	verbose := flag.Bool("verbose", false, "log debug messages")
	showVersion := flag.Bool("version", false, "print the version and exit")
	flag.Usage = usage
	flag.Parse()
	if *showVersion {
		fmt.Println("nvhd", version.String())
		return
	}
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "nvhd: unexpected argument %q\n", flag.Arg(0))
		usage()
		os.Exit(exitUsage)
	}
	level := slog.LevelInfo
	if *verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	if err := run(*configPath, started, log); err != nil {
		log.Error("nvhd ends", "error", err, "remedy", vm.Remedy(err))
		os.Exit(exitFailure)
	}
}

// Exit codes, as documented in nvhd(8).
const (
	exitFailure = 1
	exitUsage   = 2
)

func usage() {
	fmt.Fprintf(flag.CommandLine.Output(), `Usage: nvhd [-config FILE] [-verbose]
       nvhd -version

The NV-Hypervisor daemon. It runs in the foreground and serves nvh(1) on a unix
socket. SIGTERM and SIGINT end it and leave the VMs running; SIGPWR (or what the
configuration names) announces a power outage.

`)
	flag.PrintDefaults()
}

func run(configPath string, started int64, log *slog.Logger) error {
	config, err := host.ReadConfig(configPath)
	if err != nil {
		return err
	}
	// From here on in a process with the outage signal blocked, which is this one
	// again: see package signal.
	if err := signal.Block(config.OutageSignal()); err != nil {
		return err
	}
	tuneRuntime()
	listener, err := api.Listen(config.Socket, config.Group)
	if err != nil {
		return err
	}
	h, err := host.Open(config, version.String(), log)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	closeDetectors, err := openDetectors(h, config, log)
	defer closeDetectors()
	if err != nil {
		return errors.Join(err, h.Close(), listener.Close())
	}
	return errors.Join(serve(h, config, listener, started, log), h.Close())
}

// hotThreads is how many threads may run Go code at once: more than there is ever
// work for, so that the saver's thread never waits for a place when it wakes.
const hotThreads = 8

// memoryLimit is when garbage is collected at all. A collection in the middle of a
// save would stop its thread; the daemon's live heap is a few MiB.
const memoryLimit = 96 << 20

func tuneRuntime() {
	runtime.GOMAXPROCS(max(hotThreads, runtime.NumCPU()))
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(memoryLimit)
}

// serve recovers the VMs and answers requests until a signal ends it. The API
// answers while recovery is under way; a verb for a VM that is being recovered
// says that it is busy.
func serve(h *host.Host, config host.Config, listener net.Listener, started int64, log *slog.Logger) error {
	server, err := api.New(h, api.Options{Log: log, Group: config.Group})
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	ctx, stop := ossignal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, listener) }()
	daemon.SdNotify(false, daemon.SdNotifyReady)
	log.Info("serving", "socket", config.Socket, "pid", os.Getpid(), "version", version.String())
	t, err := h.Recover(ctx, started)
	if err != nil {
		log.Error("recovery", "error", err)
	}
	if len(t.VMs) > 0 {
		log.Info("recovered", "vms", len(t.VMs), "duration", t.Duration.Duration())
	}
	err = <-served
	daemon.SdNotify(false, daemon.SdNotifyStopping)
	return err
}
