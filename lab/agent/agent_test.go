package agent

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// line is the stream of one port: the inside is served, the outside is for the test.
func line(t *testing.T) (outside net.Conn) {
	t.Helper()
	inside, outside := net.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, newPatient(inside), func() any { return "fine" }) }()
	t.Cleanup(func() {
		cancel()
		inside.Close()
		outside.Close()
		<-served
	})
	return outside
}

// patient behaves as a port does when its client goes: one read gives io.EOF, and a write blocks until its deadline.
// Reading after that fails for good, which ends Serve.
type patient struct {
	net.Conn
	eof     bool
	hungUp  chan struct{}
	hangsUp sync.Once
}

func newPatient(conn net.Conn) *patient { return &patient{Conn: conn, hungUp: make(chan struct{})} }

func (p *patient) Read(b []byte) (int, error) {
	n, err := p.Conn.Read(b)
	if errors.Is(err, io.EOF) {
		if p.eof {
			return 0, net.ErrClosed
		}
		p.eof = true
	}
	return n, err
}

func (p *patient) Write(b []byte) (int, error) {
	n, err := p.Conn.Write(b)
	if errors.Is(err, io.ErrClosedPipe) {
		<-p.hungUp
		return n, os.ErrDeadlineExceeded
	}
	return n, err
}

func (p *patient) SetWriteDeadline(t time.Time) error {
	if !t.IsZero() {
		p.hangsUp.Do(func() { close(p.hungUp) })
	}
	return nil
}

func run(t *testing.T, conn net.Conn, stdin io.Reader, args ...string) (stdout, stderr string, exit int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var out, problem bytes.Buffer
	exit, err := NewClient(conn).Run(ctx, Command{Args: args}, Streams{Stdin: stdin, Stdout: &out, Stderr: &problem})
	if err != nil {
		t.Fatal(err)
	}
	return out.String(), problem.String(), exit
}

func TestCommandHasItsStreamsAndExitCode(t *testing.T) {
	stdout, stderr, exit := run(t, line(t), strings.NewReader("in"), "/bin/sh", "-c", "cat; echo problem >&2; exit 3")
	if stdout != "in" || stderr != "problem\n" || exit != 3 {
		t.Errorf("stdout %q, stderr %q, exit %d", stdout, stderr, exit)
	}
}

func TestSignalIsReportedAsShellsDo(t *testing.T) {
	if _, _, exit := run(t, line(t), nil, "/bin/sh", "-c", "kill -TERM $$"); exit != 128+15 {
		t.Errorf("exit %d", exit)
	}
}

// Much data, of every byte value, both ways.
func TestDataArrivesUnchanged(t *testing.T) {
	data := make([]byte, 3<<20+17)
	rand.Read(data)
	stdout, _, exit := run(t, line(t), bytes.NewReader(data), "cat")
	if exit != 0 || stdout != string(data) {
		t.Errorf("exit %d, %d bytes of %d", exit, len(stdout), len(data))
	}
}

func TestMissingProgramIsAnError(t *testing.T) {
	_, err := NewClient(line(t)).Run(t.Context(), Command{Args: []string{"/no/such/program"}}, Streams{})
	if err == nil || !strings.Contains(err.Error(), "/no/such/program") {
		t.Errorf("%v", err)
	}
}

func TestQueryGetsTheReport(t *testing.T) {
	var reply string
	if err := NewClient(line(t)).Query(t.Context(), &reply); err != nil || reply != "fine" {
		t.Errorf("%q, %v", reply, err)
	}
}

// A client dies in the middle of a line with its command running, and the port never tells. The next client works, and
// the old command is gone.
func TestNextClientFindsAWorkingPort(t *testing.T) {
	conn := line(t)
	fmt.Fprintf(conn, "\n{\"session\":\"old\",\"run\":{\"args\":[\"/bin/sh\",\"-c\",\"echo $$; exec sleep 1000\"]}}\n")
	f, err := next(newFrameReader(conn), "old")
	if err != nil {
		t.Fatal(err)
	}
	pid := strings.TrimSpace(string(f.Stdout))
	fmt.Fprintf(conn, "{\"session\":\"old\",\"stdin\":\"aGFs")
	if stdout, _, _ := run(t, conn, nil, "/bin/sh", "-c", "kill -0 "+pid+" 2>/dev/null || echo gone"); stdout != "gone\n" {
		t.Errorf("the old command, %s, still runs: %q", pid, stdout)
	}
}

// What the inside still had to say to an earlier client is not taken for an answer.
func TestLinesOfOtherSessionsAreDropped(t *testing.T) {
	inside, outside := net.Pipe()
	defer inside.Close()
	go func() {
		frames := newFrameReader(inside)
		f, err := frames.next()
		for err != nil {
			f, err = frames.next()
		}
		fmt.Fprintf(inside, "bF9\"}\n{\"session\":\"old\",\"exit\":1}\n{\"session\":%q,\"exit\":7}\n", f.Session)
	}()
	exit, err := NewClient(outside).Run(t.Context(), Command{Args: []string{"x"}}, Streams{})
	if err != nil || exit != 7 {
		t.Errorf("exit %d, %v", exit, err)
	}
}

// The client goes while the command writes to it: the command is ended although nobody takes its output.
func TestCommandEndsWithItsClient(t *testing.T) {
	inside, outside := net.Pipe()
	served := make(chan error, 1)
	go func() { served <- Serve(t.Context(), newPatient(inside), nil) }()
	fmt.Fprintf(outside, "{\"session\":\"s\",\"run\":{\"args\":[\"yes\"]}}\n")
	if _, err := next(newFrameReader(outside), "s"); err != nil {
		t.Fatal(err)
	}
	outside.Close()
	select {
	case err := <-served:
		if !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the command holds the port")
	}
}

func TestPowerCutIsErrGone(t *testing.T) {
	inside, outside := net.Pipe()
	go func() {
		_, _ = newFrameReader(inside).next()
		inside.Close()
	}()
	_, err := NewClient(outside).Run(t.Context(), Command{Args: []string{"x"}}, Streams{})
	if !errors.Is(err, ErrGone) {
		t.Errorf("%v", err)
	}
}

func TestContextEndsACommand(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := NewClient(line(t)).Run(ctx, Command{Args: []string{"sleep", "1000"}}, Streams{})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

// Whatever arrives, reading goes on to the next frame or to the end, and never panics.
func FuzzFrames(f *testing.F) {
	f.Add([]byte("\n{\"session\":\"a\",\"exit\":0}\n"))
	f.Add([]byte("{\"session\":\"a\",\"stdout\":\"aGFsbG8=\"}\n{\"sess"))
	f.Add([]byte("{}\n[]\n\"\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		frames := newFrameReader(bytes.NewReader(data))
		for n := 0; ; n++ {
			got, err := frames.next()
			if errors.Is(err, io.EOF) {
				return
			}
			if err == nil && got.Session == "" {
				t.Fatal("a frame of no session")
			}
			if n > len(data) {
				t.Fatal("more frames than bytes")
			}
		}
	})
}
