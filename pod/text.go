package pod

import "fmt"

// UnmarshalText implements encoding.TextUnmarshaler.
func (t *Tier) UnmarshalText(text []byte) error { return find(t, text, Emergency, Battery, Planned) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (c *Condition) UnmarshalText(text []byte) error {
	return find(c, text, Unknown, Mains, OnBattery, LowBattery, Going)
}

// find sets to to the one of values that is called text.
func find[T fmt.Stringer](to *T, text []byte, values ...T) error {
	for _, v := range values {
		if v.String() == string(text) {
			*to = v
			return nil
		}
	}
	return fmt.Errorf("%q is none of %v", text, values)
}
