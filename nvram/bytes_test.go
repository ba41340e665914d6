package nvram

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParseBytes(t *testing.T) {
	for text, want := range map[string]Bytes{
		"0": 0, "4096": 4096, "7B": 7, "512K": 512 * KiB, "256M": 256 * MiB, "256m": 256 * MiB, "1G": GiB, "2GiB": 2 * GiB, "1 TiB": TiB, "3 KiB": 3 * KiB,
	} {
		if got, err := ParseBytes(text); err != nil || got != want {
			t.Errorf("%q is %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "M", "-1", "+1", "1.5G", "0x10", "1MB", "1 M B", "1kib", "1e3", "18446744073709551616", "16777216T", "1G2", "M1", "１"} {
		if got, err := ParseBytes(text); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}

func TestBytesComeBackFromTextAndJSON(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		b := Bytes(rapid.Uint64().Draw(r, "bytes")) << rapid.IntRange(0, 40).Draw(r, "shift")
		var fromText, fromJSON Bytes
		text, _ := b.MarshalText()
		data, err := json.Marshal(map[string]Bytes{"size": b})
		if err != nil {
			r.Fatal(err)
		}
		var object map[string]Bytes
		if err := errors.Join(fromText.Set(string(text)), json.Unmarshal(data, &object)); err != nil {
			r.Fatal(err)
		}
		if fromJSON = object["size"]; fromText != b || fromJSON != b {
			r.Fatalf("%d came back as %d and %d", b, fromText, fromJSON)
		}
	})
	var b Bytes
	if err := json.Unmarshal([]byte(`"256M"`), &b); err != nil || b != 256*MiB || b.String() != "256 MiB" {
		t.Errorf("it is %v, %v", b, err)
	}
	for _, bad := range []string{`-1`, `1.5`, `"x"`, `{}`, `true`} {
		if json.Unmarshal([]byte(bad), &b) == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
}

func TestIDsComeBack(t *testing.T) {
	id := newID()
	text := id.String()
	again, err := ParseID(text)
	if err != nil || again != id || len(text) != 36 || text[14] != '4' {
		t.Errorf("%s came back as %s, %v", text, again, err)
	}
	for _, bad := range []string{"", text[1:], strings.ToUpper(ID{0xab}.String()), strings.ReplaceAll(text, "-", ""), text + "0"} {
		if _, err := ParseID(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestParseKind(t *testing.T) {
	for kind := range kindCodes {
		if got, err := ParseKind(string(kind)); err != nil || got != kind {
			t.Errorf("%q is %q, %v", kind, got, err)
		}
	}
	if _, err := ParseKind("tape"); err == nil {
		t.Error("a tape was accepted")
	}
}
