// Package agent runs commands inside an emulated host for somebody outside, over virtio serial ports.
//
// A port is a plain stream of bytes that has one client at a time and tells neither side reliably when the other
// has gone: bytes of a client that was killed can be followed directly by those of the next. So both sides write
// whole lines, each a JSON object with the session it belongs to. A session is one command; a line of another
// session, or half a line, is dropped. A client that begins a session ends the one that its forerunner
// left on the port, and the command of that one is killed. Therefore a client may die at any moment and the next
// finds a working port. Sessions on different ports do not know of each other.
//
// Serve is the inside, Client the outside.
package agent

import "fmt"

// Ports is how many ports a host has: how many commands can run at once.
const Ports = 6

// PortName names a port: the name of the virtio serial port inside, and with ".sock" that of the socket outside.
func PortName(n int) string { return fmt.Sprintf("nvh.lab.%d", n) }
