// Package connlimit bounds how many connections of a listener are open at once, so that clients that only connect cost a
// server a known amount.
package connlimit

import (
	"net"
	"sync"
)

// limited closes new connections at once while all slots are taken.
type limited struct {
	net.Listener
	slots chan struct{}
}

// New returns a listener that has at most max connections open. What comes above that is closed at once.
func New(l net.Listener, max int) net.Listener {
	return &limited{l, make(chan struct{}, max)}
}

func (l *limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.slots <- struct{}{}:
			return &trackedConn{Conn: c, release: func() { <-l.slots }}, nil
		default:
			c.Close()
		}
	}
}

// trackedConn gives its slot back when it is closed, once.
type trackedConn struct {
	net.Conn
	once    sync.Once
	release func()
}

func (c *trackedConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(c.release)
	return err
}

// Unwrap returns the connection that the listener below had accepted.
func Unwrap(c net.Conn) net.Conn {
	if t, ok := c.(*trackedConn); ok {
		return t.Conn
	}
	return c
}
