package nvram

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// Kind says what a pool is made of, and with it how a store becomes persistent.
type Kind string

// The kinds of pool. Their values are the ones in configuration files; layout.go maps them to bytes.
const (
	KindShm    Kind = "shm"    // tmpfs or hugetlbfs: survives every process, not the host
	KindFSDAX  Kind = "fsdax"  // a directory or file on ext4/xfs mounted with -o dax
	KindDevDAX Kind = "devdax" // /dev/daxX.Y
	KindFile   Kind = "file"   // an ordinary file system; a fence is an msync
)

// ParseKind reads the name of a kind.
func ParseKind(s string) (Kind, error) {
	switch k := Kind(s); k {
	case KindShm, KindFSDAX, KindDevDAX, KindFile:
		return k, nil
	}
	return "", fmt.Errorf("unknown kind of pool %q; use shm, fsdax, devdax or file", s)
}

// Layout says how the regions lie in a pool.
type Layout string

// The layouts. LayoutSingle needs a QEMU (8.1 or newer) that can map a file at an offset.
const (
	LayoutDirectory Layout = "directory" // one file a region, and the file nvram.meta
	LayoutSingle    Layout = "single"    // one device or file that holds the metadata and all regions
)

// Use says what a region is for.
type Use string

// The uses of a region.
const (
	UseRAM   Use = "ram"   // guest RAM
	UseState Use = "state" // save slots and records
	UseUser  Use = "user"  // allocated through libnvram
)

// ID identifies a pool or a region for ever: a random UUID.
type ID [16]byte

func newID() ID {
	var id ID
	rand.Read(id[:]) // never fails: crypto/rand ends the process instead
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return id
}

// String gives the usual form of a UUID.
func (id ID) String() string {
	h := hex.EncodeToString(id[:])
	return strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, "-")
}

// ParseID reads the form String writes.
func ParseID(s string) (ID, error) {
	var id ID
	raw, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(raw) != len(id) {
		return id, fmt.Errorf("%q is not a UUID", s)
	}
	copy(id[:], raw)
	if id.String() != s {
		return ID{}, fmt.Errorf("%q is not a UUID in its usual form", s)
	}
	return id, nil
}

// MarshalText gives String.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads what ParseID reads.
func (id *ID) UnmarshalText(text []byte) error {
	v, err := ParseID(string(text))
	if err != nil {
		return err
	}
	*id = v
	return nil
}

// MaxNameLength is the longest name of a region, in bytes.
const MaxNameLength = 63

// MaxRegions is how many regions a pool can hold.
const MaxRegions = 1024

var namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)

// CheckName tells whether a region can have this name: up to 63 letters, digits, '_', '.', '-', the first a letter or a digit.
func CheckName(name string) error {
	if len(name) > MaxNameLength || !namePattern.MatchString(name) {
		return fmt.Errorf("%w %q: use up to %d letters, digits, '_', '.', '-', starting with a letter or a digit",
			ErrInvalidName, name, MaxNameLength)
	}
	return nil
}

// Region is a piece of a pool. Its ID, Path and Offset never change while it exists; its Name can.
type Region struct {
	ID      ID        `json:"id"`
	Name    string    `json:"name"`
	Use     Use       `json:"use"`
	Size    Bytes     `json:"size"`
	Path    string    `json:"path"`   // the file or device that holds it: QEMU's mem-path
	Offset  Bytes     `json:"offset"` // where it starts in Path; 0 in the directory layout
	Created time.Time `json:"created"`
}

// Request asks for one region.
type Request struct {
	Name string
	Size Bytes // rounded up to the pool's unit, 2 MiB
	Use  Use
}

// PoolInfo describes an open pool.
type PoolInfo struct {
	ID          ID        `json:"id"`
	Path        string    `json:"path"`
	Kind        Kind      `json:"kind"`
	Layout      Layout    `json:"layout"`
	Size        Bytes     `json:"size"` // capacity of a single pool, quota of a directory
	Used        Bytes     `json:"used"` // regions, and in a single pool the metadata
	Free        Bytes     `json:"free"`
	LargestFree Bytes     `json:"largest_free"` // the largest region that could be allocated now
	Unit        Bytes     `json:"unit"`         // regions are multiples of this
	Regions     int       `json:"regions"`
	Sequence    uint64    `json:"sequence"` // changes committed since the pool was initialised
	Created     time.Time `json:"created"`
	MapSync     bool      `json:"map_sync"`    // fsdax: the kernel granted MAP_SYNC, so a cache line flush is enough
	Persistence string    `json:"persistence"` // how a store becomes persistent: "clwb", "clflushopt", "clflush", "msync", "none" if opened read-only
}
