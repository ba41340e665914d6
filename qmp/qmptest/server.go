package qmptest

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

// Server is a fake monitor.
type Server struct {
	t        testing.TB
	path     string
	listener *net.UnixListener
	options  options
	held     chan *Request // taken by Take

	serving sync.WaitGroup // the goroutine that accepts

	mu       sync.Mutex
	handlers map[string]func(*Request) // guarded by mu
	commands []string                  // guarded by mu; names in order of arrival
	files    map[string]*os.File       // guarded by mu; by the names of getfd
	owned    []*os.File                // guarded by mu; to be closed
	current  *connection               // guarded by mu; nil when nobody is connected
	gate     chan struct{}             // guarded by mu; closed unless input is stalled
	dead     bool                      // guarded by mu
}

type options struct {
	version  Version
	oob      bool
	greeting *string
}

// Version is what the server claims to be.
type Version struct {
	Major, Minor, Micro int
	Package             string
}

// Option changes how a server greets.
type Option func(*options)

// WithVersion makes the server claim to be that version of QEMU. It is 7.2.0 otherwise.
func WithVersion(v Version) Option { return func(o *options) { o.version = v } }

// WithoutOOB makes the server not offer out-of-band execution.
func WithoutOOB() Option { return func(o *options) { o.oob = false } }

// WithGreeting sends these bytes in place of a greeting; none at all if empty.
func WithGreeting(raw string) Option { return func(o *options) { o.greeting = &raw } }

// heldCapacity is how many held requests may wait for Take.
const heldCapacity = 4096

// Start returns a server that ends with the test.
func Start(t testing.TB, opts ...Option) *Server {
	t.Helper()
	directory, err := os.MkdirTemp("", "qmptest-") // t.TempDir can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{
		t:        t,
		path:     filepath.Join(directory, "qmp"),
		options:  options{version: Version{Major: 7, Minor: 2, Package: "qmptest"}, oob: true},
		held:     make(chan *Request, heldCapacity),
		handlers: map[string]func(*Request){},
		files:    map[string]*os.File{},
		gate:     make(chan struct{}),
	}
	close(s.gate)
	for _, option := range opts {
		option(&s.options)
	}
	s.listener, err = net.ListenUnix("unix", &net.UnixAddr{Name: s.path, Net: "unix"})
	if err != nil {
		os.RemoveAll(directory)
		t.Fatal(err)
	}
	s.handleBuiltIn()
	s.serving.Go(s.accept)
	t.Cleanup(func() {
		s.Die()
		for _, file := range s.owned {
			file.Close()
		}
		os.RemoveAll(directory)
	})
	return s
}

// Path returns the path of the socket.
func (s *Server) Path() string { return s.path }

// Handle answers a command with what the handler returns. An error that is a
// *Refusal is sent as such, any other as a GenericError. Handlers of in-band commands
// run one at a time, and keep later commands waiting.
func (s *Server) Handle(command string, handler func(args json.RawMessage) (any, error)) {
	s.HandleRequest(command, func(r *Request) {
		result, err := handler(r.Args)
		if err != nil {
			r.Fail(err)
			return
		}
		r.Reply(result)
	})
}

// HandleRequest passes a command to a handler that may answer later, or not at all.
func (s *Server) HandleRequest(command string, handler func(*Request)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handlers[command] = handler
}

// Hold leaves these commands unanswered for the test to Take. Unlike in QEMU, a held in-band
// command does not keep later ones from executing, so that they can be answered in
// any order.
func (s *Server) Hold(commands ...string) {
	for _, command := range commands {
		s.HandleRequest(command, func(r *Request) { s.held <- r })
	}
}

// Take returns the next held command, in order of arrival. The test fails when ctx
// ends first; call it from the test's own goroutine.
func (s *Server) Take(ctx context.Context) *Request {
	s.t.Helper()
	select {
	case r := <-s.held:
		return r
	case <-ctx.Done():
		s.t.Fatalf("qmptest: no held command came: %v; arrived were %q", ctx.Err(), s.Commands())
		return nil
	}
}

// Commands returns the names of all commands that have arrived, in order.
func (s *Server) Commands() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.commands)
}

// File returns the file that getfd received by this name, nil if none. It belongs to the server.
func (s *Server) File(name string) *os.File {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.files[name]
}

