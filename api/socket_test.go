package api_test

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nv-hypervisor/nv-hypervisor/api"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

func TestListenMode(t *testing.T) {
	path := socketPath(t)
	l, err := api.Listen(path, "root")
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestListenReplacesStale(t *testing.T) {
	path := socketPath(t)
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false) // as SIGKILL leaves it
	dead.Close()
	l, err := api.Listen(path, "")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

func TestListenRefusals(t *testing.T) {
	live := serve(t).Socket
	file := socketPath(t)
	if err := os.WriteFile(file, []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	foreign := socketPath(t)
	l, err := net.Listen("unix", foreign) // somebody else's, without our lock
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	long := "/tmp/" + strings.Repeat("x", 103) // 108 bytes: one too many
	for _, c := range []struct {
		name, path, group, message string
		is                         error
	}{
		{"another daemon", live, "", "another nvhd is running", api.ErrSocketInUse},
		{"another program", foreign, "", "another nvhd is running", api.ErrSocketInUse},
		{"a file", file, "", "is not a socket", nil},
		{"a long path", long, "", "socket path of 108 bytes", vm.ErrInvalid},
		{"no path", "", "", "empty", vm.ErrInvalid},
		{"no such group", socketPath(t), "nosuchgroup", "nosuchgroup", nil},
		{"a directory that is a file", filepath.Join(file, "x.sock"), "", "not a directory", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, err := api.Listen(c.path, c.group)
			if err == nil {
				l.Close()
				t.Fatal("it listens")
			}
			if !strings.Contains(err.Error(), c.message) || (c.is != nil && !errors.Is(err, c.is)) {
				t.Error(err)
			}
		})
	}
	if p, err := os.ReadFile(file); err != nil || string(p) != "precious" {
		t.Errorf("the file is now %q, %v", p, err)
	}
	if _, err := api.NewClient(long); !errors.Is(err, vm.ErrInvalid) {
		t.Errorf("the client takes a path of 108 bytes: %v", err)
	}
	if err := api.CheckSocketPath(long[:107]); err != nil {
		t.Error(err)
	}
}
