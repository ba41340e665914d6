package nvram

import (
	"bytes"
	"fmt"
)

// Severity tells whether a finding needs anybody.
type Severity string

// A warning heals at the next Open; an error does not, or has cost something.
const (
	SeverityWarning Severity = "warning"
	SeverityError   Severity = "error"
)

// Finding is one inconsistency.
type Finding struct {
	Severity Severity `json:"severity"`
	Where    string   `json:"where"`
	What     string   `json:"what"`
	Remedy   string   `json:"remedy"`
	Err      error    `json:"-"` // for errors.Is; nil for a warning
}

const healsAtOpen = "none needed: the next start of the daemon repairs it"

// recoverTable tells what was committed last, from nothing but the metadata's bytes. It is the only reader of a pool: Open, Check
// and the crash tests all go through it.
//
//	selector sound      the copy with its sequence; the other copy is spare, whatever it holds
//	selector damaged    both copies, if they agree: the pool was at rest
//	selector 0          not initialised, unless the copies prove otherwise
//
// Everything else is refused: which of two tables was the last would be a guess.
func recoverTable(meta []byte) (*table, []Finding, error) {
	if err := checkHead(meta); err != nil {
		return nil, nil, err
	}
	var tables [2]*table
	var errs [2]error
	for i := range tables {
		tables[i], errs[i] = decodeTable(meta[copyOffset(uint64(i)):][:copySize])
		if errs[i] != nil {
			tables[i] = nil
		}
	}
	chosen, err := choose(wire.Uint64(meta[selectorOffset:]), tables, errs)
	if err != nil {
		return nil, nil, err
	}
	return chosen, compare(meta, chosen, errs), nil
}

// checkHead tells a pool from everything else. A head that is damaged, before metadata that is ours, is a pool.
func checkHead(meta []byte) error {
	head := encodeHead()
	if bytes.Equal(meta[:headSize], head) {
		return nil
	}
	if string(meta[:8]) == headMagic {
		version := wire.Uint32(meta[8:])
		if sum := wire.Uint32(meta[12:]); version != formatVersion && sum == headChecksum(meta) {
			return newerVersion(version)
		}
	}
	for i := range uint64(2) {
		if _, err := decodeTable(meta[copyOffset(i):][:copySize]); err == nil {
			return nil
		}
	}
	if blank(meta, head) {
		return &problem{ErrNotPool, "nothing is there", "initialise it with 'nvh nvram init'"}
	}
	return &problem{ErrForeign, "data that is not an NVRAM pool",
		"make sure that nobody needs it, then initialise with --force"}
}

// blank tells whether there is nothing but, at most, a head torn while it was first written.
func blank(meta, head []byte) bool {
	for i := 0; i < headSize; i += 8 {
		if word := meta[i : i+8]; !allZero(word) && !bytes.Equal(word, head[i:i+8]) {
			return false
		}
	}
	return allZero(meta[headSize:metadataSize])
}

func choose(word uint64, tables [2]*table, errs [2]error) (*table, error) {
	sequence, sound := decodeSelector(word)
	if sound {
		for _, i := range [2]uint64{sequence & 1, 1 - sequence&1} {
			if t := tables[i]; t != nil && t.sequence == sequence {
				return t, nil
			}
		}
		return nil, &problem{ErrCorrupt, fmt.Sprintf("neither copy of the table holds the committed change %d (copy 0: %s; copy 1: %s)",
			sequence, describe(tables[0], errs[0]), describe(tables[1], errs[1])), corruptRemedy}
	}
	if word == 0 && unborn(tables) {
		return nil, &problem{ErrNotPool, "its initialisation was cut short", "initialise it again with 'nvh nvram init'"}
	}
	if a, b := tables[0], tables[1]; a != nil && b != nil && bytes.Equal(encodeTable(a), encodeTable(b)) {
		return a, nil
	}
	return nil, &problem{ErrCorrupt, fmt.Sprintf("the selector is damaged and the copies of the table differ (copy 0: %s; copy 1: %s)",
		describe(tables[0], errs[0]), describe(tables[1], errs[1])), corruptRemedy}
}

const corruptRemedy = "keep a copy of it, look at it with 'nvh nvram dump', and initialise it again with --force if its content is lost"

// unborn tells whether the copies are what an initialisation leaves before its commit: no later change, no region.
func unborn(tables [2]*table) bool {
	for _, t := range tables {
		if t != nil && (t.sequence > 1 || len(t.entries) > 0) {
			return false
		}
	}
	return true
}

func describe(t *table, err error) string {
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("change %d", t.sequence)
}

// compare lists what differs from metadata at rest.
func compare(meta []byte, chosen *table, errs [2]error) []Finding {
	var found []Finding
	warn := func(where, what string) {
		found = append(found, Finding{Severity: SeverityWarning, Where: where, What: what, Remedy: healsAtOpen})
	}
	if !bytes.Equal(meta[:headSize], encodeHead()) {
		warn("head", "damaged")
	}
	if wire.Uint64(meta[selectorOffset:]) != selectorWord(chosen.sequence) {
		warn("selector", "damaged")
	}
	want := encodeTable(chosen)
	for i := range uint64(2) {
		switch {
		case bytes.Equal(meta[copyOffset(i):][:len(want)], want):
		case errs[i] != nil:
			warn(fmt.Sprintf("table copy %d", i), errs[i].Error())
		default:
			warn(fmt.Sprintf("table copy %d", i), "holds a change other than the committed one")
		}
	}
	return found
}
