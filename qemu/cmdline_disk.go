package qemu

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// protocol begins the name of an image that is not a file of this host.
var protocol = regexp.MustCompile(`^[a-z][a-z0-9+]+:`)

// shortDriveHandler is a handler of -hda and its kin, which are -drive for short.
func shortDriveHandler(parameters string) func(*parser, string) error {
	return func(p *parser, path string) error {
		return p.drive("file=" + escape(path) + "," + parameters)
	}
}

// drive reads -drive, pins the image's format and gives it a cache mode.
func (p *parser) drive(value string) error {
	parameters := splitOptions(value)
	if on, _ := lookup(parameters, "snapshot"); on == "on" {
		return fmt.Errorf("-drive %s: snapshot=on is not possible: the guest would resume without what it had written", value)
	}
	path, ok := lookup(parameters, "file")
	if !ok || path == "" {
		p.keep("-drive", value)
		return nil
	}
	if protocol.MatchString(path) && !strings.HasPrefix(path, "file:") {
		p.note("disk %s is not a file of this host: nobody can check that it is the same after an outage", path)
		p.keep("-drive", value)
		return nil
	}
	path, err := filepath.Abs(strings.TrimPrefix(path, "file:"))
	if err != nil {
		return fmt.Errorf("-drive %s: %w", value, err)
	}
	disk := Disk{Path: path, Cache: driveCache(parameters), ReadOnly: driveReadOnly(parameters)}
	disk.Format, ok = lookup(parameters, "format")
	parameters = replace(parameters, "file", path)
	if !ok {
		disk.Format = detectFormat(path)
		parameters = append(parameters, parameter{"format", disk.Format})
	}
	if disk.Cache == "" {
		disk.Cache = DefaultCache
		if disk.ReadOnly {
			disk.Cache = "writeback" // nothing is written
		} else {
			parameters = append(parameters, parameter{"cache", DefaultCache})
			p.note("disk %s gets cache=%s: completed writes must survive a power cut", path, DefaultCache)
		}
	}
	p.guest.Disks = append(p.guest.Disks, disk)
	p.keep("-drive", joinOptions(parameters))
	return nil
}

// replace sets the last value of a key, which is the one that counts.
func replace(parameters []parameter, key, value string) []parameter {
	replaced := slices.Clone(parameters)
	for i := len(replaced) - 1; i >= 0; i-- {
		if replaced[i].key == key {
			replaced[i].value = value
			break
		}
	}
	return replaced
}

// driveCache is the cache mode that a -drive asks for; empty: none given.
func driveCache(parameters []parameter) string {
	if mode, ok := lookup(parameters, "cache"); ok {
		if mode == "off" {
			return "none"
		}
		return mode
	}
	return cacheOf(parameters, "cache.")
}

// cacheOf names the mode that separate cache parameters amount to; empty: none given.
func cacheOf(parameters []parameter, prefix string) string {
	direct, given := lookup(parameters, prefix+"direct")
	noFlush, _ := lookup(parameters, prefix+"no-flush")
	switch {
	case noFlush == "on":
		return "unsafe"
	case direct == "on":
		return "none"
	case given:
		return "writeback"
	default:
		return ""
	}
}

func driveReadOnly(parameters []parameter) bool {
	media, _ := lookup(parameters, "media")
	for _, key := range []string{"readonly", "read-only"} {
		if on, _ := lookup(parameters, key); on == "on" {
			return true
		}
	}
	return media == "cdrom"
}

// detectFormat decides once what QEMU would otherwise guess at every start, from
// bytes that the guest itself may have written.
func detectFormat(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return "raw" // Pin says what is wrong with the file
	}
	defer f.Close()
	magic := make([]byte, len(qcow2Magic))
	if _, err := io.ReadFull(f, magic); err == nil && string(magic) == qcow2Magic {
		return "qcow2"
	}
	return "raw"
}
