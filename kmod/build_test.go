package kmod_test

import (
	"context"
	"debug/elf"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nv-hypervisor/nv-hypervisor/kmod"
	"github.com/nv-hypervisor/nv-hypervisor/lab/debian"
)

func TestBuild(t *testing.T) {
	for _, kernel := range []string{"6.1.0-50-amd64", "6.12.95+deb12-amd64"} {
		path, err := kmod.Build(context.Background(), must(debian.DefaultCache()), kernel)
		if err != nil {
			t.Fatal(err)
		}
		t.Log(path)
	}
	_, _, _, _ = elf.Open, os.Stat, filepath.Join, strings.Cut
}

func must(s string, err error) string {
	if err != nil {
		panic(err)
	}
	return s
}
