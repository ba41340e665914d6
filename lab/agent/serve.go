package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// Report is asked for by a client's Query; what it returns is sent as JSON.
type Report func() any

// Port is the inside of a port. A read returns io.EOF when the client has gone, and can then be repeated: the next
// one may come. A write with no client blocks, unless its deadline ends it.
type Port interface {
	io.ReadWriter
	SetWriteDeadline(time.Time) error
}

// Serve runs the commands that arrive on a port until reading fails for good.
func Serve(ctx context.Context, port Port, report Report) error {
	s := server{port: port, report: report}
	defer func() { s.end() }()
	frames := newFrameReader(port)
	for {
		f, err := frames.next()
		switch {
		case errors.Is(err, errLine):
		case errors.Is(err, io.EOF):
			if err := s.hangUp(); err != nil {
				return err
			}
			frames = newFrameReader(port)
		case err != nil:
			return fmt.Errorf("read from the port: %w", err)
		default:
			s.handle(ctx, f)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// server is one port. It belongs to the goroutine that reads from it.
type server struct {
	port    Port
	report  Report
	current *session
}

func (s *server) handle(ctx context.Context, f frame) {
	switch {
	case f.Query:
		s.end()
		s.answer(f.Session)
	case f.Run != nil:
		s.end()
		s.current = begin(ctx, &frameWriter{w: s.port, session: f.Session}, *f.Run)
	case s.current != nil && f.Session == s.current.out.session:
		s.current.input(f)
	}
}

func (s *server) answer(session string) {
	out := frameWriter{w: s.port, session: session}
	content, err := json.Marshal(s.report())
	f := frame{Report: content}
	if err != nil {
		f = frame{Error: err.Error()}
	}
	// A client that has gone does not want the answer.
	_ = out.write(f)
}

// hangUp ends the session of a client that has gone, with what waits to be written to it.
func (s *server) hangUp() error {
	if err := s.port.SetWriteDeadline(time.Unix(1, 0)); err != nil {
		return fmt.Errorf("hang up: %w", err)
	}
	s.end()
	return s.port.SetWriteDeadline(time.Time{})
}

func (s *server) end() {
	if s.current != nil {
		s.current.kill()
		s.current = nil
	}
}

// session is one command.
type session struct {
	out    *frameWriter
	cancel context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex
	ready  sync.Cond // of what follows
	queue  [][]byte  // input that the command has not taken yet
	closed bool      // no more input will come
}

// begin starts the command; a command that cannot be started ends the session with an error.
func begin(ctx context.Context, out *frameWriter, c Command) *session {
	ctx, cancel := context.WithCancel(ctx)
	s := &session{out: out, cancel: cancel, done: make(chan struct{})}
	s.ready.L = &s.mu
	go func() {
		defer close(s.done)
		f, err := s.run(ctx, c)
		if err != nil {
			f = frame{Error: err.Error()}
		}
		if ctx.Err() == nil {
			_ = out.write(f) // as above
		}
	}()
	return s
}

// killDelay is how long output is waited for when a command has ended but something it started holds its output open.
const killDelay = 500 * time.Millisecond

func (s *session) run(ctx context.Context, c Command) (frame, error) {
	if len(c.Args) == 0 {
		return frame{}, fmt.Errorf("no command given")
	}
	cmd := exec.CommandContext(ctx, c.Args[0], c.Args[1:]...)
	cmd.Env = append(os.Environ(), c.Env...)
	cmd.Dir = c.Dir
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	// The whole of what the command started ends with the session, not the shell in front of it alone.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = killDelay
	cmd.Stdout = chunks(func(p []byte) error { return s.out.write(frame{Stdout: p}) })
	cmd.Stderr = chunks(func(p []byte) error { return s.out.write(frame{Stderr: p}) })
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return frame{}, err
	}
	if err := cmd.Start(); err != nil {
		return frame{}, err
	}
	fed := make(chan struct{})
	go func() {
		defer close(fed)
		s.feed(stdin)
	}()
	err = cmd.Wait()
	s.input(frame{EOF: true})
	<-fed
	return exitFrame(cmd, err)
}

func exitFrame(cmd *exec.Cmd, err error) (frame, error) {
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		return frame{}, err
	}
	code := cmd.ProcessState.ExitCode()
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		code = 128 + int(ws.Signal()) // as shells do
	}
	return frame{Exit: &code}, nil
}

// input takes what the client sent; the reader of the port must not wait for a command that does not read.
func (s *session) input(f frame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(f.Stdin) > 0 {
		s.queue = append(s.queue, f.Stdin)
	}
	s.closed = s.closed || f.EOF
	s.ready.Signal()
}

// feed writes the input to the command. A command that does not want it any more has closed its end.
func (s *session) feed(stdin io.WriteCloser) {
	defer stdin.Close()
	for {
		s.mu.Lock()
		for len(s.queue) == 0 && !s.closed {
			s.ready.Wait()
		}
		if len(s.queue) == 0 {
			s.mu.Unlock()
			return
		}
		next := s.queue[0]
		s.queue = s.queue[1:]
		s.mu.Unlock()
		if _, err := stdin.Write(next); err != nil {
			return
		}
	}
}

// kill ends the command and waits until nothing of it is left, so that the port is free for the next session.
func (s *session) kill() {
	s.cancel()
	s.input(frame{EOF: true})
	<-s.done
}

// chunks cuts a stream into frames.
type chunks func(p []byte) error

func (c chunks) Write(p []byte) (int, error) {
	for n := 0; n < len(p); n += maxPayload {
		if err := c(p[n:min(n+maxPayload, len(p))]); err != nil {
			return n, err
		}
	}
	return len(p), nil
}
