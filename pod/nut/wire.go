package nut

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
)

// maxLine is the longest line accepted from upsd, in bytes with its end. NUT's own buffer for an answer has 512.
const maxLine = 4096

// Errors of lines.
var (
	errTooLong = fmt.Errorf("a line of more than %d bytes", maxLine)
	errCut     = errors.New("the connection ended within a line")
)

// newLines makes the reader that readLine needs.
func newLines(from io.Reader) *bufio.Reader { return bufio.NewReaderSize(from, maxLine) }

// readLine returns the next line without its end. The error is io.EOF only where a line would begin.
func readLine(from *bufio.Reader) (string, error) {
	line, err := from.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return "", errTooLong
	case errors.Is(err, io.EOF) && len(line) > 0:
		return "", errCut
	case err != nil:
		return "", err
	}
	return strings.TrimRight(string(line), "\r\n"), nil
}

// split cuts a line into words: separated by spaces, or quoted, as RFC 9271 section 4.1 has it. A backslash takes the
// next character as it is, within quotes and without.
func split(line string) ([]string, error) {
	var (
		words  []string
		word   strings.Builder
		inside bool // a word, be it empty
		quoted bool
	)
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case c < ' ' && c != '\t' || c == 0x7f:
			return nil, fmt.Errorf("control character %#02x", c)
		case c == '\\':
			i++
			if i == len(line) {
				return nil, errors.New("nothing follows the last backslash")
			}
			if c = line[i]; c < ' ' && c != '\t' || c == 0x7f {
				return nil, fmt.Errorf("control character %#02x", c)
			}
			word.WriteByte(c)
			inside = true
		case c == '"':
			quoted = !quoted
			inside = true
		case (c == ' ' || c == '\t') && !quoted:
			if inside {
				words = append(words, word.String())
			}
			word.Reset()
			inside = false
		default:
			word.WriteByte(c)
			inside = true
		}
	}
	if quoted {
		return nil, errors.New("a quoted word has no end")
	}
	if inside {
		words = append(words, word.String())
	}
	return words, nil
}

// join writes words as a line with its end, which split and upsd read back as the same words.
func join(words []string) (string, error) {
	var line strings.Builder
	for i, word := range words {
		if i > 0 {
			line.WriteByte(' ')
		}
		if strings.ContainsFunc(word, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return "", errors.New("a word with a control character cannot be sent")
		}
		if word != "" && !strings.ContainsAny(word, " \"\\#=") {
			line.WriteString(word)
			continue
		}
		line.WriteByte('"')
		for _, c := range []byte(word) {
			if c == '"' || c == '\\' || c == '#' { // what NUT's own parser needs escaped
				line.WriteByte('\\')
			}
			line.WriteByte(c)
		}
		line.WriteByte('"')
	}
	line.WriteByte('\n')
	if line.Len() > maxLine {
		return "", errTooLong
	}
	return line.String(), nil
}
