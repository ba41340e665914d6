package qmp_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/qmp"
)

// startQEMU starts a QEMU with a monitor and no machine, unless args say otherwise, and
// returns the monitor's path. The test ends it.
func startQEMU(t *testing.T, args ...string) (path string) {
	t.Helper()
	path = filepath.Join(socketDirectory(t), "qmp")
	args = append([]string{"-nodefaults", "-display", "none", "-qmp", "unix:" + path + ",server=on,wait=off"}, args...)
	var stderr bytes.Buffer
	command := exec.Command("qemu-system-x86_64", args...)
	command.Stderr = &stderr
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		command.Process.Kill()
		command.Wait()
		if t.Failed() {
			t.Logf("%s\n%s", command, &stderr)
		}
	})
	for start := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		if listening(t, path) {
			return path
		}
		if time.Since(start) > 30*time.Second {
			t.Fatalf("no monitor socket after 30 s: %s\n%s", command, &stderr)
		}
	}
}

// listening tells whether connections are accepted at path: the socket's file is
// there a moment earlier. It does not connect, which would be the one client.
func listening(t *testing.T, path string) bool {
	t.Helper()
	sockets, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(sockets)) {
		fields := strings.Fields(line) // number, references, protocol, flags, type, state, inode, path
		if len(fields) == 8 && fields[7] == path && fields[3] == "00010000" {
			return true
		}
	}
	return false
}

func socketDirectory(t *testing.T) string {
	t.Helper()
	directory, err := os.MkdirTemp("", "qmp-") // t.TempDir can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(directory) })
	return directory
}

