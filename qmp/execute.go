package qmp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

// writeLimit is how long a command may take to be written when its context allows
// more. QEMU reads its monitor within milliseconds unless it is stuck.
const writeLimit = 10 * time.Second

// drainLimit is how long the reader may go on after a write has failed, to take
// what QEMU wrote before it closed its end.
const drainLimit = time.Second

// Prepared is a command whose bytes are already encoded, for callers that have no
// time to do so later. It belongs to one client, may be sent any number
// of times, and by any number of goroutines.
type Prepared struct {
	client *Client
	name   string
	line   []byte // ends in a newline; its id is replaced by the owner of the writing turn
	oob    bool
	file   *os.File
}

// Call is a command that has been sent.
type Call struct {
	client   *Client
	name     string
	oob      bool
	withFile bool         // it has the writing turn until it is answered
	reply    chan message // has room for the one reply, so that the reader never waits
}

// Execute sends a command and waits for its reply, which it decodes into reply (by
// encoding/json). No arguments and a reply of no interest are nil. QEMU's refusal is
// an *Error.
func (c *Client) Execute(ctx context.Context, command string, args, reply any) error {
	p, err := c.Prepare(command, args)
	if err != nil {
		return err
	}
	return p.Execute(ctx, reply)
}

// ExecuteOOB is Execute out of band: QEMU executes the command at once, even while its
// main loop is busy with another. Few commands allow it; see allow-oob in
// query-qmp-schema. The error is ErrNoOOB where the monitor does not.
func (c *Client) ExecuteOOB(ctx context.Context, command string, args, reply any) error {
	if !c.oob {
		return fmt.Errorf("qmp: %s: %w: %w", command, ErrNotSent, ErrNoOOB)
	}
	p, err := c.prepare(verbOutOfBand, command, args)
	if err != nil {
		return err
	}
	return p.Execute(ctx, reply)
}

// ExecuteFile is Execute with a file that QEMU receives a duplicate of, as getfd
// and add-fd need. The caller may close f when ExecuteFile returns. Nothing else is sent until QEMU
// has answered, not even a newline: QEMU keeps only the last file received, and reads ahead of what it
// executes, in a thread of its own; while that thread reads one more byte it looks at the files received, which the command that
// takes one frees at the same time. QEMU 7.2 was seen to die of it (tcp_chr_recv and tcp_get_msgfds in chardev/char-socket.c).
//
// The duplicate shares f's offset and status flags. The ends of os.Pipe are non-blocking,
// which QEMU does not expect of every descriptor.
func (c *Client) ExecuteFile(ctx context.Context, command string, args, reply any, f *os.File) error {
	p, err := c.Prepare(command, args)
	if err != nil {
		return err
	}
	if f == nil {
		return fmt.Errorf("qmp: %s: %w: no file given", command, ErrNotSent)
	}
	p.file = f
	return p.Execute(ctx, reply)
}

// Prepare encodes a command for later.
func (c *Client) Prepare(command string, args any) (*Prepared, error) {
	return c.prepare(verbInBand, command, args)
}

func (c *Client) prepare(verb, command string, args any) (*Prepared, error) {
	line, err := encode(verb, c.id(0), command, args)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, ErrNotSent)
	}
	return &Prepared{client: c, name: command, line: line, oob: verb == verbOutOfBand}, nil
}

// id returns the nth id of this client. All have the same length.
func (c *Client) id(n uint64) string { return fmt.Sprintf("%s-%016x", c.session, n) }

// Execute sends the command and waits for its reply.
func (p *Prepared) Execute(ctx context.Context, reply any) error {
	call, err := p.Send(ctx)
	if err != nil {
		return err
	}
	return call.Wait(ctx, reply)
}

// Send sends the command and does not wait for its reply. It waits for its turn to
// write, and as long as InFlight commands are unanswered.
func (p *Prepared) Send(ctx context.Context) (*Call, error) {
	c := p.client
	call := &Call{client: c, name: p.name, oob: p.oob, withFile: p.file != nil, reply: make(chan message, 1)}
	if err := c.enter(ctx, call); err != nil {
		return nil, p.explain(fmt.Errorf("%w: %w", ErrNotSent, err))
	}
	if err := c.turn(ctx, c.writing); err != nil {
		call.withFile = false // it has no turn to give back
		c.leave(call)
		return nil, p.explain(fmt.Errorf("%w: %w", ErrNotSent, err))
	}
	if !call.withFile {
		defer func() { <-c.writing }()
	}
	id := c.register(call)
	copy(p.line[len(idPrefix)+len(`"`):], id)
	line := p.line
	if call.withFile {
		line = line[:len(line)-len("\n")]
	}
	sent, err := c.write(ctx, line, p.file)
	switch {
	case err == nil:
		return call, nil
	case sent == 0:
		if c.forget(id) {
			c.leave(call)
		}
		return nil, p.explain(fmt.Errorf("%w: %w", ErrNotSent, err))
	}
	err = fmt.Errorf("%w: %s: %d of %d bytes: %w", ErrPartialWrite, p.name, sent, len(line), err)
	c.fail(err)
	return nil, p.explain(err)
}

