package policy

import (
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

var manualRules = []rule{
	{
		name:  "the manual is sound",
		check: manual,
		broken: []example{
			{files{"docs/man/a.8": ".TH A 8\n.SH NAME\na \\- does it\n.NOSUCHMACRO\n"}, "docs/man/a.8"},
			{files{"docs/man/a.8": ".TH A 8\n.SH SYNOPSIS\na\n"}, "docs/man/a.8"},
		},
	},
	{
		name:  "the manual refers to pages that exist",
		check: manualReferences,
		broken: []example{
			{files{"docs/man/a.8": "See\n.BR nvhx (8)\n"}, "nvhx(8)"},
			{files{"docs/man/a.3": ".so man3/b.3\n"}, "docs/man/a.3 stands for man3/b.3"},
		},
	},
}

// manualPages are the pages of the manual, wherever they lie. Files in testdata are none.
func manualPages(t *tree) []string {
	return slices.DeleteFunc(t.paths(".1", ".3", ".4", ".5", ".8"), func(name string) bool { return strings.Contains(name, "testdata") })
}

// manual lets groff format every page and report what it does not understand, and man-db's lexgrog find its name.
func manual(t *tree) []string {
	dir, err := os.MkdirTemp("", "nvh-man-")
	if err != nil {
		return []string{err.Error()}
	}
	defer os.RemoveAll(dir)
	var pages []string
	for _, name := range manualPages(t) {
		if _, is := alias(t.text[name]); is {
			continue
		}
		pages = append(pages, name)
		file := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(file), 0o700)
		if err == nil {
			err = os.WriteFile(file, []byte(t.text[name]), 0o600)
		}
		if err != nil {
			return []string{err.Error()}
		}
	}
	return append(complaints(dir, "groff", append([]string{"-mandoc", "-Tutf8", "-Kutf8", "-wmac", "-z"}, pages...)),
		complaints(dir, "lexgrog", pages)...)
}

// complaints are what a program, run in dir, says on stderr, and the failures it reports on stdout.
func complaints(dir, program string, args []string) []string {
	cmd := exec.Command(program, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	var out, said strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &said
	err := cmd.Run()
	list := slices.Collect(strings.Lines(said.String()))
	for line := range strings.Lines(out.String()) {
		if strings.Contains(line, ": parse failed") {
			list = append(list, program+" finds no NAME section: "+line)
		}
	}
	if err != nil && len(list) == 0 {
		list = append(list, fmt.Sprintf("%s: %v (make deps installs it, with man-db)", program, err))
	}
	return list
}

// alias tells which page stands for this one, such as man3/nv_alloc.3.
func alias(text string) (string, bool) { return strings.CutPrefix(strings.TrimSpace(text), ".so ") }

var reference = regexp.MustCompile(`(?m)^\.BR (nvh[\w.-]*|nv_\w+) \((\d)\)`)

func manualReferences(t *tree) []string {
	have := map[string]bool{}
	for _, name := range manualPages(t) {
		have[path.Base(name)] = true
	}
	var found []string
	for _, name := range manualPages(t) {
		if target, is := alias(t.text[name]); is && !have[path.Base(target)] {
			found = append(found, fmt.Sprintf("%s stands for %s, which does not exist", name, target))
		}
		for _, m := range reference.FindAllStringSubmatch(t.text[name], -1) {
			if !have[m[1]+"."+m[2]] {
				found = append(found, fmt.Sprintf("%s refers to %s(%s), which does not exist", name, m[1], m[2]))
			}
		}
	}
	return found
}
