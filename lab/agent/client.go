package agent

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
)

// Client is the outside of one port, for one session.
type Client struct{ conn net.Conn }

// NewClient talks over a connection to a port, which Close closes.
func NewClient(conn net.Conn) *Client { return &Client{conn} }

// Close gives the port back, as the end of a session does. A command that still runs is killed.
func (c *Client) Close() error { return c.conn.Close() }

// Streams are what a command reads and writes. A nil Stdin is empty; nil outputs are dropped.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Run runs a command to its end and returns its exit code; one that a signal ended has 128 plus the signal. When ctx ends first, the command is killed.
func (c *Client) Run(ctx context.Context, command Command, streams Streams) (exit int, err error) {
	stop := context.AfterFunc(ctx, func() { c.conn.Close() })
	defer stop()
	out := &frameWriter{w: c.conn, session: newSession()}
	if err := out.write(frame{Run: &command}); err != nil {
		return 0, explain(ctx, err)
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		send(out, streams.Stdin)
	}()
	exit, err = receive(c.conn, out.session, streams)
	if err != nil {
		err = explain(ctx, err)
	}
	c.conn.Close()
	// A reader that blocks, such as a terminal, is left alone: its goroutine ends with what it reads next.
	if streams.Stdin == nil {
		<-sent
	}
	return exit, err
}

// Query asks for the report and decodes it into reply.
func (c *Client) Query(ctx context.Context, reply any) error {
	defer c.conn.Close()
	stop := context.AfterFunc(ctx, func() { c.conn.Close() })
	defer stop()
	out := &frameWriter{w: c.conn, session: newSession()}
	if err := out.write(frame{Query: true}); err != nil {
		return explain(ctx, err)
	}
	f, err := next(newFrameReader(c.conn), out.session)
	if err == nil && f.Error != "" {
		err = errors.New(f.Error)
	}
	if err != nil {
		return explain(ctx, err)
	}
	return json.Unmarshal(f.Report, reply)
}

// newSession makes up a session nobody has had.
func newSession() string { return rand.Text() }

func send(out *frameWriter, stdin io.Reader) {
	if stdin != nil {
		part := make([]byte, maxPayload)
		for {
			n, err := stdin.Read(part)
			if n > 0 && out.write(frame{Stdin: part[:n]}) != nil {
				return // the reader of the connection says why
			}
			if err != nil {
				break
			}
		}
	}
	_ = out.write(frame{EOF: true}) // as above
}

func receive(r io.Reader, session string, streams Streams) (int, error) {
	frames := newFrameReader(r)
	for {
		f, err := next(frames, session)
		switch {
		case err != nil:
			return 0, err
		case f.Error != "":
			return 0, errors.New(f.Error)
		case f.Exit != nil:
			return *f.Exit, nil
		}
		if err := deliver(streams.Stdout, f.Stdout); err != nil {
			return 0, err
		}
		if err := deliver(streams.Stderr, f.Stderr); err != nil {
			return 0, err
		}
	}
}

func deliver(w io.Writer, p []byte) error {
	if w == nil || len(p) == 0 {
		return nil
	}
	_, err := w.Write(p)
	return err
}

// next returns the next frame of a session, dropping what an earlier one has left.
func next(frames *frameReader, session string) (frame, error) {
	for {
		f, err := frames.next()
		if errors.Is(err, errLine) || err == nil && f.Session != session {
			continue
		}
		return f, err
	}
}

// ErrGone is wrapped when the host has gone in the middle of a session, as in a power cut.
var ErrGone = errors.New("the host is gone")

func explain(ctx context.Context, err error) error {
	var lost *net.OpError
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, io.EOF), errors.As(err, &lost):
		return fmt.Errorf("%w: %w", ErrGone, err)
	}
	return err
}
