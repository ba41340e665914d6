package qmp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// InFlight is the number of in-band commands outstanding at QEMU at a time.
const InFlight = 8

// maxPath is the size of sun_path in Linux's struct sockaddr_un, less its final NUL.
const maxPath = 107

// connection is what a client needs of *net.UnixConn.
type connection interface {
	net.Conn
	WriteMsgUnix(b, oob []byte, addr *net.UnixAddr) (n, oobn int, err error)
}

// Client is one connection to the monitor of one QEMU. All methods may be called
// by any number of goroutines.
type Client struct {
	conn     connection
	greeting Greeting
	oob      bool // out-of-band execution was agreed upon

	// Turns to wait for: a token in the channel is a turn taken.
	writing chan struct{} // 1: the one that writes to conn; with a file, freed by the reader
	inBand  chan struct{} // InFlight: in-band commands outstanding, freed by the reader

	done chan struct{} // closed when the reader has ended

	session string // begins every id of this client
	counter uint64 // last id; held by the owner of the writing turn

	mu            sync.Mutex
	calls         map[string]*Call           // guarded by mu; sent and not answered, by id
	subscriptions map[*Subscription]struct{} // guarded by mu; nil when the client has ended
	cause         error                      // guarded by mu; why the client ends, first reason
}

// Greeting is what QEMU says of itself on connection.
type Greeting struct {
	Version      Version
	Capabilities []string // such as "oob"
}

// Version is that of the QEMU at the other end.
type Version struct {
	Major, Minor, Micro int
	Package             string // the distributor's, such as "Debian 1:7.2+dfsg-7"
}

// UnmarshalJSON reads the greeting as the protocol nests it.
func (g *Greeting) UnmarshalJSON(data []byte) error {
	var wire struct {
		Version struct {
			QEMU    *struct{ Major, Minor, Micro int } `json:"qemu"`
			Package string                             `json:"package"`
		} `json:"version"`
		Capabilities []string `json:"capabilities"`
	}
	if err := json.Unmarshal(data, &wire); err != nil {
		return err
	}
	if wire.Version.QEMU == nil {
		return errors.New("greeting without QEMU's version")
	}
	q := wire.Version.QEMU
	g.Version = Version{q.Major, q.Minor, q.Micro, wire.Version.Package}
	g.Capabilities = wire.Capabilities
	return nil
}

// Dial connects to the monitor socket at path, waits for QEMU's greeting and
// negotiates capabilities. It waits as long as ctx allows. A monitor already in use answers
// nothing at all: the error is then ErrBusy as well as that of ctx.
func Dial(ctx context.Context, path string) (*Client, error) {
	if len(path) > maxPath {
		return nil, fmt.Errorf("qmp: dial %s: %w", path, ErrPathTooLong)
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("qmp: dial %s: %w", path, explainDial(err))
	}
	client, err := NewClient(ctx, conn.(*net.UnixConn))
	if err != nil {
		return nil, fmt.Errorf("qmp: dial %s: %w", path, err)
	}
	return client, nil
}

func explainDial(err error) error {
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("no such socket; is QEMU started, with -qmp unix:PATH,server=on? %w", err)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("nobody listens; QEMU has exited and left its socket behind: %w", err)
	case errors.Is(err, syscall.EAGAIN):
		return fmt.Errorf("%w: %w", ErrBusy, err) // others wait already
	}
	return err
}

// NewClient greets and negotiates on a connection that is already made, for
// instance one end of a socket pair inherited by QEMU. It owns conn from now on and
// closes it on failure.
func NewClient(ctx context.Context, conn *net.UnixConn) (*Client, error) {
	return newClient(ctx, conn, MaxLine)
}

