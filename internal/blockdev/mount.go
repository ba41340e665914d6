package blockdev

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Mount is a mounted file system.
type Mount struct {
	Path    string   `json:"path"`   // where it is mounted
	Type    string   `json:"type"`   // "ext4"
	Source  string   `json:"source"` // "/dev/pmem0"
	Options []string `json:"options"`
}

// Has tells whether the file system is mounted with an option: "dax", or "dax=always", by its whole word.
func (m Mount) Has(option string) bool { return slices.Contains(m.Options, option) }

// MountOf finds the file system with this device number among the mounts of the process.
func MountOf(root string, dev uint64) (Mount, error) {
	text, err := os.ReadFile(filepath.Join(root, "proc/self/mountinfo"))
	if err != nil {
		return Mount{}, err
	}
	var found Mount
	for line := range strings.Lines(string(text)) {
		if m, at, ok := parseMount(line); ok && at == dev {
			found = m // the last one lies on top
		}
	}
	if found.Path == "" {
		return Mount{}, fmt.Errorf("no file system %s is mounted", number(dev))
	}
	return found, nil
}

// parseMount reads a line of /proc/self/mountinfo, see proc_pid_mountinfo(5):
//
//	36 35 98:0 /root /mnt rw,noatime master:1 - ext4 /dev/pmem0 rw,dax=always
//
// The options are those of the mount and those of the file system.
func parseMount(line string) (m Mount, dev uint64, ok bool) {
	mount, super, ok := strings.Cut(strings.TrimSpace(line), " - ")
	left, right := strings.Fields(mount), strings.Fields(super)
	if !ok || len(left) < 6 || len(right) < 2 {
		return Mount{}, 0, false
	}
	major, minor, _ := strings.Cut(left[2], ":")
	a, errA := strconv.ParseUint(major, 10, 32)
	b, errB := strconv.ParseUint(minor, 10, 32)
	if errA != nil || errB != nil {
		return Mount{}, 0, false
	}
	m = Mount{Path: unescape(left[4]), Type: right[0], Source: unescape(right[1]), Options: strings.Split(left[5], ",")}
	if len(right) > 2 {
		for _, o := range strings.Split(right[2], ",") {
			if !slices.Contains(m.Options, o) {
				m.Options = append(m.Options, o)
			}
		}
	}
	return m, unix.Mkdev(uint32(a), uint32(b)), true
}

// unescape undoes the kernel's octal form of space, tab, line feed and backslash.
func unescape(s string) string {
	var b strings.Builder
	for len(s) > 0 {
		if len(s) >= 4 && s[0] == '\\' {
			if v, err := strconv.ParseUint(s[1:4], 8, 8); err == nil {
				b.WriteByte(byte(v))
				s = s[4:]
				continue
			}
		}
		b.WriteByte(s[0])
		s = s[1:]
	}
	return b.String()
}
