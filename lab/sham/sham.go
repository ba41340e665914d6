// Package sham builds nvh_sham, a kernel module with a GPIO controller, a mains adapter and a battery that do not exist.
//
// Everything above its driver is the kernel's own, so a test of a detector sees what it would see of real hardware: the
// character device and its queue of edges, sysfs, uevents. nvh_sham/nvh_sham.c says how it is operated.
// It is for machines that end with a test: never load it on a host.
package sham

import (
	"context"
	"embed"

	"github.com/nv-hypervisor/nv-hypervisor/kmod"
)

// Name is that of the module.
const Name = "nvh_sham"

// Parameters is where a loaded module is operated.
const Parameters = "/sys/module/" + Name + "/parameters/"

//go:embed nvh_sham/Makefile nvh_sham/Kbuild nvh_sham/*.c
var sources embed.FS

// Build returns the path of the module for a kernel, as kmod.Build does of its own.
func Build(ctx context.Context, cacheDir, kernel string) (string, error) {
	return kmod.BuildFrom(ctx, cacheDir, kernel, Name, sources)
}
