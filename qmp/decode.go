package qmp

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// MaxLine is the longest line, in bytes, accepted from QEMU. The longest known
// in practice, query-qmp-schema, is about 200 KiB; the limit keeps a QEMU taken
// over by its guest from filling this process's memory.
const MaxLine = 64 << 20

// keepLine is the largest line buffer kept for the next line.
const keepLine = 1 << 20

// lineReader cuts a stream into lines of up to limit bytes, however the bytes arrive. A
// longer line is noticed when its end or another full buffer has come.
type lineReader struct {
	source *bufio.Reader
	limit  int
	long   []byte // a line that did not fit source's buffer
}

func newLineReader(source io.Reader, limit int) *lineReader {
	return &lineReader{source: bufio.NewReaderSize(source, 16<<10), limit: limit}
}

// next returns the next line without its end. It is valid until the next call.
// The error is io.EOF only where a line would begin, io.ErrUnexpectedEOF within one.
func (r *lineReader) next() ([]byte, error) {
	if cap(r.long) > keepLine {
		r.long = nil
	}
	r.long = r.long[:0]
	for {
		part, err := r.source.ReadSlice('\n')
		if len(r.long)+len(part) > r.limit {
			return nil, ErrLineTooLong
		}
		switch {
		case err == nil && len(r.long) == 0:
			return bytes.TrimRight(part, "\r\n"), nil
		case err == nil:
			r.long = append(r.long, part...)
			return bytes.TrimRight(r.long, "\r\n"), nil
		case errors.Is(err, bufio.ErrBufferFull):
			r.long = append(r.long, part...)
		case errors.Is(err, io.EOF) && len(r.long)+len(part) > 0:
			return nil, fmt.Errorf("%w after %d bytes of a line", io.ErrUnexpectedEOF, len(r.long)+len(part))
		default:
			return nil, err
		}
	}
}

// kind tells the four messages apart that QEMU sends.
type kind int

const (
	kindGreeting kind = iota + 1
	kindReturn
	kindError
	kindEvent
)

// message is one line from QEMU.
type message struct {
	kind     kind
	id       string // of a return or error; "" when QEMU gave none or one that is no string
	greeting Greeting
	result   json.RawMessage // of a return
	refusal  Error           // of an error, without its Command
	event    Event
}

// envelope holds the members of all messages; which are present decides the kind.
type envelope struct {
	Greeting  json.RawMessage `json:"QMP"`
	Return    json.RawMessage `json:"return"`
	Error     json.RawMessage `json:"error"`
	Event     json.RawMessage `json:"event"`
	Data      json.RawMessage `json:"data"`
	ID        json.RawMessage `json:"id"`
	Timestamp *timestamp      `json:"timestamp"`
}

type timestamp struct {
	Seconds      int64 `json:"seconds"`
	Microseconds int64 `json:"microseconds"`
}

// time returns the zero time when QEMU could not tell (it then sends -1) or did not.
func (t *timestamp) time() time.Time {
	if t == nil || t.Seconds < 0 || t.Microseconds < 0 {
		return time.Time{}
	}
	return time.Unix(t.Seconds, t.Microseconds*int64(time.Microsecond))
}

// decodeMessage reads one line. Every error is an ErrProtocol.
func decodeMessage(line []byte) (message, error) {
	var e envelope
	if err := json.Unmarshal(line, &e); err != nil {
		return message{}, violation(line, err)
	}
	members := 0
	for _, member := range []json.RawMessage{e.Greeting, e.Return, e.Error, e.Event} {
		if member != nil {
			members++
		}
	}
	if members != 1 {
		return message{}, violation(line, errors.New("not one of greeting, return, error, event"))
	}
	m, err := e.message()
	if err != nil {
		return message{}, violation(line, err)
	}
	return m, nil
}

func (e *envelope) message() (message, error) {
	switch {
	case e.Greeting != nil:
		m := message{kind: kindGreeting}
		return m, json.Unmarshal(e.Greeting, &m.greeting)
	case e.Event != nil:
		var name string
		if err := json.Unmarshal(e.Event, &name); err != nil || name == "" {
			return message{}, errors.New("event without a name")
		}
		return message{kind: kindEvent, event: decodeEvent(name, e.Timestamp.time(), e.Data)}, nil
	case e.Error != nil:
		m := message{kind: kindError, id: decodeID(e.ID)}
		return m, json.Unmarshal(e.Error, &m.refusal)
	default:
		return message{kind: kindReturn, id: decodeID(e.ID), result: e.Return}, nil
	}
}

func decodeID(raw json.RawMessage) string {
	var id string
	if json.Unmarshal(raw, &id) != nil {
		return ""
	}
	return id
}

// violation quotes the beginning of the line: enough to see what was sent.
func violation(line []byte, reason error) error {
	const quoted = 120
	more := ""
	if len(line) > quoted {
		more = fmt.Sprintf("… (%d bytes)", len(line))
		line = line[:quoted]
	}
	return fmt.Errorf("%w: %w in %q%s", ErrProtocol, reason, line, more)
}
