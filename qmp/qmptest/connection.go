package qmptest

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
)

// ReadAhead is how many in-band commands are read before the first of them is executed,
// when out-of-band execution is enabled (QMP_REQ_QUEUE_LEN_MAX in QEMU's monitor.c).
const ReadAhead = 8

// connection is one client's.
type connection struct {
	server *Server
	conn   *net.UnixConn
	inBand chan *Request // to be executed in order

	over     chan struct{} // closed by hangup
	overOnce sync.Once

	negotiated atomic.Bool // qmp_capabilities was executed
	oob        bool        // and enabled out-of-band execution; used by the reader only

	writing sync.Mutex // held while one message is written

	mu       sync.Mutex
	received *os.File // guarded by mu; the last descriptor, until a command wants it

	taking atomic.Pointer[Request] // the command that takes a descriptor, until it is answered
}

// Request is a command that has arrived.
type Request struct {
	ID      json.RawMessage
	Command string
	Args    json.RawMessage // nil if none
	OOB     bool
	File    *os.File // what getfd or add-fd received, nil if nothing. It belongs to the server

	connection *connection
}

// Refusal is an error as QEMU sends it.
type Refusal struct{ Class, Desc string }

// Error implements error.
func (r *Refusal) Error() string { return r.Class + ": " + r.Desc }

// Reply answers the command; nil stands for the empty object. A reply to a connection that
// has ended is dropped.
func (r *Request) Reply(result any) {
	if result == nil {
		result = struct{}{}
	}
	r.answer(map[string]any{"return": result})
}

// Refuse answers the command with an error.
func (r *Request) Refuse(class, desc string) {
	refusal := map[string]any{"class": class, "desc": desc}
	r.answer(map[string]any{"error": refusal})
}

// Fail answers the command with an error: a *Refusal as it is, any other as a GenericError.
func (r *Request) Fail(err error) {
	var refusal *Refusal
	if !errors.As(err, &refusal) {
		refusal = &Refusal{"GenericError", err.Error()}
	}
	r.Refuse(refusal.Class, refusal.Desc)
}

func (r *Request) answer(message map[string]any) {
	if r.ID != nil {
		message["id"] = r.ID
	}
	r.connection.taking.CompareAndSwap(r, nil)
	r.connection.send(message)
}

// wantsFile tells whether the command takes a descriptor.
func (r *Request) wantsFile() bool { return r.Command == "getfd" || r.Command == "add-fd" }

func newConnection(s *Server, conn *net.UnixConn) *connection {
	return &connection{
		server: s,
		conn:   conn,
		inBand: make(chan *Request, ReadAhead-1), // one more executes
		over:   make(chan struct{}),
	}
}

// hangup ends the connection.
func (c *connection) hangup() {
	c.overOnce.Do(func() { close(c.over) })
	c.conn.Close()
}

// serve returns when the connection has ended and nothing of it is left.
func (c *connection) serve() {
	var executing sync.WaitGroup
	executing.Go(func() {
		for r := range c.inBand {
			c.server.execute(r)
		}
	})
	c.greet()
	c.read()
	c.hangup()
	close(c.inBand)
	executing.Wait()
	if file := c.takeFile(); file != nil {
		file.Close()
	}
}

func (c *connection) hasFile() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.received != nil
}

// takeFile returns the last descriptor received, nil if none or taken before.
func (c *connection) takeFile() *os.File {
	c.mu.Lock()
	defer c.mu.Unlock()
	file := c.received
	c.received = nil
	return file
}

func (c *connection) greet() {
	options := c.server.options
	if options.greeting != nil {
		c.write([]byte(*options.greeting))
		return
	}
	capabilities := []string{}
	if options.oob {
		capabilities = append(capabilities, "oob")
	}
	c.send(map[string]any{"QMP": map[string]any{
		"version": options.version.wire(), "capabilities": capabilities,
	}})
}

// read cuts the input into commands.
func (c *connection) read() {
	const descriptors = 4 // more are cut off, in QEMU above 16
	var pending []byte
	chunk, rights := make([]byte, 4096), make([]byte, syscall.CmsgSpace(descriptors*4))
	for c.mayRead() {
		n, rightsLen, _, _, err := c.conn.ReadMsgUnix(chunk, rights)
		if err != nil || n == 0 || !c.mayRead() { // stalled while it waited for input
			return
		}
		if c.taking.Load() != nil {
			c.server.crash()
			return
		}
		// The kernel ends a read with the message that carries descriptors, so they
		// came with the last command that begins in it.
		last := bytes.LastIndexByte(chunk[:n-1], '\n') + 1
		pending = c.dispatchWhole(append(pending, chunk[:last]...))
		c.receive(rights[:rightsLen])
		pending = c.dispatchWhole(append(pending, chunk[last:n]...))
	}
}

