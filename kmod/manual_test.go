package kmod_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func manual(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("nvh_pod/nvh_pod.4")
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

func TestManualIsWellFormed(t *testing.T) {
	cmd := exec.Command("man", "--warnings", "--encoding=UTF-8", "--local-file", "nvh_pod/nvh_pod.4")
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "MANWIDTH=80")
	var complaints strings.Builder
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil || complaints.Len() != 0 || !strings.Contains(string(out), "EXAMPLES") {
		t.Errorf("man: %v\n%s", err, complaints.String())
	}
}

// Every request and structure of the header has its place in the manual.
func TestManualKnowsTheHeader(t *testing.T) {
	header, err := os.ReadFile("nvh_pod/nvh_pod.h")
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`(?m)^#define (NVH_POD_IOC_[A-Z_]+)\s+_IO|^(struct nvh_pod_[a-z]+) \{`).FindAllStringSubmatch(string(header), -1)
	if len(names) != 8 {
		t.Fatalf("the header has %d requests and structures: %q", len(names), names)
	}
	for _, n := range names {
		if name := n[1] + n[2]; !strings.Contains(manual(t), name) {
			t.Errorf("the manual lacks %s", name)
		}
	}
}

// The example is what a user copies: it compiles without a warning.
func TestExampleOfTheManualCompiles(t *testing.T) {
	_, examples, _ := strings.Cut(manual(t), ".SH EXAMPLES")
	_, code, _ := strings.Cut(examples, ".EX\n")
	code, _, found := strings.Cut(code, ".EE\n")
	if !found {
		t.Fatal("no example")
	}
	program := "#include <err.h>\n#include <fcntl.h>\n#include <sys/ioctl.h>\n#include <unistd.h>\n#include \"nvh_pod.h\"\nint main(void)\n{\n" +
		strings.ReplaceAll(code, `\&`, "") + "return 0;\n}\n"
	source := filepath.Join(t.TempDir(), "example.c")
	if err := os.WriteFile(source, []byte(program), 0o644); err != nil {
		t.Fatal(err)
	}
	cc := exec.Command("gcc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-Invh_pod", source)
	if out, err := cc.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