// Wait returns when the reply has come, and decodes it. Only one Wait of a call
// gets the reply.
func (call *Call) Wait(ctx context.Context, reply any) error {
	c := call.client
	var reason error
	select {
	case m := <-call.reply:
		return call.decode(m, reply)
	case <-c.done:
		reason = c.Err()
	case <-ctx.Done():
		reason = ctx.Err()
	}
	select { // a reply that did come counts
	case m := <-call.reply:
		return call.decode(m, reply)
	default:
		return fmt.Errorf("qmp: %s: no reply: %w", call.name, reason)
	}
}

func (call *Call) decode(m message, reply any) error {
	if m.kind == kindError {
		m.refusal.Command = call.name
		return &m.refusal
	}
	if reply == nil {
		return nil
	}
	if err := json.Unmarshal(m.result, reply); err != nil {
		return fmt.Errorf("qmp: %s: reply: %w", call.name, err)
	}
	return nil
}

func (p *Prepared) explain(err error) error { return fmt.Errorf("qmp: %s: %w", p.name, err) }

// enter waits for the call's place among those outstanding.
func (c *Client) enter(ctx context.Context, call *Call) error {
	if call.oob {
		return nil
	}
	return c.turn(ctx, c.inBand)
}

// leave gives the call's place to another.
func (c *Client) leave(call *Call) {
	if call.withFile {
		<-c.writing
	}
	if !call.oob {
		<-c.inBand
	}
}

// turn takes a turn. Nobody gets one when ctx or the client has ended.
func (c *Client) turn(ctx context.Context, turns chan struct{}) error {
	select {
	case turns <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-c.done:
		return c.Err()
	}
	err := ctx.Err()
	if err == nil {
		err = c.Err()
	}
	if err != nil {
		<-turns
	}
	return err
}

// register gives the call an id. The caller holds the writing turn.
func (c *Client) register(call *Call) (id string) {
	c.counter++
	id = c.id(c.counter)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls[id] = call
	return id
}

func (c *Client) forget(id string) (known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, known = c.calls[id]
	delete(c.calls, id)
	return known
}

// answer hands a reply to its call, whether anybody still waits or not.
func (c *Client) answer(line []byte, m message) error {
	c.mu.Lock()
	call, known := c.calls[m.id]
	delete(c.calls, m.id)
	c.mu.Unlock()
	switch {
	case known:
		call.reply <- m
		c.leave(call)
		return nil
	case m.id == "" && m.kind == kindError:
		return violation(line, errors.New("QEMU could not read a command"))
	case m.id == "" || strings.HasPrefix(m.id, c.session+"-"):
		return violation(line, errors.New("reply to no command"))
	}
	return nil // owed to the previous connection
}

// write writes a line within ctx and writeLimit and returns how much of it QEMU's
// socket has taken. The caller holds the writing turn.
func (c *Client) write(ctx context.Context, line []byte, file *os.File) (sent int, err error) {
	limited, cancel := context.WithTimeout(ctx, writeLimit)
	defer cancel()
	release := interruptible(limited, c.conn.SetWriteDeadline)
	defer release()
	if file != nil {
		sent, err = c.writeFile(line, file)
	}
	if err == nil && sent < len(line) {
		var more int
		more, err = c.conn.Write(line[sent:])
		sent += more
	}
	switch {
	case err == nil:
		return sent, nil
	case limited.Err() != nil:
		return sent, limited.Err()
	case errors.Is(err, net.ErrClosed):
		<-c.done
		return sent, c.Err()
	case errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNRESET):
		// QEMU has closed its end. What it wrote before is still to be read.
		c.conn.SetReadDeadline(time.Now().Add(drainLimit))
		return sent, fmt.Errorf("%w: %w", ErrDisconnected, err)
	}
	return sent, err
}

// writeFile sends the first bytes of line together with the descriptor, without
// changing its blocking mode, which QEMU would share.
func (c *Client) writeFile(line []byte, file *os.File) (sent int, err error) {
	raw, err := file.SyscallConn()
	if err != nil {
		return 0, err
	}
	controlErr := raw.Control(func(fd uintptr) {
		sent, _, err = c.conn.WriteMsgUnix(line, syscall.UnixRights(int(fd)), nil)
	})
	if controlErr != nil {
		return sent, controlErr
	}
	return sent, err
}
