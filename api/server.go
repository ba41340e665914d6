package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path"
	"runtime/debug"
	"sync"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/internal/connlimit"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

const (
	// headerTimeout is how long a client may take to send its header.
	headerTimeout = 5 * time.Second
	// idleTimeout is how long a connection may wait between two requests.
	idleTimeout = 2 * time.Minute
	// writeTimeout bounds one write of a response to a client that does not read.
	writeTimeout = 20 * time.Second
	// shutdownGrace is how long verbs in progress may take when the daemon ends.
	shutdownGrace = 10 * time.Second
	maxHeader     = 16 << 10
	// maxConns bounds the open connections. An event stream, a console and a
	// following log each hold one; hosts have tens of them, not hundreds.
	maxConns = 512
)

// Options are the choices of a Server.
type Options struct {
	Log   *slog.Logger // nil: slog.Default
	Group string       // its members are served, besides root and the daemon's own user
}

// Server serves one Backend.
type Server struct {
	backend Backend
	log     *slog.Logger
	access  access
	mux     *http.ServeMux
	events  *history

	// verbs is the context of everything that changes something: it belongs to
	// the server, not to the client that asked.
	verbs     context.Context
	endVerbs  context.CancelFunc
	streaming context.Context // of streams: ends first at shutdown
	endStream context.CancelFunc
	hijacked  sync.WaitGroup // connections that net/http no longer waits for

	// What the tests shorten.
	headerTimeout time.Duration
	bodyTimeout   time.Duration
	heartbeat     time.Duration
}

// New returns a server; it does nothing until Serve.
func New(b Backend, o Options) (*Server, error) {
	a, err := newAccess(o.Group)
	if err != nil {
		return nil, err
	}
	s := &Server{
		backend: b, log: o.Log, access: a, mux: http.NewServeMux(), events: newHistory(maxHistory),
		headerTimeout: headerTimeout, bodyTimeout: bodyTimeout, heartbeat: heartbeat,
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	s.verbs, s.endVerbs = context.WithCancel(context.Background())
	s.streaming, s.endStream = context.WithCancel(context.Background())
	for _, route := range routes {
		s.mux.Handle(route.Method+" "+route.Path, s.handler(route))
	}
	return s, nil
}

// Serve answers requests on l until ctx is done, then ends the streams, lets
// verbs in progress finish for a while, and closes l. It returns nil after an
// orderly end and leaves no goroutine behind. It can be called once.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	web := &http.Server{
		Handler:           http.HandlerFunc(s.serveHTTP),
		ConnContext:       withPeer,
		ReadHeaderTimeout: s.headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	var owned sync.WaitGroup
	owned.Go(func() { s.events.collect(s.streaming, s.backend, s.log) })

	served := make(chan error, 1)
	owned.Go(func() { served <- web.Serve(connlimit.New(l, maxConns)) })

	var err error
	select {
	case <-ctx.Done():
		err = s.shutdown(web)
		<-served
	case err = <-served:
		err = fmt.Errorf("serve the API: %w", err)
		web.Close()
	}
	s.endStream()
	s.endVerbs()
	owned.Wait()
	s.hijacked.Wait()
	return err
}

func (s *Server) shutdown(web *http.Server) error {
	s.endStream()
	grace, cancel := context.WithTimeout(context.Background(), shutdownGrace)
	defer cancel()
	err := web.Shutdown(grace)
	if errors.Is(err, context.DeadlineExceeded) {
		s.log.Warn("verbs are still in progress; giving up on them")
		s.endVerbs()
		return web.Close()
	}
	return err
}

// serveHTTP is the way of every request: who asks, what is asked, and a net
// under the handler.
func (s *Server) serveHTTP(w http.ResponseWriter, r *http.Request) {
	defer s.recover(w, r)
	if err := s.access.check(peerFrom(r.Context())); err != nil {
		w.Header().Set("Connection", "close")
		s.fail(w, r, err)
		return
	}
	// ServeMux would redirect such a path to its clean form.
	if path.Clean(r.URL.Path) != r.URL.Path {
		s.fail(w, r, fmt.Errorf("%w: %s", ErrNoEndpoint, r.URL.Path))
		return
	}
	if _, pattern := s.mux.Handler(r); pattern == "" {
		s.refuse(w, r)
		return
	}
	s.mux.ServeHTTP(w, r)
}

// refuse answers a request that no route matches.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request) {
	for _, method := range []string{"GET", "POST", "DELETE"} {
		other := r.Clone(r.Context())
		other.Method = method
		if _, pattern := s.mux.Handler(other); pattern != "" {
			w.Header().Add("Allow", method)
		}
	}
	if w.Header().Get("Allow") == "" {
		s.fail(w, r, fmt.Errorf("%w: %s", ErrNoEndpoint, r.URL.Path))
		return
	}
	s.reply(w, http.StatusMethodNotAllowed, errorBody{&Error{
		Code: "no_endpoint", Message: fmt.Sprintf("%s is not possible on %s", r.Method, r.URL.Path)}})
}

func (s *Server) handler(route Route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, part := range []string{r.PathValue("name"), r.PathValue("id")} {
			if part == "" {
				continue
			}
			if err := CheckName(part); err != nil {
				s.fail(w, r, err)
				return
			}
		}
		if err := route.serve(s, w, r); err != nil {
			s.fail(w, r, err)
		}
	})
}

// recover turns a panic of a handler into an answer and a log entry; the
// daemon and its VMs go on.
func (s *Server) recover(w http.ResponseWriter, r *http.Request) {
	p := recover()
	if p == nil {
		return
	}
	if p == http.ErrAbortHandler {
		panic(p)
	}
	s.log.Error("panic in the API", "method", r.Method, "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
	s.fail(w, r, vm.WithRemedy(fmt.Errorf("%w: %v", ErrInternal, p), "Please report it with the daemon's log."))
}

func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	e := Describe(err)
	status := httpStatus(e.Code)
	s.log.Debug("request failed", "method", r.Method, "path", r.URL.Path, "status", status, "error", err)
	s.reply(w, status, errorBody{e})
}

// reply sends v as JSON.
func (s *Server) reply(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		status = http.StatusInternalServerError
		body, _ = json.Marshal(errorBody{&Error{Code: "internal", Message: err.Error()}})
	}
	w.Header().Set("Content-Type", "application/json")
	http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout))
	w.WriteHeader(status)
	w.Write(append(body, '\n'))
}