// dial connects with a generous deadline and closes at the end of the test.
func dial(t *testing.T, path string) *qmp.Client {
	t.Helper()
	client, err := qmp.Dial(testContext(t), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func execute(t *testing.T, client *qmp.Client, command string, args, reply any) {
	t.Helper()
	if err := client.Execute(testContext(t), command, args, reply); err != nil {
		t.Fatal(err)
	}
}

func TestQEMUGreetingAndVersion(t *testing.T) {
	client := dial(t, startQEMU(t, "-machine", "none"))
	var reply struct {
		QEMU    struct{ Major, Minor, Micro int }
		Package string
	}
	execute(t, client, "query-version", nil, &reply)
	want := qmp.Version{Major: reply.QEMU.Major, Minor: reply.QEMU.Minor, Micro: reply.QEMU.Micro, Package: reply.Package}
	if got := client.Greeting().Version; got != want || got.Major < 7 {
		t.Errorf("greeting says version %+v, query-version %+v", got, want)
	}
}

func TestQEMURefusals(t *testing.T) {
	client := dial(t, startQEMU(t, "-machine", "none"))
	for _, test := range []struct {
		command string
		args    any
		class   string
	}{
		{"no-such-command", nil, qmp.ClassCommandNotFound},
		{"device_del", map[string]any{"id": "ghost"}, qmp.ClassDeviceNotFound},
		{"query-version", map[string]any{"surplus": 1}, qmp.ClassGeneric},
	} {
		err := client.Execute(testContext(t), test.command, test.args, nil)
		var refusal *qmp.Error
		if !errors.As(err, &refusal) || refusal.Class != test.class || refusal.Command != test.command || refusal.Desc == "" {
			t.Errorf("%s: error %v, want class %s", test.command, err, test.class)
		}
	}
	execute(t, client, "query-version", nil, nil) // still usable
}

func TestQEMUEventsInOrder(t *testing.T) {
	client := dial(t, startQEMU(t, "-machine", "q35", "-S", "-no-shutdown"))
	events := client.Subscribe()
	defer events.Close()
	begin := time.Now().Add(-time.Second)
	for _, command := range []string{"cont", "stop", "cont", "system_reset", "stop", "quit"} {
		execute(t, client, command, nil, nil)
	}
	var names []string
	for {
		event, err := events.Next(testContext(t))
		if err != nil {
			if !errors.Is(err, qmp.ErrDisconnected) {
				t.Errorf("events end with %v, want ErrDisconnected", err)
			}
			break
		}
		if event.EventTime().Before(begin) {
			t.Errorf("%s at %v, before the test began", event.EventName(), event.EventTime())
		}
		switch e := event.(type) {
		case qmp.Reset:
			if e.Guest || e.Reason != "host-qmp-system-reset" {
				t.Errorf("reset: %+v", e)
			}
		case qmp.Shutdown:
			if e.Guest || e.Reason != "host-qmp-quit" {
				t.Errorf("shutdown: %+v", e)
			}
		case qmp.Stop, qmp.Resume:
		default:
			continue // such as NIC or RTC news of the firmware
		}
		names = append(names, event.EventName())
	}
	// The reset is executed by the main loop, before or after the stop that follows.
	got := fmt.Sprint(names)
	if got != "[RESUME STOP RESUME RESET STOP SHUTDOWN]" && got != "[RESUME STOP RESUME STOP RESET SHUTDOWN]" {
		t.Errorf("events %s", got)
	}
	<-client.Done()
	if err := client.Err(); !errors.Is(err, qmp.ErrDisconnected) {
		t.Errorf("client ended with %v", err)
	}
}

// QEMU writes its state into the file it was given.
func TestQEMUUsesPassedFile(t *testing.T) {
	client := dial(t, startQEMU(t, "-machine", "q35", "-S", "-m", "16"))
	file, err := os.Create(filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	capability := []map[string]any{{"capability": "events", "state": true}}
	execute(t, client, "migrate-set-capabilities", map[string]any{"capabilities": capability}, nil)
	if err := client.ExecuteFile(testContext(t), "getfd", map[string]any{"fdname": "state"}, nil, file); err != nil {
		t.Fatal(err)
	}
	events := client.Subscribe()
	defer events.Close()
	execute(t, client, "migrate", map[string]any{"uri": "fd:state"}, nil)
	for {
		event, err := events.Next(testContext(t))
		if err != nil {
			t.Fatal(err)
		}
		if migration, ok := event.(qmp.Migration); ok && migration.Status == "completed" {
			break
		} else if ok && migration.Status == "failed" {
			t.Fatal("migration failed")
		}
	}
	magic := make([]byte, 4)
	if _, err := file.ReadAt(magic, 0); err != nil || string(magic) != "QEVM" {
		t.Errorf("file begins with %q (%v), not with QEMU's stream magic", magic, err)
	}
}

// QEMU keeps only the last descriptor it received, and with oob reads ahead: files sent
// all at once get lost unless the client takes care.
func TestQEMUGetsEveryFile(t *testing.T) {
	client := dial(t, startQEMU(t, "-machine", "none"))
	const files = 64
	var group sync.WaitGroup
	ends := make([]*os.File, files)
	for i := range files {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		ends[i] = r
		group.Go(func() {
			defer w.Close()
			args := map[string]any{"fdname": fmt.Sprintf("pipe%d", i)}
			if err := client.ExecuteFile(testContext(t), "getfd", args, nil, w); err != nil {
				t.Error(err)
			}
		})
		group.Go(func() { // others in between
			if err := client.Execute(testContext(t), "query-version", nil, nil); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	// Each name has its own pipe: closing the name ends that pipe and no other.
	for i, end := range ends {
		execute(t, client, "closefd", map[string]any{"fdname": fmt.Sprintf("pipe%d", i)}, nil)
		end.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := end.Read(make([]byte, 1)); err != io.EOF {
			t.Fatalf("pipe %d after closefd: %v, want EOF", i, err)
		}
	}
}

func TestQEMUPipelinedFromManyGoroutines(t *testing.T) {
	client := dial(t, startQEMU(t, "-machine", "none"))
	var group sync.WaitGroup
	for i := range 32 {
		group.Go(func() {
			for j := range 20 {
				// The reply tells whose command it answers: qom-get of a path that names it.
				ghost := fmt.Sprintf("/ghost-%d-%d", i, j)
				err := client.Execute(testContext(t), "qom-list", map[string]any{"path": ghost}, nil)
				var refusal *qmp.Error
				if !errors.As(err, &refusal) || !bytes.Contains([]byte(refusal.Desc), []byte(ghost+"'")) {
					t.Errorf("%s answered by %v", ghost, err)
				}
			}
		})
	}
	group.Wait()
}

// A schema is the longest line QEMU writes: far beyond any usual buffer.
func TestQEMULongLine(t *testing.T) {
	client := dial(t, startQEMU(t, "-machine", "none"))
	var schema json.RawMessage
	execute(t, client, "query-qmp-schema", nil, &schema)
	if len(schema) < 100<<10 {
		t.Errorf("schema of %d bytes", len(schema))
	}
}

func TestQEMUOutOfBand(t *testing.T) {
	client := dial(t, startQEMU(t, "-machine", "none"))
	var instances []any
	if err := client.ExecuteOOB(testContext(t), "query-yank", nil, &instances); err != nil {
		t.Fatal(err)
	}
	if len(instances) == 0 {
		t.Error("query-yank lists nothing, not even this monitor's socket")
	}
	var refusal *qmp.Error
	if err := client.ExecuteOOB(testContext(t), "query-version", nil, nil); !errors.As(err, &refusal) {
		t.Errorf("query-version out of band: %v, want QEMU's refusal", err)
	}
}

func TestQEMUBusyMonitor(t *testing.T) {
	path := startQEMU(t, "-machine", "none")
	first := dial(t, path)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := qmp.Dial(ctx, path); !errors.Is(err, qmp.ErrBusy) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("second client: %v, want ErrBusy after the deadline", err)
	}
	first.Close()
	execute(t, dial(t, path), "query-version", nil, nil) // the monitor is free again
}
