package saver

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// hotFile is what a save runs through, with all it may import.
const hotFile = "sequence.go"

var hotImports = []string{"bytes", "unsafe", "golang.org/x/sys/unix", "github.com/nv-hypervisor/nv-hypervisor/vm/record"}

// hotCalls are the system calls it may make: none waits but EpollWait.
var hotCalls = []string{"EpollWait", "EpollCtl", "Read", "Seek", "Fstat", "ClockGettime"}

// hotSeams are the functions of other files that it may call. They keep to the
// same rules, which TestSaveDoesNotAllocate sees, but for decode, which comes last.
var hotSeams = []string{"monotonic", "setFIFO", "send", "reply", "fill", "next", "compact", "hear", "announce", "report", "decode"}

func TestHotPath(t *testing.T) {
	files := token.NewFileSet()
	names, err := filepath.Glob("*.go")
	check(t, err)
	cold := map[string]string{} // function declared elsewhere: its file
	var hot *ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(files, name, nil, 0)
		check(t, err)
		if name == hotFile {
			hot = f
			continue
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok {
				cold[fn.Name.Name] = name
			}
		}
	}
	for _, imp := range hot.Imports {
		if path := strings.Trim(imp.Path.Value, `"`); !slices.Contains(hotImports, path) {
			t.Errorf("%s imports %s: a save may not use it", hotFile, path)
		}
	}
	calls := 0
	ast.Inspect(hot, func(n ast.Node) bool {
		at := func() token.Position { return files.Position(n.Pos()) }
		switch n := n.(type) {
		case *ast.GoStmt, *ast.DeferStmt, *ast.SelectStmt:
			t.Errorf("%v: not in a save", at())
		case *ast.CallExpr:
			calls++
			switch fun := n.Fun.(type) {
			case *ast.Ident:
				if fun.Name == "make" || fun.Name == "new" || cold[fun.Name] != "" && !slices.Contains(hotSeams, fun.Name) {
					t.Errorf("%v: calls %s, which is not made for a save", at(), fun.Name)
				}
			case *ast.SelectorExpr:
				pkg, _ := fun.X.(*ast.Ident)
				switch {
				case pkg != nil && pkg.Name == "unix" && strings.ToUpper(fun.Sel.Name) != fun.Sel.Name:
					if !slices.Contains(hotCalls, fun.Sel.Name) {
						t.Errorf("%v: system call %s in a save", at(), fun.Sel.Name)
					}
				case cold[fun.Sel.Name] != "" && !slices.Contains(hotSeams, fun.Sel.Name):
					t.Errorf("%v: calls %s of %s, which is not made for a save", at(), fun.Sel.Name, cold[fun.Sel.Name])
				}
			}
		}
		return true
	})
	if calls == 0 {
		t.Errorf("found no calls in %s: the test looks in the wrong place", hotFile)
	}
}
