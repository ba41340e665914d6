package record

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// hotFiles are the files a save runs through, with all they may import.
var hotFiles = map[string][]string{
	"commit.go": {"hash/crc32"},
	"layout.go": {"encoding/binary", "hash/crc32", "github.com/nv-hypervisor/nv-hypervisor/nvram"},
	"turn.go":   {},
}

// TestHotPath keeps the save's files to their imports, and commit.go to calls
// of functions that live in these files.
func TestHotPath(t *testing.T) {
	files := token.NewFileSet()
	names, err := filepath.Glob("*.go")
	must(t, names, err)
	cold := map[string]string{} // function declared elsewhere: its file
	hot := map[string]bool{}
	var commit *ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(files, name, nil, 0)
		must(t, f, err)
		allowed, isHot := hotFiles[name]
		if name == "commit.go" {
			commit = f
		}
		for _, imp := range f.Imports {
			if path := strings.Trim(imp.Path.Value, `"`); isHot && !slices.Contains(allowed, path) {
				t.Errorf("%s imports %s: a save may not use it", name, path)
			}
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && isHot {
				hot[fn.Name.Name] = true
			} else if ok {
				cold[fn.Name.Name] = name
			}
		}
	}
	calls := 0
	ast.Inspect(commit, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt, *ast.DeferStmt, *ast.SelectStmt:
			t.Errorf("%v: not in a save", files.Position(n.Pos()))
		case *ast.CallExpr:
			var name string
			switch fun := n.Fun.(type) {
			case *ast.Ident:
				name = fun.Name
			case *ast.SelectorExpr:
				name = fun.Sel.Name
			}
			calls++
			if file, ok := cold[name]; ok && !hot[name] {
				t.Errorf("%v: calls %s of %s, which is not made for a save", files.Position(n.Pos()), name, file)
			}
		}
		return true
	})
	if calls == 0 {
		t.Error("found no calls in commit.go: the test looks in the wrong place")
	}
}

// rearm makes a Commit usable once more, as if Prepare had run.
func rearm(c *Commit) {
	c.stage = stageArmed
	c.area.turn.Store(c.base << 1)
}

func TestSaveDoesNotAllocate(t *testing.T) {
	a, _ := newArea(t)
	start(t, a, "one")
	c, err := a.Prepare(testArming)
	must(t, c, err)
	image := state(1, testSlot)
	allocs := testing.AllocsPerRun(100, func() {
		rearm(c)
		if c.Copy(image[:100]) != nil {
			t.Error("copy failed")
		}
		c.Abort()
		if c.Copy(image) != nil {
			t.Error("copy failed")
		}
		c.SetDisk(1, testDisk)
		c.SetStep(0, StepCopy, 1, 2)
		c.SetOutage("20261122T113322.123Z-outage")
		c.SetTime(1, 2)
		if c.Fence() != nil || c.Commit() != nil || c.Commit() != ErrOrder {
			t.Error("commit failed")
		}
	})
	if allocs != 0 {
		t.Errorf("a save allocates %v times", allocs)
	}
	if _, err := a.State(); err != nil {
		t.Error(err)
	}
}
