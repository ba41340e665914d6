package connlimit_test

import (
	"io"
	"net"
	"testing"

	"go.uber.org/goleak"

	"github.com/nv-hypervisor/nv-hypervisor/internal/connlimit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The connection above the limit is closed; one that ends makes room for the next.
func TestLimit(t *testing.T) {
	below, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := connlimit.New(below, 1)
	defer l.Close()
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", below.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	accepted := make(chan net.Conn)
	go func() {
		defer close(accepted)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	dial()
	first := <-accepted
	if connlimit.Unwrap(first) == first {
		t.Error("the connection is not wrapped")
	}
	if _, err := dial().Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("a second connection: %v, want it closed", err)
	}
	first.Close()
	first.Close() // gives back no second slot
	dial()
	third := <-accepted
	if _, err := dial().Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("a fourth connection: %v, want it closed", err)
	}
	third.Close()
	l.Close()
	for range accepted {
	}
}