// dispatchWhole returns what is left after the last whole command. As in QEMU, a command is whole with its closing
// brace, and what begins with no brace is an error as far as the end of the line.
func (c *connection) dispatchWhole(input []byte) (rest []byte) {
	for {
		input = bytes.TrimLeft(input, " \t\r\n")
		end := commandEnd(input)
		if end < 0 {
			return input
		}
		takesFile := c.dispatch(input[:end])
		input = input[end:]
		if takesFile && len(input) > 0 {
			c.server.crash()
			return nil
		}
	}
}

// commandEnd is the length of the command that input begins with, or -1 if it is not whole.
func commandEnd(input []byte) int {
	if len(input) == 0 || input[0] != '{' {
		return bytes.IndexByte(input, '\n')
	}
	depth, quoted := 0, false
	for at := 0; at < len(input); at++ {
		switch b := input[at]; {
		case quoted && b == '\\':
			at++
		case b == '"':
			quoted = !quoted
		case quoted:
		case b == '\n': // within a command that is none
			return at
		case b == '{':
			depth++
		case b == '}':
			if depth--; depth == 0 {
				return at + 1
			}
		}
	}
	return -1
}

// mayRead waits while the server is stalled, and is false when the connection is over.
func (c *connection) mayRead() bool {
	c.server.mu.Lock()
	gate := c.server.gate
	c.server.mu.Unlock()
	select {
	case <-gate:
		return true
	case <-c.over:
		return false
	}
}

// receive keeps the last descriptor that has come and closes the others.
func (c *connection) receive(rights []byte) {
	if len(rights) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	messages, err := syscall.ParseSocketControlMessage(rights)
	if err != nil {
		return
	}
	for _, message := range messages {
		descriptors, err := syscall.ParseUnixRights(&message)
		if err != nil {
			continue
		}
		for _, descriptor := range descriptors {
			if c.received != nil {
				c.received.Close()
			}
			c.received = os.NewFile(uintptr(descriptor), "received")
		}
	}
}

// dispatch executes a command at once or puts it in line, and tells whether it takes a descriptor that is there.
func (c *connection) dispatch(line []byte) (takesFile bool) {
	var wire struct {
		ID      json.RawMessage `json:"id"`
		Execute string          `json:"execute"`
		ExecOOB string          `json:"exec-oob"`
		Args    json.RawMessage `json:"arguments"`
	}
	if err := json.Unmarshal(line, &wire); err != nil {
		(&Request{connection: c}).Refuse("GenericError", "JSON parse error, "+err.Error())
		return false
	}
	r := &Request{ID: wire.ID, Command: wire.Execute, Args: wire.Args, connection: c}
	if wire.ExecOOB != "" {
		r.Command, r.OOB = wire.ExecOOB, true
	}
	c.server.arrived(r.Command)
	if takesFile = r.wantsFile() && c.hasFile(); takesFile {
		c.taking.Store(r)
	}
	switch {
	case r.Command == "qmp_capabilities":
		c.negotiate(r)
	case !c.negotiated.Load():
		r.Refuse("CommandNotFound", "Expecting capabilities negotiation with 'qmp_capabilities'")
	case r.OOB && !c.oob:
		r.Refuse("GenericError", "Out-of-band capability is not enabled")
	case c.oob && !r.OOB:
		c.inBand <- r
	default:
		c.server.execute(r)
	}
	return takesFile
}

func (c *connection) negotiate(r *Request) {
	var args struct {
		Enable []string `json:"enable"`
	}
	if r.Args != nil && json.Unmarshal(r.Args, &args) != nil {
		r.Refuse("GenericError", "Invalid parameter type for 'enable', expected: array")
		return
	}
	for _, capability := range args.Enable {
		if capability != "oob" || !c.server.options.oob {
			r.Refuse("GenericError", "Capability '"+capability+"' not available")
			return
		}
		c.oob = true
	}
	c.negotiated.Store(true)
	r.Reply(nil)
}

func (c *connection) send(message any) {
	line, err := json.Marshal(message)
	if err != nil {
		c.server.t.Errorf("qmptest: a message does not encode: %v", err)
		return
	}
	c.write(append(spaced(line), "\r\n"...))
}

// spaced puts a space behind each colon and comma between tokens, as QEMU prints JSON
// (qobject/json-writer.c). Clients that search lines for bytes rely on it.
func spaced(line []byte) []byte {
	out := make([]byte, 0, len(line)+len(line)/8)
	inString, escaped := false, false
	for _, b := range line {
		out = append(out, b)
		switch {
		case escaped:
			escaped = false
		case inString && b == '\\':
			escaped = true
		case b == '"':
			inString = !inString
		case !inString && (b == ':' || b == ','):
			out = append(out, ' ')
		}
	}
	return out
}

// write drops what a client that has gone does not read.
func (c *connection) write(raw []byte) {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.conn.Write(raw)
}
