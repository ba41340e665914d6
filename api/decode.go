package api

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/internal/strictjson"
)

const (
	// maxBody bounds a request's body. The largest honest one is a definition
	// with a long kernel command line and many disks: some tens of KiB.
	maxBody = 1 << 20
	// bodyTimeout is how long a client may take to send its body.
	bodyTimeout = 10 * time.Second
)

// decode reads the body of r into v strictly. An empty body leaves v as it is
// when mayBeEmpty is set.
func (s *Server) decode(w http.ResponseWriter, r *http.Request, v any, mayBeEmpty bool) error {
	body, err := s.readBody(w, r)
	if err != nil {
		return err
	}
	if len(body) == 0 && mayBeEmpty {
		return nil
	}
	return decodeStrict(body, v)
}

func (s *Server) readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	control := http.NewResponseController(w)
	control.SetReadDeadline(time.Now().Add(s.bodyTimeout))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, fmt.Errorf("%w: the body is over %d bytes", ErrTooLarge, tooLarge.Limit)
	}
	if err != nil {
		return nil, invalid("the body could not be read: %v", err)
	}
	// Without this the deadline would strike in the middle of the verb.
	control.SetReadDeadline(time.Time{})
	return body, nil
}

// decodeStrict decodes exactly one JSON value and nothing that is doubtful.
func decodeStrict(p []byte, v any) error {
	if err := strictjson.Decode(p, v); err != nil {
		return invalid("%v", err)
	}
	return nil
}
