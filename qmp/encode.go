package qmp

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// The two verbs of the protocol: in band, and out of band.
const (
	verbInBand    = "execute"
	verbOutOfBand = "exec-oob"
)

// idPrefix precedes the id in every encoded command. The id comes first so that
// its place in the line is known and it can be replaced there.
const idPrefix = `{"id":`

// Encode returns one complete command line, newline included, for callers that
// keep their commands as bytes. The arguments must encode as a JSON object; nil
// means none.
func Encode(id, command string, args any) ([]byte, error) {
	return encode(verbInBand, id, command, args)
}

func encode(verb, id, command string, args any) ([]byte, error) {
	if command == "" {
		return nil, errors.New("qmp: command without a name")
	}
	arguments, err := encodeArguments(args)
	if err != nil {
		return nil, fmt.Errorf("qmp: %s: arguments: %w", command, err)
	}
	quotedID, err := json.Marshal(id)
	if err != nil {
		return nil, fmt.Errorf("qmp: %s: id: %w", command, err)
	}
	quotedCommand, err := json.Marshal(command)
	if err != nil {
		return nil, fmt.Errorf("qmp: %s: name: %w", command, err)
	}
	var line bytes.Buffer
	line.WriteString(idPrefix)
	line.Write(quotedID)
	fmt.Fprintf(&line, `,%q:`, verb)
	line.Write(quotedCommand)
	if arguments != nil {
		line.WriteString(`,"arguments":`)
		line.Write(arguments)
	}
	line.WriteString("}\n")
	return line.Bytes(), nil
}

// encodeArguments returns nil for no arguments, which a nil map or pointer means too.
func encodeArguments(args any) ([]byte, error) {
	if args == nil {
		return nil, nil
	}
	encoded, err := json.Marshal(args)
	if err != nil {
		return nil, err
	}
	if string(encoded) == "null" {
		return nil, nil
	}
	if encoded[0] != '{' {
		return nil, fmt.Errorf("%T does not encode as a JSON object", args)
	}
	return encoded, nil
}
