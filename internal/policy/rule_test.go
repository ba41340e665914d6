package policy

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

const module = "github.com/nv-hypervisor/nv-hypervisor"

// root is the repository, seen from here.
const root = "../.."

// rule is one policy.
type rule struct {
	name  string
	check func(*tree) []string // violations, each with what to do about it
	// broken are trees that violate the rule, with a part of what check must say about it.
	broken []example
}

type example struct {
	files files
	says  string
}

// files are contents by path.
type files map[string]string

var rules = slices.Concat(roomRules, importRules, sourceRules, documentRules, vocabularyRules, configurationRules, manualRules)

func TestRules(t *testing.T) {
	repository, err := load(os.DirFS(root))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			for _, violation := range r.check(repository) {
				t.Error(violation)
			}
			r.testExamples(t)
		})
	}
}

func (r rule) testExamples(t *testing.T) {
	if len(r.broken) == 0 {
		t.Error("the rule has no example that breaks it: it might be unable to fail")
	}
	for i, e := range r.broken {
		example, err := load(e.files.fs())
		if err != nil {
			t.Fatalf("example %d: %v", i, err)
		}
		said := strings.Join(r.check(example), "\n")
		if !strings.Contains(said, e.says) {
			t.Errorf("example %d breaks the rule by %q, but the rule says only:\n%s", i, e.says, said)
		}
	}
}

func (f files) fs() fs.FS {
	m := fstest.MapFS{}
	for name, content := range f {
		m[name] = &fstest.MapFile{Data: []byte(content)}
	}
	return m
}

// tree is a repository, read once.
type tree struct {
	text  map[string]string    // content of every text file by path
	goes  map[string]*ast.File // every Go file by path, whatever its build constraints
	lines *token.FileSet
}

// textual are the files that are read; everything else cannot violate a rule.
var textual = []string{".go", ".s", ".c", ".h", ".md", ".sh", ".toml", ".txtar", ".yml", ".service", ".1", ".3", ".4", ".5", ".8"}

var textualNames = []string{"Makefile", "LICENSE", "run", "go.mod"}

func load(fsys fs.FS) (*tree, error) {
	t := &tree{text: map[string]string{}, goes: map[string]*ast.File{}, lines: token.NewFileSet()}
	err := fs.WalkDir(fsys, ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (name == ".git" || name == "bin" || name == "build"):
			return fs.SkipDir
		case entry.IsDir(), !slices.Contains(textual, path.Ext(name)) && !slices.Contains(textualNames, path.Base(name)):
			return nil
		}
		content, err := fs.ReadFile(fsys, name)
		if err != nil {
			return err
		}
		t.text[name] = string(content)
		if path.Ext(name) == ".go" {
			t.goes[name], err = parser.ParseFile(t.lines, name, content, parser.ParseComments|parser.SkipObjectResolution)
		}
		return err
	})
	return t, err
}

// paths are the files whose names end so, in order.
func (t *tree) paths(suffixes ...string) []string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(t.text)) {
		if slices.ContainsFunc(suffixes, func(s string) bool { return strings.HasSuffix(name, s) }) {
			list = append(list, name)
		}
	}
	return list
}

// packages are the folders that hold Go files, with the files' names.
func (t *tree) packages() map[string][]string {
	list := map[string][]string{}
	for _, name := range t.paths(".go") {
		list[path.Dir(name)] = append(list[path.Dir(name)], name)
	}
	return list
}

// at is where a node stands, for a violation to point at.
func (t *tree) at(n ast.Node) string {
	p := t.lines.Position(n.Pos())
	p.Column = 0
	return p.String()
}

func isTest(name string) bool { return strings.HasSuffix(name, "_test.go") }

// imports lists what a Go file imports.
func imports(f *ast.File) []string {
	var list []string
	for _, spec := range f.Imports {
		list = append(list, strings.Trim(spec.Path.Value, `"`))
	}
	return list
}
