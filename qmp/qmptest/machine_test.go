package qmptest_test

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"syscall"
	"testing"

	"github.com/nv-hypervisor/nv-hypervisor/qmp/qmptest"
)

// give sends a command with a descriptor.
func (p peer) give(line string, file *os.File) {
	p.t.Helper()
	if _, _, err := p.WriteMsgUnix([]byte(line), syscall.UnixRights(int(file.Fd())), nil); err != nil {
		p.t.Fatal(err)
	}
}

// A machine saves and continues with QEMU's events in QEMU's order.
func TestMachineMigrates(t *testing.T) {
	for _, way := range []struct{ give, uri string }{
		{`{"execute":"getfd","arguments":{"fdname":"here"}}`, "fd:here"},
		{`{"execute":"add-fd","arguments":{"fdset-id":7}}`, "file:/dev/fdset/7"},
	} {
		t.Run(way.uri, func(t *testing.T) {
			m := qmptest.StartMachine(t)
			p := connect(t, m.Server)
			p.negotiate("")
			file, err := os.CreateTemp(t.TempDir(), "")
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			p.give(way.give, file)
			p.expect(`"return"`)
			p.say(`{"execute":"stop"}`)
			p.expect(`"event": "STOP"`)
			p.expect(`"return"`)
			p.say(`{"execute":"stop"}`)
			p.expect(`"return"`) // stopped already
			p.say(`{"execute":"migrate","arguments":{"uri":"` + way.uri + `"}}`)
			p.expect(`"status": "setup"`)
			p.expect(`"return"`)
			p.expect(`"status": "active"`)
			p.expect(`"status": "completed"`)
			file.Seek(0, io.SeekStart)
			if got, err := io.ReadAll(file); err != nil || !bytes.Equal(got, qmptest.Stream(4096)) {
				t.Errorf("dumped %d bytes, %v", len(got), err)
			}
			p.say(`{"execute":"query-status"}`)
			p.expect(`"status": "postmigrate"`)
			p.say(`{"execute":"cont"}`)
			p.expect(`"event": "RESUME"`)
			p.expect(`"return"`)
		})
	}
}

func TestMachineRefuses(t *testing.T) {
	m := qmptest.StartMachine(t)
	p := connect(t, m.Server)
	p.negotiate("")
	for _, refused := range []struct{ say, expect string }{
		{`{"execute":"migrate","arguments":{"uri":"fd:none"}}`, "has not been found"},
		{`{"execute":"migrate","arguments":{"uri":"file:/dev/fdset/1"}}`, "could not dup"},
		{`{"execute":"migrate","arguments":{"uri":"tcp:x"}}`, "unknown migration protocol"},
		{`{"execute":"migrate","arguments":7}`, "cannot unmarshal"},
		{`{"execute":"add-fd"}`, "No file descriptor"},
		{`{"execute":"remove-fd","arguments":{"fdset-id":1}}`, "not found"},
	} {
		p.say(refused.say)
		p.expect(refused.expect)
	}
	m.HandleRequest("migrate", func(r *qmptest.Request) { m.BeginMigration(r, m.Dumped()) })
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	p.give(`{"execute":"getfd","arguments":{"fdname":"null"}}`, null)
	p.expect(`"return"`)
	p.say(`{"execute":"migrate","arguments":{"uri":"fd:null"}}`)
	p.expect("setup")
	p.expect("return")
	p.expect("active")
	p.say(`{"execute":"cont"}`)
	p.expect("not finalized")
}

// Clients that search lines for bytes need QEMU's spaces, and none inside strings.
func TestMessagesAreSpaced(t *testing.T) {
	m := qmptest.StartMachine(t)
	m.Handle("say", func(json.RawMessage) (any, error) {
		return map[string]any{"a": []int{1, 2}, "b": `x:"y",\z:`}, nil
	})
	p := connect(t, m.Server)
	p.negotiate("")
	p.say(`{"execute":"say"}`)
	p.expect(`{"return": {"a": [1, 2], "b": "x:\"y\",\\z:"}}`)
}
