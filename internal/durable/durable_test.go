package durable

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	check(t, err)
	return string(b)
}

// names lists a folder with all that is hidden.
func names(t testing.TB, dir string) (list []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	check(t, err)
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state.json")
	for _, c := range []struct {
		content string
		mode    os.FileMode
	}{{"old", 0o600}, {"a new and longer one", 0o640}, {"", 0o444}, {"again", 0o644}} {
		old := unix.Umask(0o077)
		err := WriteFile(path, []byte(c.content), c.mode)
		unix.Umask(old)
		check(t, err)
		st, err := os.Stat(path)
		check(t, err)
		if got := read(t, path); got != c.content || st.Mode() != c.mode {
			t.Errorf("content %q, mode %v; want %q, %v", got, st.Mode(), c.content, c.mode)
		}
		if list := names(t, dir); len(list) != 1 {
			t.Errorf("left behind: %q", list)
		}
	}
}

// A failure at any step leaves the old content, and nothing else.
func TestFailureLeavesTheOldFile(t *testing.T) {
	dir := t.TempDir()
	check(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"))
	defer unix.Unmount(dir, unix.MNT_DETACH)
	path := filepath.Join(dir, "state.json")
	check(t, WriteFile(path, []byte("old"), 0o600))
	if err := WriteFile(path, make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), path) {
		t.Errorf("full disk: %v", err)
	}
	if list := names(t, dir); read(t, path) != "old" || len(list) != 1 {
		t.Errorf("full disk: %q, files %q", read(t, path), list)
	}

	// A folder of that name cannot be replaced by a file: the last step fails.
	folder := filepath.Join(dir, "folder")
	check(t, os.MkdirAll(filepath.Join(folder, "kept"), 0o755))
	if err := WriteFile(folder, []byte("new"), 0o600); err == nil {
		t.Error("a folder was replaced")
	}
	if list := names(t, dir); len(list) != 2 || len(names(t, folder)) != 1 {
		t.Errorf("rename failed: files %q", list)
	}
	if err := WriteFile(filepath.Join(dir, "none", "state.json"), nil, 0o600); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
}

func TestFolders(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a", "b", "c")
	check(t, MkdirAll(path, 0o750))
	check(t, MkdirAll(path, 0o750)) // there already
	check(t, WriteFile(filepath.Join(path, "f"), []byte("x"), 0o600))
	if err := MkdirAll(filepath.Join(path, "f", "g"), 0o750); err == nil {
		t.Error("made a folder in a file")
	}
	check(t, RemoveAll(filepath.Join(dir, "a")))
	check(t, RemoveAll(filepath.Join(dir, "a"))) // gone already
	if list := names(t, dir); len(list) != 0 {
		t.Errorf("left behind: %q", list)
	}
	if err := SyncDir(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("sync: %v", err)
	}
}

// The order of a durable write is what a power cut cannot undo: content, fsync,
// rename, fsync of the folder; for folders, the name of each in its parent. The
// kernel's own trace of the system calls says whether it is kept.
func TestOrder(t *testing.T) {
	dir := t.TempDir()
	trace := traced(t, "write", dir)
	expectOrder(t, trace, []string{
		`openat\(.*\.f\.[0-9]+", .*O_CREAT.*O_EXCL`, `write\(.*"content"`, `fsync\(.*/\.f\.[0-9]+>`, `close\(.*/\.f\.[0-9]+>`,
		`rename(at2?)?\(.*\.f\.[0-9]+".*` + regexp.QuoteMeta(dir) + `/f"`, `fsync\([0-9]+<` + regexp.QuoteMeta(dir) + `>`,
	})
	trace = traced(t, "mkdir", dir)
	for _, parent := range []string{dir, dir + "/a", dir + "/a/b"} {
		expectOrder(t, trace, []string{`mkdirat\(.*` + regexp.QuoteMeta(parent) + `/[a-c]"`, `fsync\([0-9]+<` + regexp.QuoteMeta(parent) + `>`})
	}
	trace = traced(t, "remove", dir)
	expectOrder(t, trace, []string{`unlinkat\(.*"a", AT_REMOVEDIR|unlinkat\(.*/a", AT_REMOVEDIR`, `fsync\([0-9]+<` + regexp.QuoteMeta(dir) + `>`})
}

// doEnv makes the test binary do one thing, for strace to look at.
const doEnv = "NVH_DURABLE_DO"

func TestMain(m *testing.M) {
	what, dir, _ := strings.Cut(os.Getenv(doEnv), " ")
	var err error
	switch what {
	case "":
		os.Exit(m.Run())
	case "write":
		err = WriteFile(filepath.Join(dir, "f"), []byte("content"), 0o640)
	case "mkdir":
		err = MkdirAll(filepath.Join(dir, "a", "b", "c"), 0o750)
	case "remove":
		err = RemoveAll(filepath.Join(dir, "a"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// traced returns the system calls of that, in order.
func traced(t *testing.T, what, dir string) []string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "trace")
	cmd := exec.Command("strace", "-f", "-y", "-o", out, "-e",
		"trace=openat,write,fsync,close,rename,renameat,renameat2,mkdirat,unlinkat", os.Args[0])
	cmd.Env = append(os.Environ(), doEnv+"="+what+" "+dir)
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v (run make deps): %s", err, said)
	}
	var calls []string
	content, err := os.ReadFile(out)
	check(t, err)
	for lines := bufio.NewScanner(bytes.NewReader(content)); lines.Scan(); {
		calls = append(calls, lines.Text())
	}
	return calls
}

// expectOrder fails unless calls like these succeed one after the other.
func expectOrder(t *testing.T, trace, patterns []string) {
	t.Helper()
	rest := trace
	for _, pattern := range patterns {
		form := regexp.MustCompile(pattern)
		for len(rest) > 0 && (!form.MatchString(rest[0]) || strings.Contains(rest[0], "= -1")) {
			rest = rest[1:]
		}
		if len(rest) == 0 {
			t.Errorf("no call like %s in its place in\n%s", pattern, strings.Join(trace, "\n"))
			return
		}
		rest = rest[1:]
	}
}
