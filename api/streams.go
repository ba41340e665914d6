package api

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// upgradeConsole is the protocol a console connection is upgraded to: after the
// response's header both directions are the bytes of the serial line.
const upgradeConsole = "nvh-console"

// logVM sends a log as text, and with follow=true whatever is added to it.
func (s *Server) logVM(w http.ResponseWriter, r *http.Request) error {
	which := r.PathValue("log")
	if which != LogQEMU && which != LogConsole {
		return invalid("log %q is neither %s nor %s", which, LogQEMU, LogConsole)
	}
	follow, err := flag(r, "follow")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(s.streaming, cancel)()
	log, err := s.backend.Log(ctx, r.PathValue("name"), which, follow)
	if err != nil {
		return err
	}
	defer log.Close()
	defer context.AfterFunc(ctx, func() { log.Close() })()

	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(http.StatusOK)
	out := flushWriter{w, http.NewResponseController(w)}
	out.control.Flush()
	_, err = io.Copy(out, log)
	if err != nil && ctx.Err() == nil {
		// The header is out: only a broken connection can still say "failed".
		panic(http.ErrAbortHandler)
	}
	return nil
}

// flushWriter sends every write at once and gives up on a client that does not
// read.
type flushWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

func (f flushWriter) Write(p []byte) (int, error) {
	f.control.SetWriteDeadline(time.Now().Add(writeTimeout))
	n, err := f.w.Write(p)
	if err == nil {
		err = f.control.Flush()
	}
	return n, err
}

// consoleVM upgrades the connection and joins it to the VM's console until one
// of the two ends.
func (s *Server) consoleVM(w http.ResponseWriter, r *http.Request) error {
	if !strings.EqualFold(r.Header.Get("Upgrade"), upgradeConsole) {
		w.Header().Set("Upgrade", upgradeConsole)
		return invalid("the console needs the header Upgrade: %s", upgradeConsole)
	}
	ctx, cancel := context.WithCancel(s.streaming)
	defer cancel()
	console, err := s.backend.Console(ctx, r.PathValue("name"))
	if err != nil {
		return err
	}
	defer console.Close()
	s.hijacked.Add(1)
	defer s.hijacked.Done()
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Time{})
	header := "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + upgradeConsole + "\r\n\r\n"
	if _, err := io.WriteString(conn, header); err != nil {
		return nil
	}
	join(ctx, deadlineConn{conn}, buffered, console)
	return nil
}

// join copies both ways until one side ends or ctx is done, then closes both
// and waits for the copies. pending is what the client sent right behind its
// request; it reads on from the client.
func join(ctx context.Context, client io.ReadWriteCloser, pending io.Reader, console io.ReadWriteCloser) {
	ended := make(chan error, 2)
	go func() { _, err := io.Copy(console, pending); ended <- err }()
	go func() { _, err := io.Copy(client, console); ended <- err }()
	open := 2
	select {
	case <-ctx.Done():
	case <-ended:
		open--
	}
	client.Close()
	console.Close()
	for ; open > 0; open-- {
		<-ended
	}
}

// deadlineConn gives every write a deadline.
type deadlineConn struct{ net.Conn }

func (c deadlineConn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil && !errors.Is(err, net.ErrClosed) {
		return 0, err
	}
	return c.Conn.Write(p)
}
