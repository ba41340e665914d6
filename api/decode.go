package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
	"unicode/utf8"
)

const (
	// maxBody bounds a request's body. The largest honest one is a definition
	// with a long kernel command line and many disks: some tens of KiB.
	maxBody = 1 << 20
	// maxDepth bounds the nesting of JSON. QMP commands are the deepest we
	// know; blockdev trees stay under ten.
	maxDepth = 64
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

// decodeStrict decodes exactly one JSON value. Beyond encoding/json it refuses
// invalid UTF-8, which Go would replace silently, and keys given twice, of
// which the last would win.
func decodeStrict(p []byte, v any) error {
	if !utf8.Valid(p) {
		return invalid("the JSON is not valid UTF-8")
	}
	if err := checkShape(p); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(p))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return invalid("%v", err)
	}
	return nil
}

// frame is one open object or array of the JSON being checked.
type frame struct {
	keys  map[string]bool // nil for an array
	isKey bool            // the next token is a key
}

// checkShape walks the tokens of one JSON value and checks its depth, that no
// object has a key twice, and that nothing follows it.
func checkShape(p []byte) error {
	d := json.NewDecoder(bytes.NewReader(p))
	var open []frame
	for first := true; first || len(open) > 0; first = false {
		token, err := d.Token()
		if err != nil {
			return invalid("JSON: %v", whatEnded(err))
		}
		if token == json.Delim('}') || token == json.Delim(']') {
			open = open[:len(open)-1]
			continue
		}
		if err := noteKey(open, token); err != nil {
			return err
		}
		switch token {
		case json.Delim('{'):
			open = append(open, frame{keys: map[string]bool{}, isKey: true})
		case json.Delim('['):
			open = append(open, frame{})
		}
		if len(open) > maxDepth {
			return invalid("JSON nested deeper than %d", maxDepth)
		}
	}
	if _, err := d.Token(); err != io.EOF {
		return invalid("something follows the JSON value")
	}
	return nil
}

// noteKey records token in the innermost open object, as a key or as its value.
func noteKey(open []frame, token json.Token) error {
	if len(open) == 0 || open[len(open)-1].keys == nil {
		return nil
	}
	f := &open[len(open)-1]
	if f.isKey {
		key := token.(string)
		if f.keys[key] {
			return invalid("JSON key %q is given twice", key)
		}
		f.keys[key] = true
	}
	f.isKey = !f.isKey
	return nil
}

func whatEnded(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return errors.New("it ends too early")
	}
	return err
}
