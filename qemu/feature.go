package qemu

import (
	"errors"
	"fmt"
)

// ErrNotSupported is what Binary.Has wraps when a QEMU lacks a feature.
var ErrNotSupported = errors.New("not supported by this QEMU")

// Feature is an ability that not every supported QEMU has.
type Feature int

const (
	FeatureIgnoreShared Feature = iota // migration capability x-ignore-shared
	FeatureOffset                      // memory-backend-file,offset=
	FeatureFileURI                     // migrate to a "file:" URI
	FeatureMappedRAM                   // migration capability mapped-ram
	FeatureRunWithUser                 // -run-with user=, successor of -runas
	featureCount
)

// features gives each Feature the name its users know and the first QEMU that
// has it. The version only serves messages; presence is always probed.
var features = [featureCount]struct{ name, since string }{
	FeatureIgnoreShared: {"migration that leaves shared guest RAM in place (x-ignore-shared)", "4.0"},
	FeatureOffset:       {"an offset into the memory file (memory-backend-file offset=)", "8.1"},
	FeatureFileURI:      {"migration to a file (file: URI)", "8.2"},
	FeatureMappedRAM:    {"migration with fixed RAM offsets (mapped-ram)", "9.0"},
	FeatureRunWithUser:  {"changing the user with -run-with user=", "9.1"},
}

func (f Feature) String() string {
	if f < 0 || f >= featureCount {
		return fmt.Sprintf("feature %d", int(f))
	}
	return features[f].name
}

// Since is the first QEMU version with the feature, for messages.
func (f Feature) Since() string {
	if f < 0 || f >= featureCount {
		return "unknown"
	}
	return features[f].since
}

// Has returns nil when this QEMU has the feature, and otherwise an error that is
// ErrNotSupported and says which version brings it.
func (b *Binary) Has(f Feature) error {
	if b.features[f] {
		return nil
	}
	return fmt.Errorf("%s %s has no %s: install QEMU %s or newer: %w", b.Path, b.Version, f, f.Since(), ErrNotSupported)
}
