package api

import (
	"net"
	"sync"
)

// maxConns bounds the open connections. An event stream, a console and a
// following log each hold one; hosts have tens of them, not hundreds.
const maxConns = 512

// limitListener closes new connections at once while max are open.
type limitListener struct {
	net.Listener
	slots chan struct{}
}

func limit(l net.Listener, max int) net.Listener {
	return &limitListener{l, make(chan struct{}, max)}
}

func (l *limitListener) Accept() (net.Conn, error) {
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