func newClient(ctx context.Context, conn connection, maxLine int) (*Client, error) {
	c := &Client{
		conn:          conn,
		writing:       make(chan struct{}, 1),
		inBand:        make(chan struct{}, InFlight),
		done:          make(chan struct{}),
		session:       fmt.Sprintf("%08x", rand.Uint32()),
		calls:         map[string]*Call{},
		subscriptions: map[*Subscription]struct{}{},
	}
	lines := newLineReader(conn, maxLine)
	if err := c.readGreeting(ctx, lines); err != nil {
		conn.Close()
		return nil, err
	}
	go c.read(lines)
	if err := c.negotiate(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// readGreeting passes over what QEMU still owed to the previous connection.
func (c *Client) readGreeting(ctx context.Context, lines *lineReader) error {
	release := interruptible(ctx, c.conn.SetReadDeadline)
	defer release()
	for {
		line, err := lines.next()
		if err != nil && ctx.Err() != nil {
			return fmt.Errorf("%w: %w", ErrBusy, ctx.Err())
		}
		if err != nil {
			return fmt.Errorf("greeting: %w", explainRead(err))
		}
		message, err := decodeMessage(line)
		if err != nil {
			return fmt.Errorf("greeting: %w", err)
		}
		if message.kind == kindGreeting {
			c.greeting = message.greeting
			return nil
		}
	}
}

func (c *Client) negotiate(ctx context.Context) error {
	var args struct {
		Enable []string `json:"enable,omitempty"`
	}
	for _, capability := range c.greeting.Capabilities {
		if capability == "oob" {
			args.Enable = append(args.Enable, capability)
		}
	}
	if err := c.Execute(ctx, "qmp_capabilities", args, nil); err != nil {
		return err
	}
	c.oob = len(args.Enable) > 0
	return nil
}

// Greeting returns what QEMU said of itself on connection.
func (c *Client) Greeting() Greeting { return c.greeting }

// Subscribe returns a queue of every event that arrives from now on. On a client
// that has ended, the subscription has ended too.
func (c *Client) Subscribe() *Subscription {
	c.mu.Lock()
	defer c.mu.Unlock()
	var s *Subscription
	s = newSubscription(func() { c.unsubscribe(s) })
	if c.subscriptions == nil {
		s.end(c.cause)
		return s
	}
	c.subscriptions[s] = struct{}{}
	return s
}

func (c *Client) unsubscribe(s *Subscription) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.subscriptions, s)
}

// Done is closed when the client has ended, for whatever reason.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err returns nil until Done is closed, and then why the client has ended.
func (c *Client) Err() error {
	select {
	case <-c.done:
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.cause
	default:
		return nil
	}
}

// Close ends the connection, fails the commands still waiting with ErrClosed and
// returns when the client holds nothing any more. QEMU runs on. Close may be called
// more than once, and always returns nil.
func (c *Client) Close() error {
	c.fail(ErrClosed)
	<-c.done
	return nil
}

// fail makes the client end. The first reason counts.
func (c *Client) fail(reason error) {
	c.mu.Lock()
	if c.cause == nil {
		c.cause = reason
	}
	c.mu.Unlock()
	c.conn.Close() // ends the reader; its error says nothing that reason does not
}

// read is the client's only goroutine. It ends with the connection.
func (c *Client) read(lines *lineReader) {
	for {
		line, err := lines.next()
		if err == nil {
			err = c.handle(line)
		} else {
			err = explainRead(err)
		}
		if err != nil {
			c.fail(err)
			break
		}
	}
	c.mu.Lock()
	cause, subscriptions := c.cause, c.subscriptions
	c.subscriptions = nil
	c.mu.Unlock()
	for s := range subscriptions {
		s.end(cause)
	}
	close(c.done)
}

func explainRead(err error) error {
	switch {
	case errors.Is(err, ErrLineTooLong):
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	case errors.Is(err, io.EOF):
		return ErrDisconnected
	}
	return fmt.Errorf("%w: %w", ErrDisconnected, err)
}

func (c *Client) handle(line []byte) error {
	message, err := decodeMessage(line)
	if err != nil {
		return err
	}
	switch message.kind {
	case kindEvent:
		c.publish(message.event, len(line))
		return nil
	case kindGreeting:
		return violation(line, errors.New("second greeting"))
	default:
		return c.answer(line, message)
	}
}

func (c *Client) publish(event Event, bytes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for s := range c.subscriptions {
		if !s.put(event, bytes) {
			delete(c.subscriptions, s)
		}
	}
}

// interruptible makes the end of ctx interrupt reads or writes, whose deadline
// setDeadline sets. The caller calls release when they are over; no deadline is set
// after that. Deadlines set meanwhile are the caller's to clear.
func interruptible(ctx context.Context, setDeadline func(time.Time) error) (release func()) {
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		setDeadline(time.Unix(1, 0)) // fails only on a closed connection, which interrupts as well
	})
	return func() {
		if !stop() {
			<-interrupted
		}
		setDeadline(time.Time{})
	}
}
