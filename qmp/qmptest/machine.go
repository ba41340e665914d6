package qmptest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
)

// Machine is a Server with a guest: it stops it, dumps its volatile state into a
// descriptor that it was given before, and lets it run again, with the events,
// run states and refusals of a QEMU that does so. The test changes any of that
// by a handler of its own, in which it may use Migrate.
type Machine struct {
	*Server

	mu     sync.Mutex
	status string // run state; guarded by mu
	stream []byte // what a dump writes; guarded by mu
}

// StartMachine returns a machine whose guest runs.
func StartMachine(t testing.TB, opts ...Option) *Machine {
	t.Helper()
	m := &Machine{Server: Start(t, opts...), status: "running", stream: Stream(4096)}
	m.HandleRequest("query-status", func(r *Request) {
		status := m.Status()
		r.Reply(map[string]any{"status": status, "running": status == "running", "singlestep": false})
	})
	m.HandleRequest("stop", func(r *Request) {
		if m.Status() == "running" {
			m.SetStatus("paused")
			m.Emit("STOP", nil)
		}
		r.Reply(nil)
	})
	m.HandleRequest("cont", func(r *Request) {
		switch m.Status() {
		case "finish-migrate":
			r.Refuse("GenericError", "Migration is not finalized yet")
			return
		case "running":
		default:
			m.SetStatus("running")
			m.Emit("RESUME", nil)
		}
		r.Reply(nil)
	})
	m.HandleRequest("migrate", func(r *Request) { m.Migrate(r, m.Dumped()) })
	m.handleSets()
	return m
}

// Stream returns n bytes, at least 16, that begin and end as QEMU's migration
// stream does: magic and version; the footer of the last section (0x7e and the
// section's number) and the end marker (migration/savevm.c).
func Stream(n int) []byte {
	s := bytes.Repeat([]byte("state..."), n/8+1)[:n]
	copy(s, "QEVM\x00\x00\x00\x03")
	copy(s[n-6:], "\x7e\x00\x00\x00\x2a\x00")
	return s
}

// Status returns the run state: "running", "paused", "finish-migrate", "postmigrate", …
func (m *Machine) Status() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.status
}

// SetStatus changes the run state and tells nobody.
func (m *Machine) SetStatus(status string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.status = status
}

// SetStream changes what later dumps write.
func (m *Machine) SetStream(stream []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stream = stream
}

// Dumped is what a dump writes.
func (m *Machine) Dumped() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.stream
}

// Migrate performs a migrate command: "setup", the reply, "active", the stream
// written, "completed".
func (m *Machine) Migrate(r *Request, stream []byte) {
	if m.BeginMigration(r, stream) {
		m.Migration("completed")
		m.SetStatus("postmigrate")
	}
}

// BeginMigration is Migrate without its end, and reports whether it came so far.
func (m *Machine) BeginMigration(r *Request, stream []byte) bool {
	file, err := m.outgoing(r.Args)
	if err != nil {
		r.Fail(err)
		return false
	}
	m.Migration("setup")
	r.Reply(nil)
	m.Migration("active")
	m.SetStatus("finish-migrate")
	if _, err := file.Write(stream); err != nil {
		m.Migration("failed")
		return false
	}
	return true
}

// Migration sends the event that a migration is in this status now.
func (m *Machine) Migration(status string) { m.Emit("MIGRATION", map[string]string{"status": status}) }

// outgoing finds the descriptor that a migrate command names. A name given by
// getfd is used up by it; a set is not.
func (m *Machine) outgoing(args json.RawMessage) (*os.File, error) {
	var wire struct {
		URI string `json:"uri"`
	}
	if err := json.Unmarshal(args, &wire); err != nil {
		return nil, err
	}
	if set, ok := strings.CutPrefix(wire.URI, "file:"); ok {
		file := m.File(set)
		if file == nil {
			return nil, fmt.Errorf("could not dup FD for %s", set)
		}
		return file, file.Truncate(0)
	}
	name, ok := strings.CutPrefix(wire.URI, "fd:")
	if !ok {
		return nil, errors.New("unknown migration protocol: " + wire.URI)
	}
	m.Server.mu.Lock()
	defer m.Server.mu.Unlock()
	file := m.files[name]
	if file == nil {
		return nil, fmt.Errorf("File descriptor named '%s' has not been found", name)
	}
	delete(m.files, name)
	return file, nil
}

// handleSets keeps descriptors in numbered sets, one a set, under the path that
// QEMU opens them by.
func (m *Machine) handleSets() {
	number := func(r *Request) string {
		var wire struct {
			Set int64 `json:"fdset-id"`
		}
		json.Unmarshal(r.Args, &wire) // a wrong shape is set 0
		return fmt.Sprint(wire.Set)
	}
	m.HandleRequest("add-fd", func(r *Request) {
		if r.File == nil {
			r.Refuse("GenericError", "No file descriptor supplied via SCM_RIGHTS")
			return
		}
		set := number(r)
		m.keep("/dev/fdset/"+set, r.File)
		r.Reply(map[string]any{"fdset-id": json.Number(set), "fd": int(r.File.Fd())})
	})
	m.HandleRequest("remove-fd", func(r *Request) {
		path := "/dev/fdset/" + number(r)
		if m.File(path) == nil {
			r.Refuse("GenericError", "File descriptor named '"+path+"' not found")
			return
		}
		m.keep(path, nil)
		r.Reply(nil)
	})
}
