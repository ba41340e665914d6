package policy

import (
	"fmt"
	"go/ast"
	"go/token"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
)

// vocabulary are the words that the programs speak to operators: the constants of a type. Each is explained, in
// backticks, on a page.
var vocabulary = []struct{ dir, kind, page string }{
	{"vm/record", "Reason", "docs/failure-semantics.md"},
	{"vm", "Outcome", "docs/failure-semantics.md"},
	{"vm", "State", "docs/api.md"},
	{"vm", "OnLost", "docs/failure-semantics.md"},
	{"nvram", "Kind", "docs/formats.md"},
	{"nvram", "Layout", "docs/formats.md"},
	{"nvram", "Use", "docs/formats.md"},
}

const (
	stepsPage  = "docs/hot-path.md"
	eventsPage = "docs/api.md"
)

// exitPages are the manual pages with the exit codes of the programs.
var exitPages = map[string]string{"cmd/nvh": "docs/man/nvh.1", "cmd/nvhd": "docs/man/nvhd.8"}

var vocabularyRules = []rule{
	{
		name:  "every word for operators is explained",
		check: words,
		broken: []example{
			{files{"vm/record/x.go": "package record\nconst A Reason = \"moon-phase\""}, "moon-phase"},
			{files{"vm/x.go": "package vm\nconst (\n\tA State = \"running\"\n\tB = State(\"dreaming\")\n)", "docs/api.md": "`running`"}, "dreaming"},
			{files{}, "package vm/record has no constants of type Reason"},
		},
	},
	{
		name:  "every step of a timeline is explained",
		check: steps,
		broken: []example{
			{files{"vm/x.go": "package vm\nvar a = saver.Step{Name: \"dream\"}"}, "step dream"},
			{files{"vm/x.go": "package vm\nvar a = []Step{{\"nap\", 1, 2}}"}, "step nap"},
			{files{"vm/x.go": "package vm\nfunc f() { trace.do(\"yawn\", nil) }"}, "step yawn"},
			{files{"vm/record/x.go": "package record\nvar stepNames = [...]string{\"\", \"snore\"}"}, "step snore"},
			{files{stepsPage: "| `dream` | sleeps |"}, stepsPage + " explains step dream, which nothing takes"},
		},
	},
	{
		name:  "every event is explained",
		check: events,
		broken: []example{
			{files{"vm/x.go": "package vm\nfunc f() { v.env.Notify(\"eclipse\", \"\", nil) }"}, "event eclipse"},
			{files{"host/x.go": "package host\nfunc f() { h.events.publish(\"comet\", \"\", nil) }"}, "event comet"},
		},
	},
	{
		name:  "every exit code is in the manual",
		check: exitCodes,
		broken: []example{
			{files{"cmd/nvhd/x.go": "package main\nconst exitTired = 7"}, "exit code 7"},
			{files{}, "cmd/nvhd has no exit codes"},
		},
	},
}

func words(t *tree) []string {
	var found []string
	for _, v := range vocabulary {
		constants := t.constants(v.dir, v.kind)
		if len(constants) == 0 {
			found = append(found, fmt.Sprintf("package %s has no constants of type %s: correct vocabulary in internal/policy/vocabulary_test.go", v.dir, v.kind))
		}
		for _, word := range constants {
			if !t.explains(v.page, word) {
				found = append(found, fmt.Sprintf("%s does not explain `%s`, a %s of package %s", v.page, word, v.kind, v.dir))
			}
		}
	}
	return found
}

func (t *tree) explains(page, word string) bool { return strings.Contains(t.text[page], "`"+word+"`") }

// constants are the values of a package's string constants of a type.
func (t *tree) constants(dir, kind string) []string {
	var list []string
	t.inspect(dir, func(n ast.Node) {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return
		}
		for _, value := range spec.Values {
			typed := isNamed(spec.Type, kind)
			if call, ok := value.(*ast.CallExpr); ok && isNamed(call.Fun, kind) && len(call.Args) == 1 {
				value, typed = call.Args[0], true
			}
			if s, ok := literal(value); ok && typed && s != "" {
				list = append(list, s)
			}
		}
	})
	return list
}

