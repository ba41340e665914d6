package initramfs_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/nv-hypervisor/nv-hypervisor/lab/guest/initramfs"
)

func archive(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	w := initramfs.NewWriter(&b)
	for _, err := range []error{
		w.Dir("etc", 0o755),
		w.File("etc/odd", 0o640, []byte("12345")),
		w.File("etc/empty", 0o644, nil),
		w.Symlink("link", "etc/odd"),
		w.Close(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

// cpio(1) is another reader of the format: what it unpacks must be what was put in.
func TestCpioUnpacksWhatWasWritten(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command("cpio", "--extract", "--quiet", "--no-absolute-filenames")
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(archive(t))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cpio: %v\n%s", err, out)
	}
	got, err := os.ReadFile(filepath.Join(dir, "link"))
	if err != nil || string(got) != "12345" {
		t.Errorf("content through the link = %q, %v", got, err)
	}
	info, err := os.Stat(filepath.Join(dir, "etc/odd"))
	if err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode of etc/odd = %v, %v", info, err)
	}
	if info, err := os.Stat(filepath.Join(dir, "etc/empty")); err != nil || info.Size() != 0 {
		t.Errorf("etc/empty = %v, %v", info, err)
	}
}

func TestEqualInputGivesEqualBytes(t *testing.T) {
	if !bytes.Equal(archive(t), archive(t)) {
		t.Error("two archives of the same input differ")
	}
}

func TestAbsoluteNameIsRefused(t *testing.T) {
	w := initramfs.NewWriter(&bytes.Buffer{})
	if err := w.File("/init", 0o755, nil); err == nil {
		t.Error("an absolute name was accepted")
	}
}

type brokenPipe struct{}

var errBroken = errors.New("broken")

func (brokenPipe) Write([]byte) (int, error) { return 0, errBroken }

func TestWriteErrorIsKept(t *testing.T) {
	w := initramfs.NewWriter(brokenPipe{})
	if err := w.Dir("a", 0o755); !errors.Is(err, errBroken) {
		t.Errorf("Dir = %v", err)
	}
	if err := w.Close(); !errors.Is(err, errBroken) {
		t.Errorf("Close after an error = %v, want that error", err)
	}
}
