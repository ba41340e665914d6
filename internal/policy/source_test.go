package policy

import (
	"fmt"
	"go/ast"
	"path"
	"regexp"
	"slices"
	"strings"
)

// maxLines is how long a source file may get. One much over 500 lines probably has two topics.
const maxLines = 600

// vague are names of packages that say nothing about what is in them.
var vague = []string{"util", "utils", "common", "helper", "helpers", "types", "manager", "managers", "misc", "shared", "base", "lib"}

// unfinished are words that stand for work that was not done. They are put together here so as not to find themselves.
var unfinished = regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|X` + `XX|HA` + `CK|WI` + `P)\b`)

var sourceRules = []rule{
	{
		name:  "every package has a comment",
		check: packageComments,
		broken: []example{
			{files{"a/x.go": "package a"}, "package a has no comment"},
			{files{"a/x.go": "// This package does it.\npackage a"}, "begin it with \"Package a \""},
			{files{"a/x.go": "// Package a is the one.\npackage a", "a/y.go": "// Package a is the other.\npackage a"}, "two comments"},
			{files{"cmd/a/x.go": "// The program.\npackage main"}, "begin it with \"Command a \" or \"A \""},
			{files{"a/x_test.go": "package a"}, "package a has no comment"},
		},
	},
	{
		name:  "names say what a package is for",
		check: packageNames,
		broken: []example{
			{files{"vm/utils/x.go": "package utils"}, "utils says nothing"},
			{files{"common/qmp/x.go": "package qmp"}, "common says nothing"},
			{files{"vm/x.go": "package helpers"}, "helpers says nothing"},
		},
	},
	{
		name:  "nothing is left for later",
		check: leftovers,
		broken: []example{
			{files{"a/x.go": "package a\n\n// TO" + "DO: write it\n"}, "a/x.go:3: TO" + "DO"},
			{files{"README.md": "It works. FIX" + "ME\n"}, "README.md:1: FIX" + "ME"},
			{files{"Makefile": "# X" + "XX\n"}, "Makefile:1: X" + "XX"},
		},
	},
	{
		name:  "no test is skipped",
		check: skips,
		broken: []example{
			{files{"a/x_test.go": "package a\nfunc TestX(t *testing.T) {\n\tt.Sk" + "ip()\n}"}, "a/x_test.go:3: calls t.Skip"},
			{files{"a/x_test.go": "package a\nfunc TestX(t *testing.T) { t.Sk" + "ipf(\"%d\", 1) }"}, "calls t.Skipf"},
			{files{"a/x_test.go": "package a\nfunc TestX(t *testing.T) { if testing.Sh" + "ort() { return } }"}, "calls testing.Short"},
			{files{"a/atest/x.go": "package atest\nfunc Need(t *testing.T) { t.Sk" + "ipNow() }"}, "calls t.SkipNow"},
		},
	},
	{
		name:  "a file has one topic",
		check: length,
		broken: []example{
			{files{"a/x.go": "package a\n" + strings.Repeat("//\n", maxLines)}, "a/x.go has 601 lines"},
		},
	},
}

func packageComments(t *tree) []string {
	var found []string
	for dir, names := range t.packages() {
		var comments []string
		name := ""
		for _, file := range names {
			f := t.goes[file]
			if strings.HasSuffix(f.Name.Name, "_test") {
				continue // documented by the package it tests
			}
			name = f.Name.Name
			if f.Doc != nil {
				comments = append(comments, f.Doc.Text())
			}
		}
		if name != "" {
			found = append(found, judgeComments(dir, name, comments)...)
		}
	}
	return found
}

func judgeComments(dir, name string, comments []string) []string {
	switch len(comments) {
	case 0:
		return []string{fmt.Sprintf("package %s has no comment: say in its first sentence what its job is, then what it guarantees", dir)}
	case 1:
	default:
		return []string{fmt.Sprintf("package %s has two comments: keep one", dir)}
	}
	begins := []string{"Package " + name + " "}
	if name == "main" {
		program := path.Base(dir)
		begins = []string{"Command " + program + " ", strings.ToUpper(program[:1]) + program[1:] + " "}
	}
	if slices.ContainsFunc(begins, func(b string) bool { return strings.HasPrefix(comments[0], b) }) {
		return nil
	}
	return []string{fmt.Sprintf("the comment of package %s does not follow Go's convention: begin it with \"%s\"", dir, strings.Join(begins, `" or "`))}
}

func packageNames(t *tree) []string {
	var found []string
	for dir, names := range t.packages() {
		for _, word := range append(strings.Split(dir, "/"), t.goes[names[0]].Name.Name) {
			if slices.Contains(vague, word) {
				found = append(found, fmt.Sprintf("package %s: %s says nothing about what is in it: name it for its job", dir, word))
				break
			}
		}
	}
	return found
}

func leftovers(t *tree) []string {
	var found []string
	for _, name := range t.paths("") {
		for i, line := range strings.Split(t.text[name], "\n") {
			if word := unfinished.FindString(line); word != "" {
				found = append(found, fmt.Sprintf("%s:%d: %s: do it, or leave it out", name, i+1, word))
			}
		}
	}
	return found
}

// skips finds tests that might not run. What a test needs, scripts/deps.sh installs; what it cannot have, it must not need.
func skips(t *tree) []string {
	var found []string
	for _, name := range t.paths(".go") {
		ast.Inspect(t.goes[name], func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			f, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			on, ok := f.X.(*ast.Ident)
			if ok && (on.Name == "t" || on.Name == "b" || on.Name == "tb" || on.Name == "f") && strings.HasPrefix(f.Sel.Name, "Skip") ||
				ok && on.Name == "testing" && f.Sel.Name == "Short" {
				found = append(found, fmt.Sprintf("%s: calls %s.%s: a test runs or fails; make scripts/deps.sh install what it needs", t.at(n), on.Name, f.Sel.Name))
			}
			return true
		})
	}
	return found
}

func length(t *tree) []string {
	var found []string
	for _, name := range t.paths(".go", ".c", ".h", ".s", ".sh") {
		if n := strings.Count(t.text[name], "\n"); n > maxLines {
			found = append(found, fmt.Sprintf("%s has %d lines, more than %d: it probably has two topics", name, n, maxLines))
		}
	}
	return found
}
