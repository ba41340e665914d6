// Package policy holds the rules of this code base that a compiler does not know: who may import whom, what may not
// be written, and which documents must say what the code says. They are tests, so a change that breaks one fails.
//
// A rule looks at a tree of files and lists its violations. Each brings examples of small trees that break it,
// and fails when it lets one of them pass: no rule here is unable to fail. To see them all: go test -v ./internal/policy
//
// The tables that a change of the code base edits: rooms (a new package), confined (a new dependency, or a use of
// something sharp), hotFiles (the path from an outage to its commit).
package policy
