package nvram

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Bytes is a size in bytes. It reads and prints binary units: 1 MiB is 1048576.
type Bytes uint64

// Binary units.
const (
	KiB Bytes = 1 << (10 * (iota + 1))
	MiB
	GiB
	TiB
)

// Alignment is the unit of pools and regions: the size of a huge page on amd64. Every region starts at a multiple of it
// and its size is one. A pool on a device with larger mappings (1 GiB) uses those instead.
const Alignment = 2 * MiB

var byteUnits = []struct {
	size Bytes
	name string
}{{TiB, "TiB"}, {GiB, "GiB"}, {MiB, "MiB"}, {KiB, "KiB"}}

// String gives the size exactly, in the largest unit that divides it: "256 MiB", "4097 B".
func (b Bytes) String() string {
	for _, u := range byteUnits {
		if b >= u.size && b%u.size == 0 {
			return fmt.Sprintf("%d %s", b/u.size, u.name)
		}
	}
	return fmt.Sprintf("%d B", uint64(b))
}

// ParseBytes reads a whole number with an optional binary unit: 4096, 512K, 256M, 2GiB, "1 TiB". Decimal units (MB) are
// refused, because half of the world means something else by them.
func ParseBytes(s string) (Bytes, error) {
	digits := strings.TrimRight(s, "KMGTkmgtiB ")
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("size %q is not a whole number with an optional unit; write it like 4096, 512K, 256M or 2GiB", s)
	}
	unit, err := parseUnit(strings.TrimSpace(s[len(digits):]))
	if err != nil {
		return 0, fmt.Errorf("size %q: %w", s, err)
	}
	if n > math.MaxUint64/uint64(unit) {
		return 0, fmt.Errorf("size %q does not fit into 64 bits; give a smaller one", s)
	}
	return Bytes(n) * unit, nil
}

func parseUnit(s string) (Bytes, error) {
	if s == "" || s == "B" {
		return 1, nil
	}
	for _, u := range byteUnits {
		if strings.EqualFold(s, u.name[:1]) || s == u.name {
			return u.size, nil
		}
	}
	return 0, fmt.Errorf("unknown unit %q; use K, M, G, T or KiB, MiB, GiB, TiB", s)
}

// MarshalText gives String.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// UnmarshalText reads what ParseBytes reads.
func (b *Bytes) UnmarshalText(text []byte) error {
	v, err := ParseBytes(string(text))
	if err != nil {
		return err
	}
	*b = v
	return nil
}

// MarshalJSON gives a plain number, which is what scripts calculate with.
func (b Bytes) MarshalJSON() ([]byte, error) { return strconv.AppendUint(nil, uint64(b), 10), nil }

// UnmarshalJSON accepts a number of bytes or a string that ParseBytes reads.
func (b *Bytes) UnmarshalJSON(data []byte) error {
	var s string
	if json.Unmarshal(data, &s) == nil {
		return b.UnmarshalText([]byte(s))
	}
	var n uint64
	if err := json.Unmarshal(data, &n); err != nil {
		return fmt.Errorf("size %s is neither a number of bytes nor a string such as \"256M\"", data)
	}
	*b = Bytes(n)
	return nil
}

// Set reads the value of a command line flag.
func (b *Bytes) Set(s string) error { return b.UnmarshalText([]byte(s)) }

// Type names the value in the help text of a command line flag.
func (b *Bytes) Type() string { return "size" }

// roundUp gives the smallest multiple of unit that is not below b. Unit is a power of two.
func (b Bytes) roundUp(unit Bytes) Bytes { return (b + unit - 1) &^ (unit - 1) }

// roundDown gives the largest multiple of unit that is not above b. Unit is a power of two.
func (b Bytes) roundDown(unit Bytes) Bytes { return b &^ (unit - 1) }
