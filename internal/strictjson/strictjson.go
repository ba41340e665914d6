// Package strictjson decodes JSON from clients that are not trusted. Beyond encoding/json it refuses unknown fields,
// anything after the value, text that is not UTF-8, which Go would replace silently, keys given twice, of which the
// last would win, and nesting deeper than 64.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// maxDepth bounds the nesting of JSON. QMP commands are the deepest we know; blockdev trees stay under ten.
const maxDepth = 64

// Decode decodes exactly one JSON value into v.
func Decode(p []byte, v any) error {
	if !utf8.Valid(p) {
		return errors.New("the JSON is not valid UTF-8")
	}
	if err := checkShape(p); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(p))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
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
			return fmt.Errorf("JSON: %w", whatEnded(err))
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
			return fmt.Errorf("JSON nested deeper than %d", maxDepth)
		}
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("something follows the JSON value")
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
			return fmt.Errorf("JSON key %q is given twice", key)
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