// Emit sends an event. Like QEMU, it drops it when nobody has connected and negotiated.
func (s *Server) Emit(event string, data any) {
	now := time.Now()
	message := map[string]any{
		"event":     event,
		"timestamp": map[string]any{"seconds": now.Unix(), "microseconds": now.Nanosecond() / 1000},
	}
	if data != nil {
		message["data"] = data
	}
	if c := s.connection(); c != nil && c.negotiated.Load() {
		c.send(message)
	}
}

// Write sends bytes as they are: half a line, garbage, more than a line.
func (s *Server) Write(raw []byte) {
	if c := s.connection(); c != nil {
		c.write(raw)
	}
}

// Stall stops reading commands until Continue: the socket fills up, as with a QEMU whose
// main loop hangs.
func (s *Server) Stall() {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.gate:
		s.gate = make(chan struct{})
	default: // stalled already
	}
}

// Continue ends a Stall.
func (s *Server) Continue() {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.gate:
	default:
		close(s.gate)
	}
}

// Hangup closes the present connection. The next client is served then.
func (s *Server) Hangup() {
	if c := s.connection(); c != nil {
		c.hangup()
	}
}

// Die closes the connection and stops listening, as a QEMU that is killed. The socket's
// file remains.
func (s *Server) Die() {
	s.mu.Lock()
	s.dead = true
	current := s.current
	s.mu.Unlock()
	s.listener.SetUnlinkOnClose(false)
	s.listener.Close()
	if current != nil {
		current.hangup()
	}
	s.serving.Wait()
}

// crash ends this QEMU as the real one may end, when it reads on while a command takes the descriptor that came with it.
func (s *Server) crash() {
	s.mu.Lock()
	s.dead = true
	current := s.current
	s.mu.Unlock()
	s.listener.Close()
	if current != nil {
		current.hangup()
	}
}

func (s *Server) connection() *connection {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current
}

// accept serves one connection after the other.
func (s *Server) accept() {
	for {
		conn, err := s.listener.AcceptUnix()
		if err != nil {
			return // closed by Die
		}
		c := newConnection(s, conn)
		s.mu.Lock()
		s.current = c
		dead := s.dead
		s.mu.Unlock()
		if dead {
			c.hangup()
		}
		c.serve()
		s.mu.Lock()
		s.current = nil
		s.mu.Unlock()
	}
}

func (s *Server) arrived(command string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.commands = append(s.commands, command)
}

func (s *Server) execute(r *Request) {
	if r.wantsFile() {
		if r.File = r.connection.takeFile(); r.File != nil {
			s.own(r.File)
		}
	}
	s.mu.Lock()
	handler := s.handlers[r.Command]
	s.mu.Unlock()
	if handler == nil {
		r.Refuse("CommandNotFound", "The command "+r.Command+" has not been found")
		return
	}
	handler(r)
}

// own closes the file when the test ends, unless something has done so before.
func (s *Server) own(file *os.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.owned = append(s.owned, file)
}

// handleBuiltIn answers what every QEMU answers. A test may replace any of it.
func (s *Server) handleBuiltIn() {
	s.Handle("query-version", func(json.RawMessage) (any, error) { return s.options.version.wire(), nil })
	s.HandleRequest("getfd", func(r *Request) {
		name := fdName(r.Args)
		if r.File == nil {
			r.Refuse("GenericError", "No file descriptor supplied via SCM_RIGHTS")
			return
		}
		s.keep(name, r.File)
		r.Reply(nil)
	})
	s.HandleRequest("closefd", func(r *Request) {
		name := fdName(r.Args)
		if s.File(name) == nil {
			r.Refuse("GenericError", "File descriptor named '"+name+"' not found")
			return
		}
		s.keep(name, nil)
		r.Reply(nil)
	})
}

func fdName(args json.RawMessage) string {
	var named struct {
		Name string `json:"fdname"`
	}
	json.Unmarshal(args, &named) // a wrong shape is an empty name
	return named.Name
}

// keep replaces the file of that name; nil removes it.
func (s *Server) keep(name string, file *os.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.files[name]; old != nil {
		old.Close()
	}
	delete(s.files, name)
	if file != nil {
		s.files[name] = file
	}
}

func (v Version) wire() map[string]any {
	return map[string]any{
		"qemu":    map[string]any{"major": v.Major, "minor": v.Minor, "micro": v.Micro},
		"package": v.Package,
	}
}
