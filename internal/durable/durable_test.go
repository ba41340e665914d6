package durable

import (
	"os"
	"path/filepath"
	"testing"
)

func TestWriteFileReplaces(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for _, content := range []string{"the first and longer content", "the second", ""} {
		if err := WriteFile(path, []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != content {
			t.Fatalf("%q, %v; want %q", got, err, content)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	only(t, filepath.Dir(path), "file")
}

// A write that fails leaves what was there, and nothing else.
func TestWriteFileThatFails(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "folder")
	if err := os.MkdirAll(filepath.Join(target, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(target, []byte("content"), 0o600); err == nil {
		t.Error("a file was renamed over a folder")
	}
	only(t, dir, "folder")
	if err := WriteFile(filepath.Join(dir, "missing", "file"), nil, 0o600); err == nil {
		t.Error("a file was written into a folder that is not there")
	}
}

func TestFolders(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	for range 2 {
		if err := MkdirAll(dir, 0o750); err != nil {
			t.Fatal(err)
		}
	}
	only(t, filepath.Dir(dir), "b")
	if err := RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	only(t, filepath.Dir(dir))
	if err := SyncDir(dir); err == nil {
		t.Error("a folder was synced that is not there")
	}
}

// only fails unless the folder holds these names and no other.
func only(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var have []string
	for _, e := range entries {
		have = append(have, e.Name())
	}
	if len(have) != len(names) || len(names) == 1 && have[0] != names[0] {
		t.Errorf("%s holds %v, want %v", dir, have, names)
	}
}
