// The tests build the library with make, install it, and compile C programs against what was installed, as a user does.
package main_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// prefix is where the library is installed, under the directory root.
const prefix = "/opt/nvram"

var root string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if root, err = os.MkdirTemp("/tmp", "libnvram-"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(root)
		if err := install(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

func install() error {
	if err := noteSources(); err != nil {
		return err
	}
	c := exec.Command("make", "-C", "..", "install-libnvram", "LIBNVRAM_BUILD="+filepath.Join(root, "build"), "DESTDIR="+root, "PREFIX="+prefix)
	// Not what an outer make was called with.
	c.Env = slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "MAKE") || strings.HasPrefix(s, "MFLAGS=") })
	out, err := c.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%v: %w; `make deps` installs what it takes\n%s", c, err, out)
	}
	return nil
}

// noteSources reads what the library and the programs are built from, so that go test does not repeat an earlier result when it changed.
func noteSources() error {
	for _, pattern := range []string{"*", "*/*", "../Makefile", "../nvram/*"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		for _, file := range files {
			if info, err := os.Stat(file); err != nil || info.IsDir() {
				continue
			}
			if _, err := os.ReadFile(file); err != nil {
				return err
			}
		}
	}
	return nil
}

func installed(elem ...string) string { return filepath.Join(root, prefix, filepath.Join(elem...)) }

// pkgConfig asks for the flags of the installed library.
func pkgConfig(t *testing.T, args ...string) []string {
	t.Helper()
	c := exec.Command("pkg-config", append(args, "libnvram")...)
	c.Env = append(os.Environ(), "PKG_CONFIG_PATH="+installed("lib/pkgconfig"), "PKG_CONFIG_SYSROOT_DIR="+root)
	return strings.Fields(output(t, c))
}

// compile makes a program of a C file, with the flags that pkg-config gives when asked for these, and no warning.
func compile(t *testing.T, source string, flags []string, ask ...string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), strings.TrimSuffix(filepath.Base(source), ".c"))
	args := append([]string{"-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-o", program, source}, flags...)
	output(t, exec.Command("cc", append(args, pkgConfig(t, ask...)...)...))
	return program
}

func compileLinked(t *testing.T, source string) string {
	t.Helper()
	return compile(t, source, nil, "--cflags", "--libs")
}

// command is a program that finds the library, and gets a minute.
func command(t *testing.T, program string, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	c := exec.CommandContext(ctx, program, args...)
	c.Env = append(os.Environ(), "LD_LIBRARY_PATH="+installed("lib"))
	return c
}

// output runs a command that must succeed and say nothing on stderr.
func output(t *testing.T, c *exec.Cmd) string {
	t.Helper()
	out, problem := result(t, c)
	if problem != "" {
		t.Fatalf("%v: %s", c, problem)
	}
	return out
}

// result runs a command and gives what it said, and how it failed: its last state and what is on stderr.
func result(t *testing.T, c *exec.Cmd) (out, problem string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	err := c.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		problem = exit.Error() + "\n"
	case err != nil:
		t.Fatalf("%v: %v", c, err)
	}
	return stdout.String(), problem + stderr.String()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// shmPath is in tmpfs and does not exist.
func shmPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "libnvram-")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	return filepath.Join(dir, "pool")
}
