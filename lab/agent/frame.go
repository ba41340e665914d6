package agent

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// frame is one line on the wire. Which fields are set says what it is.
type frame struct {
	Session string `json:"session"`

	// From the outside.
	Run   *Command `json:"run,omitempty"`   // begins the session
	Query bool     `json:"query,omitempty"` // begins the session: asks for the report
	Stdin []byte   `json:"stdin,omitempty"`
	EOF   bool     `json:"eof,omitempty"` // no more stdin

	// From the inside. Exit, Report and Error end the session.
	Stdout []byte          `json:"stdout,omitempty"`
	Stderr []byte          `json:"stderr,omitempty"`
	Exit   *int            `json:"exit,omitempty"`
	Report json.RawMessage `json:"report,omitempty"`
	Error  string          `json:"error,omitempty"`
}

// Command is a program to run inside.
type Command struct {
	Args []string `json:"args"`          // the program, looked up in the agent's PATH, and its arguments
	Env  []string `json:"env,omitempty"` // added to the agent's environment, NAME=value
	Dir  string   `json:"dir,omitempty"` // empty: /
}

// maxPayload is how much data one frame carries; maxLine bounds a frame with base64 and the rest.
const (
	maxPayload = 32 << 10
	maxLine    = 1 << 20
)

// frameWriter writes the frames of one session, whole, from several goroutines.
type frameWriter struct {
	w       io.Writer
	session string

	mu    sync.Mutex
	begun bool // guarded by mu
}

func (w *frameWriter) write(f frame) error {
	f.Session = w.session
	line, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("encode a frame: %w", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.begun { // an earlier session may have been cut off in the middle of a line
		line = append([]byte{'\n'}, line...)
		w.begun = true
	}
	_, err = w.w.Write(append(line, '\n'))
	return err
}

// errLine is a line that is no frame: a torn one, of a session that was cut off.
var errLine = errors.New("not a frame")

// frameReader reads frames.
type frameReader struct{ lines *bufio.Reader }

func newFrameReader(r io.Reader) *frameReader {
	return &frameReader{lines: bufio.NewReaderSize(r, 64<<10)}
}

// next returns the next frame, or errLine and goes on behind it.
func (r *frameReader) next() (frame, error) {
	var line []byte
	for {
		part, err := r.lines.ReadSlice('\n')
		line = append(line, part...)
		if err == nil {
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return frame{}, err
		}
		if len(line) > maxLine {
			line = line[:0] // its end will be no frame either
		}
	}
	var f frame
	if err := json.Unmarshal(bytes.TrimSpace(line), &f); err != nil || f.Session == "" {
		return frame{}, errLine
	}
	return f, nil
}
