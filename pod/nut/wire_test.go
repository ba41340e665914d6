package nut

import (
	"bufio"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSplit(t *testing.T) {
	for line, want := range map[string][]string{
		``:                           nil,
		`   `:                        nil,
		`OK`:                         {"OK"},
		`  a  b	c `:                  {"a", "b", "c"},
		`VAR u ups.status "OL CHRG"`: {"VAR", "u", "ups.status", "OL CHRG"},
		`VAR u x ""`:                 {"VAR", "u", "x", ""},
		`"" ""`:                      {"", ""},
		`a"b c"d`:                    {"ab cd"},
		`"say \"hi\" \\ \#1"`:        {`say "hi" \ #1`},
		`a\ b`:                       {"a b"},
		`UPS u "Überwachung \"ö\""`:  {"UPS", "u", `Überwachung "ö"`},
		"\xff\xfe":                   {"\xff\xfe"},
		`ERR DATA-STALE`:             {"ERR", "DATA-STALE"},
		`a#b=c`:                      {"a#b=c"},
	} {
		got, err := split(line)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("split(%q) = %q, %v; want %q", line, got, err, want)
		}
	}
	for line, says := range map[string]string{
		`VAR u x "OL`:   "no end",
		`"`:             "no end",
		`"\"`:           "no end",
		`x\`:            "last backslash",
		`"x\`:           "last backslash",
		"a\x00b":        "control character 0x00",
		"\"a\x1b[2Jb\"": "control character 0x1b",
		"a\\\x07":       "control character 0x07",
		"\x7f":          "control character 0x7f",
	} {
		if words, err := split(line); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("split(%q) = %q, %v; want an error that says %q", line, words, err, says)
		}
	}
}

func TestJoin(t *testing.T) {
	got, err := join([]string{"PASSWORD", `a "b" c\d #e=f`, "", "x=y"})
	if want := `PASSWORD "a \"b\" c\\d \#e=f" "" "x=y"` + "\n"; err != nil || got != want {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
	for _, words := range [][]string{{"a\nLOGOUT"}, {"a", "\x00"}, {strings.Repeat("x", maxLine)}} {
		if line, err := join(words); err == nil {
			t.Errorf("join of %.20q... = %.20q", words, line)
		}
	}
}

func TestReadLine(t *testing.T) {
	long := strings.Repeat("x", maxLine-1)
	r := newLines(iotestOneByte{strings.NewReader("OK\r\n\n" + long + "\nhalf")})
	for _, want := range []string{"OK", "", long} {
		if got, err := readLine(r); err != nil || got != want {
			t.Fatalf("%.20q, %v; want %.20q", got, err, want)
		}
	}
	if line, err := readLine(r); !errors.Is(err, errCut) {
		t.Errorf("half a line: %q, %v", line, err)
	}
	if line, err := readLine(newLines(strings.NewReader(long + "x\n"))); !errors.Is(err, errTooLong) {
		t.Errorf("a line too long: %.20q, %v", line, err)
	}
	if line, err := readLine(newLines(strings.NewReader(""))); !errors.Is(err, io.EOF) {
		t.Errorf("nothing: %q, %v", line, err)
	}
}

// iotestOneByte gives a byte a read: lines arrive as the network likes.
type iotestOneByte struct{ io.Reader }

func (r iotestOneByte) Read(p []byte) (int, error) { return r.Reader.Read(p[:min(1, len(p))]) }

// Whatever comes, split neither fails otherwise than by its error nor makes words that join could not write back.
func FuzzSplit(f *testing.F) {
	for _, seed := range []string{`VAR u ups.status "OL CHRG"`, `"a \"b\" \\ \#"`, `x\`, `"`, "", "a\x00", `"" b""c`, "\xff \"\xc3\""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		words, err := split(line)
		if err != nil {
			return
		}
		for _, word := range words {
			if strings.ContainsRune(word, '\t') {
				return // read within quotes, never written
			}
		}
		again, err := join(words)
		if err != nil {
			if len(line) < maxLine/2 {
				t.Fatalf("join(%q): %v", words, err)
			}
			return
		}
		got, err := split(strings.TrimSuffix(again, "\n"))
		if err != nil {
			t.Fatalf("split(%q): %v", again, err)
		}
		if diff := cmp.Diff(words, got); diff != "" {
			t.Fatalf("%q written as %q and read back: %s", line, again, diff)
		}
	})
}

// What join writes, split reads, and it is one line.
func FuzzJoin(f *testing.F) {
	f.Add("PASSWORD", `a "b" c\d #e=f`)
	f.Add("", "")
	f.Add("a=b", "\xff")
	f.Add("\n", "\t")
	f.Fuzz(func(t *testing.T, a, b string) {
		line, err := join([]string{a, b})
		if err != nil {
			return
		}
		read, err := readLine(bufio.NewReaderSize(strings.NewReader(line+"next"), maxLine))
		if err != nil {
			t.Fatalf("readLine of %q: %v", line, err)
		}
		got, err := split(read)
		if err != nil || !slices.Equal(got, []string{a, b}) {
			t.Fatalf("%q and %q written as %q and read as %q, %v", a, b, line, got, err)
		}
	})
}
