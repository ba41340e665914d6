package qmptest_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nv-hypervisor/nv-hypervisor/qmp/qmptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// peer is a client that knows no QMP.
type peer struct {
	t *testing.T
	*net.UnixConn
	*bufio.Reader
}

func connect(t *testing.T, s *qmptest.Server) peer {
	t.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: s.Path()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	return peer{t, conn, bufio.NewReader(conn)}
}

func (p peer) say(line string) {
	p.t.Helper()
	if _, err := io.WriteString(p.UnixConn, line+"\n"); err != nil {
		p.t.Fatal(err)
	}
}

func (p peer) expect(part string) {
	p.t.Helper()
	if line, err := p.ReadString('\n'); err != nil || !strings.Contains(line, part) {
		p.t.Fatalf("line %q, %v; want %s", line, err, part)
	}
}

func (p peer) negotiate(enable string) {
	p.t.Helper()
	p.expect(`"QMP"`)
	p.say(`{"execute":"qmp_capabilities","arguments":{"enable":[` + enable + `]}}`)
	p.expect(`"return"`)
}

func TestNegotiationComesFirst(t *testing.T) {
	s := qmptest.Start(t, qmptest.WithVersion(qmptest.Version{Major: 10, Minor: 1}))
	p := connect(t, s)
	p.expect(`"major": 10`)
	s.Emit("STOP", nil) // dropped
	p.say(`{"execute":"query-version","id":1}`)
	p.expect("Expecting capabilities negotiation")
	p.say(`{"execute":"qmp_capabilities","arguments":{"enable":["magic"]}}`)
	p.expect("not available")
	p.say(`{"execute":"qmp_capabilities"}`)
	p.expect(`"return": {}`)
	s.Emit("RESUME", nil)
	p.expect(`"event": "RESUME"`)
	p.say(`{"exec-oob":"query-version"}`)
	p.expect("not enabled")
	p.say(`{"execute":`)
	p.expect("JSON parse error")
}

func TestHandlersAndRefusals(t *testing.T) {
	s := qmptest.Start(t)
	s.Handle("refused", func(json.RawMessage) (any, error) {
		return nil, fmt.Errorf("wrapped: %w", &qmptest.Refusal{Class: "DeviceNotFound", Desc: "gone"})
	})
	s.Handle("failed", func(json.RawMessage) (any, error) { return nil, errors.New("broken") })
	p := connect(t, s)
	p.negotiate("")
	for command, want := range map[string]string{
		"refused": `"DeviceNotFound"`, "failed": `"GenericError", "desc": "broken"`, "unheard": `"CommandNotFound"`,
	} {
		p.say(`{"id":{"any":1},"execute":"` + command + `"}`)
		p.expect(want)
	}
	if got := fmt.Sprintf("%d, first %s", len(s.Commands()), s.Commands()[0]); got != "4, first qmp_capabilities" {
		t.Errorf("arrived: %s", got)
	}
}

func TestOneConnectionAtATime(t *testing.T) {
	s := qmptest.Start(t)
	first, second := connect(t, s), connect(t, s)
	first.negotiate("")
	second.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := second.UnixConn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the second is greeted beside the first: %v", err)
	}
	second.SetDeadline(time.Now().Add(10 * time.Second))
	s.Hangup()
	second.negotiate("")
	s.Die()
	if _, err := second.ReadString('\n'); err == nil {
		t.Error("connected to the dead")
	}
	if _, err := net.Dial("unix", s.Path()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial after death: %v", err)
	}
}

// As QEMU may, the server dies of what it reads while a command takes its descriptor; only if there is one.
func TestReadingOnAfterADescriptor(t *testing.T) {
	for name, more := range map[string]func(p peer, s *qmptest.Server){
		"a newline":       func(p peer, s *qmptest.Server) { p.say("") },
		"another command": func(p peer, s *qmptest.Server) { p.say(`{"exec-oob":"query-version"}`) },
	} {
		t.Run(name, func(t *testing.T) {
			s := qmptest.Start(t)
			p := connect(t, s)
			p.negotiate(`"oob"`)
			p.say(`{"execute":"getfd"}`)
			p.say(`{"execute":"getfd"}`)
			p.expect("No file descriptor supplied")
			p.expect("No file descriptor supplied")
			free := make(chan struct{})
			defer close(free)
			s.HandleRequest("getfd", func(*qmptest.Request) { <-free })
			file, err := os.CreateTemp(t.TempDir(), "")
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			p.give(`{"execute":"getfd"}`, file)
			for len(s.Commands()) < 4 { // the last has arrived
				time.Sleep(time.Millisecond)
			}
			more(p, s)
			if line, err := p.ReadString('\n'); err == nil {
				t.Errorf("it lives, and says %q", line)
			}
			if conn, err := net.Dial("unix", s.Path()); err == nil {
				conn.Close()
				t.Error("it can be reached still")
			}
		})
	}
}

func TestStall(t *testing.T) {
	s := qmptest.Start(t)
	p := connect(t, s)
	p.negotiate("")
	s.Stall()
	p.say(`{"execute":"query-version"}`)
	p.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if line, err := p.ReadString('\n'); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a stalled server answers %q, %v", line, err)
	}
	p.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	if _, err := p.UnixConn.Write(make([]byte, 8<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a stalled server takes 8 MiB: %v", err)
	}
	p.SetDeadline(time.Now().Add(10 * time.Second))
	s.Continue()
	p.expect(`"return"`)
	p.say("")
	p.expect("JSON parse error")
	s.Stall()
	s.Hangup() // ends a stalled connection too
	if _, err := p.ReadString('\n'); err == nil {
		t.Error("the connection survives a hangup")
	}
}
