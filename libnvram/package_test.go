package main_test

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// functions are those that nvram.h declares, sorted.
func functions(t *testing.T) []string {
	t.Helper()
	header, err := os.ReadFile("nvram.h")
	must(t, err)
	var names []string
	for _, m := range regexp.MustCompile(`(?m)^[a-z].*[ *](nv_[a-z_]+)\(.*\);$`).FindAllSubmatch(header, -1) {
		names = append(names, string(m[1]))
	}
	if len(names) < 3 {
		t.Fatalf("found only %v in nvram.h", names)
	}
	slices.Sort(names)
	return names
}

// The library has its name and exports the functions of the header, and nothing of the Go runtime.
func TestLibraryExportsTheHeader(t *testing.T) {
	library, err := elf.Open(installed("lib/libnvram.so.0"))
	must(t, err)
	defer library.Close()
	soname, err := library.DynString(elf.DT_SONAME)
	must(t, err)
	if !slices.Equal(soname, []string{"libnvram.so.0"}) {
		t.Errorf("SONAME is %q", soname)
	}
	symbols, err := library.DynamicSymbols()
	must(t, err)
	var exported []string
	for _, s := range symbols {
		if s.Section != elf.SHN_UNDEF && elf.ST_TYPE(s.Info) == elf.STT_FUNC {
			exported = append(exported, s.Name)
		}
	}
	slices.Sort(exported)
	if want := functions(t); !slices.Equal(exported, want) {
		t.Errorf("exported: %v\ndeclared: %v", exported, want)
	}
	link, err := os.Readlink(installed("lib/libnvram.so"))
	must(t, err)
	if link != "libnvram.so.0" {
		t.Errorf("libnvram.so is a link to %s", link)
	}
}

// What is installed names the place it is used from, not DESTDIR.
func TestPkgConfig(t *testing.T) {
	text, err := os.ReadFile(installed("lib/pkgconfig/libnvram.pc"))
	must(t, err)
	if strings.Contains(string(text), "@") || strings.Contains(string(text), root) || !strings.HasPrefix(string(text), "prefix="+prefix+"\n") {
		t.Errorf("libnvram.pc:\n%s", text)
	}
	want := []string{"-I" + installed("include"), "-L" + installed("lib"), "-lnvram"}
	if got := pkgConfig(t, "--cflags", "--libs"); !slices.Equal(got, want) {
		t.Errorf("pkg-config gives %q, want %q", got, want)
	}
}

// The header stands alone, in the oldest C that has its types.
func TestHeaderStandsAlone(t *testing.T) {
	output(t, exec.Command("cc", "-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-x", "c", installed("include/nvram.h")))
}

// Every function has a man page, which is nv_alloc(3), and that renders without a warning.
func TestManPage(t *testing.T) {
	for _, name := range functions(t) {
		text, err := os.ReadFile(installed("share/man/man3", name+".3"))
		must(t, err)
		if name != "nv_alloc" && string(text) != ".so man3/nv_alloc.3\n" {
			t.Errorf("%s.3 is %q", name, text)
		}
	}
	c := exec.Command("man", "--warnings", "-l", installed("share/man/man3/nv_alloc.3"))
	c.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "MANWIDTH=100", "MAN_KEEP_FORMATTING=")
	page := output(t, c)
	for _, name := range functions(t) {
		if !regexp.MustCompile(`(?m)^ +` + name + `\(.*\);$`).MatchString(page) {
			t.Errorf("nv_alloc(3) lacks the synopsis of %s", name)
		}
	}
	for _, code := range headerCodes(t) {
		if !regexp.MustCompile(`(?m)^ +` + code + ` `).MatchString(page) {
			t.Errorf("nv_alloc(3) lacks %s", code)
		}
	}
}

func headerCodes(t *testing.T) []string {
	t.Helper()
	header, err := os.ReadFile("nvram.h")
	must(t, err)
	var codes []string
	for _, m := range regexp.MustCompile(`(?m)^ \*     (E[A-Z]+) `).FindAllSubmatch(header, -1) {
		codes = append(codes, string(m[1]))
	}
	return codes
}

// docs/libnvram.md names every function and error, and its program is the example that is tested.
func TestDocumentation(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "docs", "libnvram.md"))
	must(t, err)
	for _, name := range append(functions(t), headerCodes(t)...) {
		if !strings.Contains(string(text), "`"+name+"`") && !strings.Contains(string(text), "`"+name+"(") {
			t.Errorf("docs/libnvram.md lacks %s", name)
		}
	}
	example, err := os.ReadFile("example/counter.c")
	must(t, err)
	if !strings.Contains(string(text), "```c\n"+string(example)+"```\n") {
		t.Error("docs/libnvram.md does not show example/counter.c as it is")
	}
}