// inspect visits every node of a package's files that are not tests; with "" as folder, of all packages of the product.
func (t *tree) inspect(dir string, visit func(ast.Node)) {
	for _, name := range t.paths(".go") {
		in := path.Dir(name)
		product := !strings.HasPrefix(in, "lab/") && !strings.HasPrefix(in, "internal/policy") && !strings.HasSuffix(in, "test")
		if isTest(name) || dir != "" && in != dir || dir == "" && !product {
			continue
		}
		ast.Inspect(t.goes[name], func(n ast.Node) bool {
			if n != nil {
				visit(n)
			}
			return true
		})
	}
}

// isNamed tells whether an expression is the name, qualified or not.
func isNamed(e ast.Expr, name string) bool {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name == name
	case *ast.SelectorExpr:
		return e.Sel.Name == name
	}
	return false
}

func literal(e ast.Expr) (string, bool) {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return "", false
	}
	s, err := strconv.Unquote(lit.Value)
	return s, err == nil
}

func steps(t *tree) []string {
	taken := map[string]bool{}
	t.inspect("", func(n ast.Node) {
		switch n := n.(type) {
		case *ast.CompositeLit:
			for _, name := range stepsOf(n) {
				taken[name] = true
			}
		case *ast.CallExpr:
			if s, ok := firstArgument(n, "do"); ok {
				taken[s] = true
			}
		case *ast.ValueSpec:
			if n.Names[0].Name == "stepNames" && len(n.Values) == 1 {
				for _, e := range n.Values[0].(*ast.CompositeLit).Elts {
					if s, ok := literal(e); ok && s != "" {
						taken[s] = true
					}
				}
			}
		}
	})
	var found []string
	for _, name := range slices.Sorted(maps.Keys(taken)) {
		if !strings.Contains(t.text[stepsPage], "| `"+name+"` |") {
			found = append(found, fmt.Sprintf("%s has no row for step %s", stepsPage, name))
		}
	}
	for line := range strings.Lines(t.text[stepsPage]) {
		if rest, isRow := strings.CutPrefix(line, "| `"); isRow {
			if name, _, _ := strings.Cut(rest, "`"); !taken[name] {
				found = append(found, fmt.Sprintf("%s explains step %s, which nothing takes", stepsPage, name))
			}
		}
	}
	return found
}

// stepsOf are the names in Step{…} or []Step{{…}, …}.
func stepsOf(lit *ast.CompositeLit) []string {
	elements := []*ast.CompositeLit{}
	if array, ok := lit.Type.(*ast.ArrayType); ok && isNamed(array.Elt, "Step") {
		for _, e := range lit.Elts {
			if inner, ok := e.(*ast.CompositeLit); ok {
				elements = append(elements, inner)
			}
		}
	} else if isNamed(lit.Type, "Step") {
		elements = append(elements, lit)
	}
	var names []string
	for _, e := range elements {
		for i, field := range e.Elts {
			value := field
			if pair, ok := field.(*ast.KeyValueExpr); ok {
				if !isNamed(pair.Key, "Name") {
					continue
				}
				value = pair.Value
			} else if i > 0 {
				continue
			}
			if s, ok := literal(value); ok {
				names = append(names, s)
			}
		}
	}
	return names
}

// firstArgument is the first argument of a call of a method by that name, if it is a string.
func firstArgument(call *ast.CallExpr, method string) (string, bool) {
	f, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || f.Sel.Name != method || len(call.Args) == 0 {
		return "", false
	}
	return literal(call.Args[0])
}

func events(t *tree) []string {
	var found []string
	t.inspect("", func(n ast.Node) {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return
		}
		for _, method := range []string{"Notify", "publish"} {
			if s, ok := firstArgument(call, method); ok && !t.explains(eventsPage, s) {
				found = append(found, fmt.Sprintf("%s: %s does not explain event %s", t.at(call), eventsPage, s))
			}
		}
	})
	return found
}

func exitCodes(t *tree) []string {
	var found []string
	for program, page := range exitPages {
		codes := 0
		t.inspect(program, func(n ast.Node) {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || !strings.HasPrefix(spec.Names[0].Name, "exit") || len(spec.Values) != 1 {
				return
			}
			lit, ok := spec.Values[0].(*ast.BasicLit)
			if !ok {
				return
			}
			codes++
			if !strings.Contains(t.text[page], ".TP\n.B "+lit.Value+"\n") {
				found = append(found, fmt.Sprintf("%s does not explain exit code %s", page, lit.Value))
			}
		})
		if codes == 0 {
			found = append(found, program+" has no exit codes: correct exitPages in internal/policy/vocabulary_test.go")
		}
	}
	return found
}
