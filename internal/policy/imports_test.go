package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

// confined are imports that only the named packages may have: every dependency, and what is sharp in the standard
// library; "*" is any, "lab/..." the lab and all that is in it. Tests are free to use the standard library, and the modules of testModules.
var confined = map[string]string{
	"github.com/BurntSushi/toml":              "cmd/nvh host vm",
	"github.com/coreos/go-systemd/v22/daemon": "cmd/nvhd",
	"github.com/godbus/dbus/v5":               "pod/logind",
	"github.com/spf13/cobra":                  "cmd/nvh cmd/nvh-lab",
	"github.com/spf13/cobra/doc":              "cmd/nvh",
	"github.com/spf13/pflag":                  "cmd/nvh",
	"golang.org/x/sys/unix":                   "*",

	"C":        "libnvram",
	"net/http": "api pod/webhook",
	"os/exec":  "bench/suite cmd/nvh kmod lab/... outage/hook qemu",
	"testing":  "lab/labtest qemu/qemutest qmp/qmptest",
	"unsafe":   "api bench/floor kmod/modulecheck lab/... libnvram libnvram/handles nvram nvram/nvdimm pod/gpio pod/kmod pod/signal vm/saver",

	"log":       "", // log/slog, handed down
	"plugin":    "",
	"reflect":   "",
	"io/ioutil": "",
}

// testModules are what tests of any package may use.
var testModules = []string{
	"github.com/google/go-cmp",
	"github.com/rogpeppe/go-internal/testscript",
	"go.uber.org/goleak",
	"pgregory.net/rapid",
}

const confinedTable = "the table confined in internal/policy/imports_test.go"

// hotFiles run between an outage and its commit, and may import no more than this: nothing that allocates, formats,
// logs or opens files. Package vm/record keeps commit.go to the same rule and its calls as well.
var hotFiles = map[string][]string{
	"vm/saver/sequence.go": {"bytes", "unsafe", "golang.org/x/sys/unix", module + "/vm/record"},
	"vm/record/commit.go":  {"hash/crc32"},
	"vm/record/turn.go":    {},
}

var importRules = []rule{
	{
		name:  "dependencies and sharp tools are confined",
		check: confinement,
		broken: []example{
			{files{"nvram/x.go": `package nvram; import "net/http"`}, "nvram/x.go imports net/http"},
			{files{"qmp/x.go": `package qmp; import "unsafe"`}, "qmp/x.go imports unsafe"},
			{files{"qmp/x.go": `package qmp; import "C"`}, "qmp/x.go imports C"},
			{files{"vm/x.go": `package vm; import "example.org/fast/json"`}, "dependency example.org/fast/json"},
			{files{"vm/x_test.go": `package vm; import "example.org/assert"`}, "dependency example.org/assert"},
			{files{"vm/x.go": `package vm; import "go.uber.org/goleak"`}, "vm/x.go imports go.uber.org/goleak"},
			{files{}, "api no longer imports net/http"},
		},
	},
	{
		name:  "the hot path imports next to nothing",
		check: hotPath,
		broken: []example{
			{files{"vm/saver/sequence.go": `package saver; import "fmt"`}, "imports fmt"},
			{files{"vm/record/turn.go": `package record; import "sync"`}, "imports sync"},
			{files{}, "vm/record/commit.go is gone"},
		},
	},
}

func confinement(t *tree) []string {
	var found []string
	seen := map[string]bool{}
	for _, name := range t.paths(".go") {
		dir := path.Dir(name)
		for _, imp := range imports(t.goes[name]) {
			allowed, known := confined[imp]
			standard := !strings.Contains(strings.Split(imp, "/")[0], ".")
			ours := strings.HasPrefix(imp, module+"/")
			forTests := slices.ContainsFunc(testModules, func(m string) bool { return imp == m || strings.HasPrefix(imp, m+"/") })
			switch {
			case ours, standard && !known, isTest(name) && (forTests || known):
			case allowed == "*":
			case known && grants(allowed, dir, seen, imp):
			case known || forTests:
				found = append(found, fmt.Sprintf("%s imports %s, which is confined to [%s]: if that is meant, add %s in %s", name, imp, allowed, dir, confinedTable))
			default:
				found = append(found, fmt.Sprintf("%s: dependency %s is not in %s: a new one is a decision", name, imp, confinedTable))
			}
		}
	}
	for imp, allowed := range confined {
		for _, dir := range strings.Fields(strings.Trim(allowed, "*")) {
			if !seen[imp+" "+dir] {
				found = append(found, fmt.Sprintf("%s no longer imports %s: take it from its line in %s", dir, imp, confinedTable))
			}
		}
	}
	return found
}

// grants tells whether a list of packages has the one in dir, and marks as seen by which entry.
func grants(allowed, dir string, seen map[string]bool, imp string) bool {
	for _, entry := range strings.Fields(allowed) {
		folder, below := strings.CutSuffix(entry, "/...")
		if dir == folder || below && strings.HasPrefix(dir, folder+"/") {
			seen[imp+" "+entry] = true
			return true
		}
	}
	return false
}

func hotPath(t *tree) []string {
	var found []string
	for name, allowed := range hotFiles {
		f := t.goes[name]
		if f == nil {
			found = append(found, name+" is gone: correct hotFiles in internal/policy/imports_test.go")
			continue
		}
		for _, imp := range imports(f) {
			if !slices.Contains(allowed, imp) {
				found = append(found, fmt.Sprintf("%s imports %s: it runs while the power fails; do that before or after", name, imp))
			}
		}
	}
	return found
}

// listed is what `go list -json` tells of a package.
type listed struct {
	ImportPath string
	Standard   bool
	CgoFiles   []string
	Imports    []string
}

// The programs are static: whatever they are built from works without cgo, so one binary serves every distribution.
func TestProgramsNeedNoCgo(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Standard,CgoFiles,Imports", "./cmd/nvh", "./cmd/nvhd")
	cmd.Dir = root
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=1")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v", cmd, err)
	}
	violations, err := cgo(strings.NewReader(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range violations {
		t.Error(v)
	}
	const broken = `{"ImportPath":"net","Standard":true,"CgoFiles":["a.go"]} {"ImportPath":"example.org/db","CgoFiles":["db.go"]}`
	if violations, err := cgo(strings.NewReader(broken)); err != nil || len(violations) != 1 {
		t.Errorf("a dependency with cgo: %v, %v", violations, err)
	}
}

// cgo finds packages that use it. The standard library's own have a pure Go form, which CGO_ENABLED=0 selects.
func cgo(list io.Reader) ([]string, error) {
	var found []string
	packages := 0
	for decoder := json.NewDecoder(list); ; packages++ {
		var p listed
		err := decoder.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if !p.Standard && len(p.CgoFiles) > 0 {
			found = append(found, fmt.Sprintf("%s needs cgo (%v): nvh and nvhd must not", p.ImportPath, p.CgoFiles))
		}
	}
	if packages == 0 {
		return nil, errors.New("go list named no package")
	}
	return found, nil
}
