package nut

import (
	"bufio"
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// fake is an upsd that can also do what the real one never should. Its connections are pipes, so tests may use a fake clock.
type fake struct {
	t       *testing.T
	mu      sync.Mutex
	answers map[string]string // guarded by mu; by command; what is missing is answered with OK
	asked   []string          // guarded by mu; every command
	dials   []time.Time       // guarded by mu
	down    bool              // guarded by mu; refuses connections
	serving sync.WaitGroup
}

// Behaviours in place of an answer.
const (
	hangUp = "(hang up)" // at the end of an answer: closes the connection after it
	mute   = "(mute)"    // says nothing
)

// newFake makes one whose UPS "u" is on mains.
func newFake(t *testing.T) *fake {
	f := &fake{t: t, answers: map[string]string{
		"STARTTLS": "ERR FEATURE-NOT-CONFIGURED\n",
		"LIST UPS": "BEGIN LIST UPS\nUPS u \"a \\\"UPS\\\"\"\nEND LIST UPS\n",
		"LOGOUT":   "OK Goodbye\n" + hangUp,
	}}
	f.variables(`ups.status "OL"`)
	return f
}

// variables sets those of the UPS, each as NAME "VALUE".
func (f *fake) variables(all ...string) {
	f.answer("LIST VAR u", "BEGIN LIST VAR u\nVAR u "+strings.Join(all, "\nVAR u ")+"\nEND LIST VAR u\n")
}

// answer sets what follows a command, and returns what did before.
func (f *fake) answer(command, with string) (before string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before = f.answers[command]
	f.answers[command] = with
	return before
}

func (f *fake) setDown(down bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = down
}

// count is how often a command has come.
func (f *fake) count(command string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.asked {
		if c == command {
			n++
		}
	}
	return n
}

func (f *fake) dialled() []time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]time.Time(nil), f.dials...)
}

// watcher is one that knows this server alone.
func (f *fake) watcher(config Config) *Watcher {
	f.t.Helper()
	config.UPS = "u@fake"
	w, err := New(config)
	if err != nil {
		f.t.Fatal(err)
	}
	w.dial = f.dial
	return w
}

func (f *fake) dial(context.Context, string, string) (net.Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dials = append(f.dials, time.Now())
	if f.down {
		return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	}
	ours, theirs := net.Pipe()
	f.serving.Go(func() { f.serve(ours) })
	return theirs, nil
}

func (f *fake) serve(conn net.Conn) {
	defer conn.Close()
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		f.mu.Lock()
		f.asked = append(f.asked, lines.Text())
		answer, known := f.answers[lines.Text()]
		f.mu.Unlock()
		if !known {
			answer = "OK\n"
		}
		if answer == mute {
			continue
		}
		text, ends := strings.CutSuffix(answer, hangUp)
		if tear(conn, text) != nil || ends {
			return
		}
	}
}

// tear writes lines in pieces that end in the middle of a line.
func tear(conn net.Conn, text string) error {
	for text != "" {
		piece := len(text)
		if end := strings.IndexByte(text, '\n'); end >= 0 && end+2 < len(text) {
			piece = end + 2
		}
		if _, err := io.WriteString(conn, text[:piece]); err != nil {
			return err
		}
		text = text[piece:]
	}
	return nil
}
