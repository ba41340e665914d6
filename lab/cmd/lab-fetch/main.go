// Command lab-fetch makes the downloads of the tests and the demo ready in the cache ($NVH_CACHE) and prints
// where they are, one NAME=VALUE a line for a shell to read. What is there already costs no network.
//
//	lab-fetch guest   kernel, initrd and cmdline of the test guest
//	lab-fetch qemu    the two emulators, installed and from backports
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/nv-hypervisor/nv-hypervisor/lab/debian"
	"github.com/nv-hypervisor/nv-hypervisor/lab/emulator"
	"github.com/nv-hypervisor/nv-hypervisor/lab/guest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := fetch(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "lab-fetch:", err)
		stop()
		os.Exit(1)
	}
}

func fetch(ctx context.Context, what []string) error {
	if len(what) == 0 {
		return fmt.Errorf("say what to fetch: guest, qemu")
	}
	cache, err := debian.DefaultCache()
	if err != nil {
		return err
	}
	for _, w := range what {
		switch w {
		case "guest":
			err = printGuest(ctx, cache)
		case "qemu":
			err = printEmulators(ctx, cache)
		default:
			err = fmt.Errorf("unknown %q: know guest, qemu", w)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func printGuest(ctx context.Context, cache string) error {
	image, err := guest.Build(ctx, cache)
	if err != nil {
		return err
	}
	fmt.Printf("GUEST_KERNEL='%s'\nGUEST_INITRD='%s'\nGUEST_CMDLINE='%s'\n", image.Kernel, image.Initrd, image.Cmdline)
	return nil
}

func printEmulators(ctx context.Context, cache string) error {
	found, err := emulator.All(ctx, cache)
	if err != nil {
		return err
	}
	fmt.Printf("QEMU_INSTALLED='%s'\nQEMU_BACKPORTS='%s'\n", found[0].Path, found[1].Path)
	return nil
}
