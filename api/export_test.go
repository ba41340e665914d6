package api

import (
	"time"
)

// Cause is an entry of the table of causes.
type Cause = cause

// Causes returns the table.
func Causes() []Cause { return causes }

// ShortenTimeouts makes tests of slow clients quick.
func ShortenTimeouts(s *Server) {
	s.headerTimeout = 2 * time.Second // a busy machine keeps honest clients waiting, too
	s.bodyTimeout = 2 * time.Second   // a busy machine keeps honest clients waiting, too
	s.heartbeat = 50 * time.Millisecond
}

// Access is who is served.
type Access = access

// Peer is who asks.
type Peer = peer

// Check tells whether p is served.
func (a access) Check(p Peer) error { return a.check(p) }

// MaxHistory is the number of events that are kept.
const MaxHistory = maxHistory

// DecodeStrict is what request bodies go through.
func DecodeStrict(p []byte, v any) error { return decodeStrict(p, v) }
