package webhook

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/internal/connlimit"
	"github.com/nv-hypervisor/nv-hypervisor/internal/strictjson"
	"github.com/nv-hypervisor/nv-hypervisor/pod"
)

// Path is the one thing that is served.
const Path = "/v1/pod/event"

const (
	maxBody      = 4 << 10
	maxHeader    = 8 << 10
	maxConns     = 32
	readTimeout  = 10 * time.Second // for header and body
	writeTimeout = 10 * time.Second
	idleTimeout  = time.Minute
	endTimeout   = 2 * time.Second // for requests in progress when the watcher ends
	maxRetry     = 30 * time.Second
)

// entry is the way in over the network.
type entry struct {
	watcher *Watcher
	address string
	token   [sha256.Size]byte // a hash has one length, and a comparison of hashes tells nothing of it
	secret  string            // for our own test
	tls     *tls.Config       // nil: plain, on loopback
	guesses guesses

	readTimeout time.Duration // tests have a shorter one

	mu   sync.Mutex
	addr net.Addr // where it listens; nil if it does not
}

func newEntry(c Config, w *Watcher) (*entry, error) {
	host, _, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen = %q: %w: write it as \"192.0.2.7:8843\"", c.Listen, err)
	}
	e := &entry{watcher: w, address: c.Listen, readTimeout: readTimeout}
	e.guesses.init()
	if c.TokenFile == "" {
		return nil, errors.New("listen is set without token_file: anybody could announce an outage; name a file with a token")
	}
	if e.secret, err = readToken(c.TokenFile); err != nil {
		return nil, err
	}
	e.token = sha256.Sum256([]byte(e.secret))
	switch {
	case c.Certificate != "" && c.Key != "":
		if e.tls, err = loadTLS(c.Certificate, c.Key); err != nil {
			return nil, err
		}
	case c.Certificate != "" || c.Key != "":
		return nil, errors.New("certificate and key belong together: set both")
	case !isLoopback(host):
		return nil, fmt.Errorf("listen = %q would show the token to the network: set certificate and key, or listen on 127.0.0.1", c.Listen)
	}
	return e, nil
}

// isLoopback is true of addresses alone: what a name means may change.
func isLoopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}

// listen serves until ctx is done. Where it cannot listen, it says so and tries again.
func (e *entry) listen(ctx context.Context) {
	pod.Backoff{First: time.Second, Longest: maxRetry}.Repeat(ctx, func(reached func()) error {
		return e.serve(ctx, reached)
	}, func(err error) {
		e.watcher.setDeaf(fmt.Errorf("listen on %s: %w: is the address this host's, and the port free?", e.address, err))
	})
}

func (e *entry) serve(ctx context.Context, listening func()) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", e.address)
	if err != nil {
		return err
	}
	addr := l.Addr()
	l = connlimit.New(l, maxConns)
	if e.tls != nil {
		l = tls.NewListener(l, e.tls)
	}
	web := &http.Server{
		Handler: e, ReadTimeout: e.readTimeout, WriteTimeout: e.readTimeout + writeTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeader, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
		DisableGeneralOptionsHandler: true,
	}
	e.setAddr(addr)
	defer e.setAddr(nil)
	listening()
	e.watcher.setDeaf(nil)
	var ending sync.WaitGroup
	defer ending.Wait()
	served := make(chan error, 1)
	ending.Go(func() { served <- web.Serve(l) })
	select {
	case err = <-served:
	case <-ctx.Done():
		grace, cancel := context.WithTimeout(context.Background(), endTimeout)
		defer cancel()
		if web.Shutdown(grace) != nil {
			web.Close()
		}
	}
	return err
}

func (e *entry) setAddr(a net.Addr) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.addr = a
}

func (e *entry) listensAt() net.Addr {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.addr
}

// ServeHTTP implements http.Handler. Who has no token learns nothing but that.
func (e *entry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	from := clientOf(r)
	if wait := e.guesses.blocked(from, time.Now()); wait > 0 {
		w.Header().Set("Retry-After", fmt.Sprint(int(wait/time.Second)+1))
		refuse(w, http.StatusTooManyRequests, "too_many_tries", "too many wrong tokens came from this address")
		return
	}
	if !e.authorised(r) {
		e.guesses.wrong(from, time.Now())
		w.Header().Set("WWW-Authenticate", "Bearer")
		refuse(w, http.StatusUnauthorized, "unauthorized", "send the token: Authorization: Bearer TOKEN")
		return
	}
	switch {
	case r.URL.Path != Path:
		refuse(w, http.StatusNotFound, "no_endpoint", "there is only "+Path)
	case r.Method != http.MethodPost:
		w.Header().Set("Allow", http.MethodPost)
		refuse(w, http.StatusMethodNotAllowed, "no_endpoint", "only POST is possible")
	default:
		e.take(w, r)
	}
}

func (e *entry) authorised(r *http.Request) bool {
	given := r.Header.Values("Authorization")
	if len(given) != 1 {
		return false
	}
	scheme, token, ok := strings.Cut(given[0], " ")
	hash := sha256.Sum256([]byte(token))
	return ok && strings.EqualFold(scheme, "Bearer") && subtle.ConstantTimeCompare(hash[:], e.token[:]) == 1
}

// take reads the event and has it accepted.
func (e *entry) take(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		refuse(w, http.StatusRequestEntityTooLarge, "too_large", fmt.Sprintf("the body is over %d bytes", maxBody))
		return
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, "invalid", "the body could not be read")
		return
	}
	var event Event
	if err := strictjson.Decode(body, &event); err != nil {
		refuse(w, http.StatusBadRequest, "invalid", err.Error())
		return
	}
	answer, err := e.watcher.Accept(event)
	switch {
	case err == nil:
		reply(w, http.StatusOK, answer)
	case errors.Is(err, ErrOutOfOrder):
		refuse(w, http.StatusConflict, "out_of_order", err.Error())
	case errors.Is(err, ErrTooMany):
		refuse(w, http.StatusConflict, "too_many_sources", err.Error())
	case errors.Is(err, ErrNotRunning):
		refuse(w, http.StatusServiceUnavailable, "not_running", err.Error())
	default:
		refuse(w, http.StatusBadRequest, "invalid", err.Error())
	}
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	// What is left of the body is not worth reading.
	w.Header().Set("Connection", "close")
	reply(w, status, map[string]any{"error": map[string]string{"code": code, "message": message}})
}

func reply(w http.ResponseWriter, status int, v any) {
	var body bytes.Buffer
	json.NewEncoder(&body).Encode(v) // of strings and a finite number: it cannot fail
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(body.Bytes())
}

// clientOf is the address that guesses are counted for: a whole /64 for IPv6, where every host has one.
func clientOf(r *http.Request) netip.Prefix {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Prefix{}
	}
	a := from.Addr().Unmap().WithZone("")
	bits := 32
	if a.Is6() {
		bits = 64
	}
	prefix, _ := a.Prefix(bits) // of a valid address
	return prefix
}
