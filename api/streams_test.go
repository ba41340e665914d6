package api_test

import (
	"bufio"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/api"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

func TestConsole(t *testing.T) {
	d := serve(t)
	d.Put(vm.Info{Name: "web", State: vm.Running})
	console, err := d.Client.Console(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	defer console.Close()
	if _, err := d.Client.Console(t.Context(), "web"); !errors.Is(err, vm.ErrBusy) {
		t.Errorf("a second console: %v", err)
	}
	io.WriteString(console, "hello\n")
	lines := bufio.NewReader(console)
	if line, err := lines.ReadString('\n'); line != "HELLO\n" {
		t.Errorf("%q, %v", line, err)
	}
	// The guest ends: what it wrote last arrives, then the end.
	io.WriteString(console, "poweroff\n")
	rest, err := io.ReadAll(lines)
	if string(rest) != "POWEROFF\n" || err != nil {
		t.Errorf("%q, %v", rest, err)
	}
}

// A console is free again when its client goes away, however it goes.
func TestConsoleIsFreedAgain(t *testing.T) {
	d := serve(t)
	d.Put(vm.Info{Name: "web", State: vm.Running})
	for i := range 5 {
		console := attach(t, d)
		if i%2 == 0 {
			io.WriteString(console, "x")
		}
		console.Close()
	}
}

// attach waits until the console is free.
func attach(t *testing.T, d *daemon) io.ReadWriteCloser {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		console, err := d.Client.Console(t.Context(), "web")
		if err == nil {
			return console
		}
		if !errors.Is(err, vm.ErrBusy) || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func TestConsoleRefusals(t *testing.T) {
	d := serve(t)
	if _, err := d.Client.Console(t.Context(), "web"); !errors.Is(err, vm.ErrNotFound) {
		t.Errorf("no VM: %v", err)
	}
	d.Put(vm.Info{Name: "web", State: vm.Stopped})
	if _, err := d.Client.Console(t.Context(), "web"); !errors.Is(err, vm.ErrState) {
		t.Errorf("stopped: %v", err)
	}
}

// What the client sends together with its request is not lost.
func TestConsoleEarlyInput(t *testing.T) {
	d := serve(t)
	d.Put(vm.Info{Name: "web", State: vm.Running})
	c := d.dial(t)
	io.WriteString(c, "GET /v1/vms/web/console HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: nvh-console\r\n\r\nearly\n")
	lines := bufio.NewReader(c)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if line == "EARLY\n" {
			return
		}
	}
}

func TestLogs(t *testing.T) {
	d := serve(t)
	d.Put(vm.Info{Name: "web"})
	log, err := d.Client.Log(t.Context(), "web", api.LogQEMU, false)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if p, err := io.ReadAll(log); string(p) != "qemu log of web\n" || err != nil {
		t.Errorf("%q, %v", p, err)
	}
	if _, err := d.Client.Log(t.Context(), "web", "../../etc/passwd", false); !errors.Is(err, vm.ErrInvalid) && !errors.Is(err, api.ErrNoEndpoint) {
		t.Errorf("a path as a log: %v", err)
	}
	if _, err := d.Client.Log(t.Context(), "db", api.LogConsole, true); !errors.Is(err, vm.ErrNotFound) {
		t.Errorf("no VM: %v", err)
	}
}

// A followed log comes line by line and ends with its reader; the daemon's
// shutdown ends it too.
func TestLogsFollow(t *testing.T) {
	d := serve(t)
	d.Put(vm.Info{Name: "web"})
	for range 2 {
		log, err := d.Client.Log(t.Context(), "web", api.LogConsole, true)
		if err != nil {
			t.Fatal(err)
		}
		defer log.Close()
		lines := bufio.NewReader(log)
		for _, want := range []string{"console log of web\n", "and more\n"} {
			if line, err := lines.ReadString('\n'); line != want {
				t.Fatalf("%q, %v", line, err)
			}
		}
	}
	if err := d.stop(); err != nil {
		t.Error(err)
	}
}
