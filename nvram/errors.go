package nvram

import (
	"errors"
	"fmt"
)

// What callers decide on. Every error that wraps one of these names the pool and says what to do.
var (
	ErrNotPool      = errors.New("not an NVRAM pool")
	ErrForeign      = errors.New("something else is there")
	ErrTruncated    = errors.New("truncated")
	ErrNewerVersion = errors.New("made by a newer version")
	ErrCorrupt      = errors.New("corrupt")
	ErrFull         = errors.New("full")
	ErrLocked       = errors.New("in use")
	ErrExists       = errors.New("exists already")
	ErrNotFound     = errors.New("no such region")
	ErrInvalidName  = errors.New("invalid region name")
	ErrReadOnly     = errors.New("opened read-only")
	ErrReplaced     = errors.New("replaced by another file")
	ErrUnhealthy    = errors.New("memory that cannot be trusted")
)

// problem is an error with a remedy kept apart, so that Check can print the two in columns.
type problem struct {
	kind   error // one of the sentinels
	detail string
	remedy string
}

func (p *problem) Error() string {
	s := p.kind.Error()
	if p.detail != "" {
		s += ": " + p.detail
	}
	if p.remedy != "" {
		s += "; " + p.remedy
	}
	return s
}

func (p *problem) Unwrap() error { return p.kind }

func inPool(path string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("nvram pool %s: %w", path, err)
}
