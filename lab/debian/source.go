package debian

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// source is where this machine gets Debian from, taken from its own apt configuration.
type source struct {
	uri      string
	signedBy string // the field's value as apt wants it, empty for apt's own trusted keys
}

// findSource asks apt which of its sources serves the release's main component.
func findSource(ctx context.Context, release string) (source, error) {
	const format = "$(RELEASE)\t$(CODENAME)\t$(COMPONENT)\t$(REPO_URI)\t$(SOURCESENTRY)"
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", format, "Created-By: Packages").Output()
	if err != nil {
		return source{}, fmt.Errorf("read apt's sources: %w: this needs a Debian machine", err)
	}
	for line := range strings.Lines(string(out)) {
		f := strings.Split(strings.TrimSpace(line), "\t")
		if len(f) != 5 || f[2] != "main" || f[0] != release && f[1] != release {
			continue
		}
		file, _, _ := strings.Cut(f[4], ":")
		content, err := os.ReadFile(file)
		if err != nil {
			return source{}, fmt.Errorf("read apt's source of %s: %w", release, err)
		}
		return source{uri: f[3], signedBy: signedBy(string(content), f[3], f[0])}, nil
	}
	return source{}, fmt.Errorf("no apt source serves %s main: add one to /etc/apt/sources.list.d", release)
}

// signedBy finds the key that a source file, in either of apt's two formats, prescribes for a repository.
func signedBy(content, uri, release string) string {
	uri = strings.TrimSuffix(uri, "/")
	for stanza := range strings.SplitSeq(content, "\n\n") {
		if fields := deb822(stanza); contains(fields["uris"], uri) && contains(fields["suites"], release) {
			return fields["signed-by"]
		}
	}
	for line := range strings.Lines(content) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "deb ") || !contains(line, uri) || !contains(line, release) {
			continue
		}
		_, options, _ := strings.Cut(line, "[")
		options, _, _ = strings.Cut(options, "]")
		for _, option := range strings.Fields(options) {
			if key, ok := strings.CutPrefix(option, "signed-by="); ok {
				return strings.ReplaceAll(key, ",", " ")
			}
		}
	}
	return ""
}

func contains(list, word string) bool {
	for _, w := range strings.Fields(list) {
		if strings.TrimSuffix(w, "/") == word {
			return true
		}
	}
	return false
}

// deb822 reads one stanza. Continuation lines, which an embedded key has, keep their line ends.
func deb822(stanza string) map[string]string {
	fields := map[string]string{}
	name := ""
	for line := range strings.SplitSeq(stanza, "\n") {
		switch {
		case strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, " ") || strings.HasPrefix(line, "\t"):
			fields[name] += "\n" + line
		default:
			var value string
			name, value, _ = strings.Cut(line, ":")
			name = strings.ToLower(name)
			fields[name] = strings.TrimSpace(value)
		}
	}
	return fields
}
