package main

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"github.com/spf13/cobra"

	"github.com/nv-hypervisor/nv-hypervisor/api"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

// docs/cli and the first section of the manual in docs/man are what `nvh gen` writes, no more and no less.
func TestReferenceIsCurrent(t *testing.T) {
	t.Setenv("NVH_SOCKET", "/somewhere/else.sock") // must not show
	for committed, generate := range map[string]func(*cobra.Command, string) error{
		"docs/cli": generateDocs, "docs/man": generateMan,
	} {
		dir := t.TempDir()
		if err := generate((&app{}).rootCommand(), dir); err != nil {
			t.Fatal(err)
		}
		want, got := filesIn(t, dir), filesIn(t, "../../"+committed)
		for name, text := range want {
			if !bytes.Equal(got[name], text) {
				t.Errorf("%s/%s is not current: run make docs", committed, name)
			}
		}
		for name := range got {
			_, ok := want[name]
			if byHand := committed == "docs/man" && filepath.Ext(name) != ".1"; !ok && !byHand {
				t.Errorf("%s/%s belongs to no command: remove it", committed, name)
			}
		}
	}
}

func filesIn(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for _, e := range entries {
		if files[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

func TestManPages(t *testing.T) {
	dir := t.TempDir()
	if err := generateMan((&app{}).rootCommand(), dir); err != nil {
		t.Fatal(err)
	}
	page := filesIn(t, dir)["nvh-outage-show.1"]
	if !bytes.Contains(page, []byte("NVH-OUTAGE-SHOW")) {
		t.Errorf("the page of outage show: %.200s", page)
	}
}

// docs/scripting.md lists exactly the exit codes of exit.go.
func TestExitCodesAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/scripting.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for _, m := range regexp.MustCompile(`(?m)^\| (\d+) \|`).FindAllSubmatch(text, -1) {
		documented = append(documented, string(m[1]))
	}
	file, err := parser.ParseFile(token.NewFileSet(), "exit.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var used []string
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok && strings.HasPrefix(spec.Names[0].Name, "exit") {
			used = append(used, spec.Values[0].(*ast.BasicLit).Value)
		}
		return true
	})
	if !slices.Equal(documented, used) {
		t.Errorf("documented %v, used %v", documented, used)
	}
}

// Every code of the API has an exit code, or is a plain failure on purpose.
func TestEveryCodeHasAnExit(t *testing.T) {
	plain := []api.Code{"internal", "canceled", "not_supported"}
	for _, code := range api.Codes() {
		if _, known := codeExits[code]; !known && !slices.Contains(plain, code) {
			t.Errorf("code %q has no exit code", code)
		}
	}
}

// The example in docs/scripting.md is a definition, with every key there is.
func TestExampleDefinition(t *testing.T) {
	text, err := os.ReadFile("../../docs/scripting.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, found := strings.Cut(string(text), "    name     = \"web\"")
	if !found {
		t.Fatal("docs/scripting.md has no example of a definition")
	}
	var d vm.Definition
	meta, err := toml.Decode("name = \"web\""+after, &d)
	if err != nil || len(meta.Undecoded()) > 0 {
		t.Fatalf("%v, unknown keys %v", err, meta.Undecoded())
	}
	if d.Memory != 1<<30 || len(d.Disks) != 1 || len(d.Nets) != 1 || d.Disks[0].Format != "qcow2" {
		t.Errorf("%+v", d)
	}
}

// Every command says what it does, and none is without a test script.
func TestEveryCommandIsInAScript(t *testing.T) {
	scripts, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, name := range scripts {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	root := (&app{}).rootCommand()
	for _, c := range root.Commands() {
		leaves := c.Commands()
		if len(leaves) == 0 {
			leaves = append(leaves, c)
		}
		for _, leaf := range leaves {
			verb := regexp.QuoteMeta(strings.TrimPrefix(leaf.CommandPath(), "nvh "))
			if !leaf.Hidden && !c.Hidden && !regexp.MustCompile(`nvh (--\S+ (json )?)*`+verb+`\b`).MatchString(all.String()) {
				t.Errorf("%s is in no script", leaf.CommandPath())
			}
			if leaf.Short == "" {
				t.Errorf("%s does not say what it does", leaf.CommandPath())
			}
		}
	}
}
