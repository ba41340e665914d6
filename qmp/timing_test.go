package qmp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// pipe is a connection within the process, on which synctest's clock works. A write
// returns when the other end has read it.
type pipe struct{ net.Conn }

func (p pipe) WriteMsgUnix([]byte, []byte, *net.UnixAddr) (int, int, error) {
	return 0, 0, errors.New("a pipe passes no files")
}

// Write reports a closed pipe as a socket would.
func (p pipe) Write(b []byte) (int, error) {
	n, err := p.Conn.Write(b)
	if errors.Is(err, io.ErrClosedPipe) {
		err = net.ErrClosed
	}
	return n, err
}

// newPipe returns a negotiated client and QEMU's end, with what is read from it.
func newPipe(t *testing.T) (*Client, net.Conn, *bufio.Reader) {
	near, far := net.Pipe()
	commands := bufio.NewReaderSize(far, 16)
	go func() {
		fmt.Fprintln(far, `{"QMP":{"version":{"qemu":{"major":7,"minor":2,"micro":0}},"capabilities":[]}}`)
		line, _ := commands.ReadString('\n')
		fmt.Fprintf(far, `{"return":{},%s}`+"\n", line[1:strings.IndexByte(line, ',')])
	}()
	client, err := newClient(t.Context(), pipe{near}, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return client, far, commands
}

// A QEMU that reads nothing costs a command its deadline, and the client nothing.
func TestStalledBeforeTheFirstByte(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, far, commands := newPipe(t)
		defer client.Close()
		for _, limit := range []time.Duration{3 * time.Second, time.Hour} {
			begin := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			err := client.Execute(ctx, "stop", nil, nil)
			cancel()
			if !errors.Is(err, ErrNotSent) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("limit %v: %v, want ErrNotSent", limit, err)
			}
			if took := time.Since(begin); took != min(limit, writeLimit) {
				t.Errorf("limit %v: gave up after %v", limit, took)
			}
		}
		go func() { // QEMU is back
			line, _ := commands.ReadString('\n')
			fmt.Fprintf(far, `{"return":{},%s}`+"\n", line[1:strings.IndexByte(line, ',')])
		}()
		if err := client.Execute(t.Context(), "cont", nil, nil); err != nil {
			t.Errorf("after the stall: %v", err)
		}
	})
}

// A command cut in its middle ends the client, and the others are told why.
func TestStalledWithinACommand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, far, _ := newPipe(t)
		ctx, cancel := context.WithCancel(t.Context())
		results := make(chan error, 2)
		go func() { results <- client.Execute(ctx, "stop", nil, nil) }()
		far.Read(make([]byte, 10))
		go func() { results <- client.Execute(t.Context(), "cont", nil, nil) }()
		synctest.Wait() // one writes, the other waits for its turn
		cancel()
		for range 2 {
			if err := <-results; !errors.Is(err, ErrPartialWrite) || !strings.Contains(err.Error(), "stop: 10 of") {
				t.Errorf("error %v, want ErrPartialWrite", err)
			}
		}
		<-client.Done()
		if err := client.Err(); !errors.Is(err, ErrPartialWrite) {
			t.Errorf("client ended with %v", err)
		}
	})
}

// A line without end does not fill the memory.
func TestEndlessLine(t *testing.T) {
	client, far, _ := newPipe(t)
	for chunk := make([]byte, 64<<10); ; {
		if _, err := far.Write(chunk); err != nil {
			break // the client has had enough
		}
	}
	<-client.Done()
	if err := client.Err(); !errors.Is(err, ErrLineTooLong) || !errors.Is(err, ErrProtocol) {
		t.Errorf("client ended with %v", err)
	}
}

func TestNextWaitsForItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSubscription(func() {})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		begin := time.Now()
		if _, err := s.Next(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != time.Minute {
			t.Errorf("after %v: %v", time.Since(begin), err)
		}
		got := make(chan string, 2) // two who wait, two events at once: both get one
		for range 2 {
			go func() {
				event, err := s.Next(t.Context())
				got <- fmt.Sprint(event.EventName(), err)
			}()
		}
		synctest.Wait()
		s.put(Stop{}, 1)
		s.put(Stop{}, 1)
		for range 2 {
			if result := <-got; result != "STOP<nil>" {
				t.Error(result)
			}
		}
	})
}

// The event that does not fit ends the subscription, after all before it.
func TestOverflow(t *testing.T) {
	for _, test := range []struct{ size, fit int }{
		{1, MaxQueuedEvents},
		{MaxQueuedBytes / 4, 4},
	} {
		s := newSubscription(func() {})
		for i := range test.fit {
			if !s.put(MigrationPass{Pass: i}, test.size) {
				t.Fatalf("event %d of %d bytes is refused", i, test.size)
			}
		}
		if s.put(Stop{}, test.size) || s.put(Stop{}, 0) {
			t.Errorf("more than %d events of %d bytes fit", test.fit, test.size)
		}
		for i := range test.fit {
			if event, err := s.Next(t.Context()); err != nil || event != (MigrationPass{Pass: i}) {
				t.Fatalf("event %d is %v, %v", i, event, err)
			}
		}
		for range 2 {
			if _, err := s.Next(t.Context()); !errors.Is(err, ErrOverflow) {
				t.Errorf("after the last: %v, want ErrOverflow", err)
			}
		}
	}
}
