package qemu

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
)

// logMark is where one run begins in a log that outlives runs.
type logMark struct {
	path  string
	start int64
}

// lastWordsLines is how much of a log is quoted in an error.
const lastWordsLines = 6

// stamp is what -msg timestamp=on and QEMU itself put before a message.
var stamp = regexp.MustCompile(`^(\d{4}-\d\d-\d\dT[0-9:.]+Z )?(qemu[-\w]*: )?`)

// lastWords are the last lines that this run logged, on one line, without time
// stamps; empty when there is nothing.
func (m logMark) lastWords() string {
	f, err := os.Open(m.path)
	if err != nil {
		return ""
	}
	defer f.Close()
	const tail = 16 << 10
	start := m.start
	if st, err := f.Stat(); err == nil && st.Size()-tail > start {
		start = st.Size() - tail
	}
	text, err := io.ReadAll(io.NewSectionReader(f, start, tail))
	if err != nil {
		return ""
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(stamp.ReplaceAllString(line, ""))
		if line != "" && !isNoise(line) {
			lines = append(lines, line)
		}
	}
	if n := len(lines); n > lastWordsLines {
		lines = lines[n-lastWordsLines:]
	}
	return strings.Join(lines, "; ")
}

// isNoise are warnings that every run under TCG prints and that explain nothing.
func isNoise(line string) bool {
	return strings.HasPrefix(line, "warning: TCG doesn't support requested feature")
}

// remedies pairs what QEMU says when it cannot start with what to do about it.
var remedies = []struct{ symptom, remedy string }{
	{"Failed to get \"write\" lock", "another process uses this disk image: stop it, or give the VM its own image"},
	{"Failed to get shared \"write\" lock", "another process uses this disk image: stop it, or give the VM its own image"},
	{"Could not set up host forwarding rule", "the host port is in use: choose another one in forward"},
	{"could not open /dev/net/tun", "load the tun module and start as root"},
	{"could not configure /dev/net/tun", "the tap interface is missing or in use: check device"},
	{"failed to parse default acl file", "allow the bridge in /etc/qemu/bridge.conf"},
	{"bridge helper failed", "check that the bridge exists and is allowed in /etc/qemu/bridge.conf"},
	{"Could not access KVM kernel module", "start as root or join the group kvm, or use accel = \"tcg\""},
	{"failed to initialize kvm", "start as root or join the group kvm, or use accel = \"tcg\""},
	{"Address already in use", "the address or socket is in use: choose another one"},
	{"can't open backing store", "check that the pool's file or device is present and may be opened"},
	{"unable to map backing store", "the pool has too little room for the RAM, or the offset is not aligned"},
	{"cannot set up guest memory", "the host has too little memory: give the VM less"},
	{"Cannot allocate memory", "the host has too little memory: give the VM less"},
	{"Failed to find user", "name an existing user"},
	{"Permission denied", "check the owner and the mode of the files named"},
	{"could not load kernel", "check that kernel is a Linux bzImage"},
	{"linux kernel too old to load a ram disk", "check that kernel is a Linux bzImage"},
	{"is not a valid device model name", "this QEMU lacks that device: check the extra arguments"},
	{"--only-migratable was specified", "its state cannot be saved: use another device, or make the VM volatile"},
	{"invalid option", "this QEMU lacks that option: check the extra arguments"},
}

// earlyExit is the error of a QEMU that ended before it answered.
func (m logMark) earlyExit(status string) error {
	words := m.lastWords()
	if words == "" {
		return fmt.Errorf("%w at once (%s) without a message: see %s", ErrDied, status, m.path)
	}
	for _, r := range remedies {
		if strings.Contains(words, r.symptom) {
			return fmt.Errorf("QEMU ended at once (%s): %s: %s", status, words, r.remedy)
		}
	}
	return fmt.Errorf("QEMU ended at once (%s): %s: see %s", status, words, m.path)
}
