package labtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

var programs struct {
	sync.Mutex
	folder string
}

// Programs builds nvh and nvhd, once a test program, and returns the folder they are in. Main removes it.
func Programs(t testing.TB) string {
	t.Helper()
	programs.Lock()
	defer programs.Unlock()
	if programs.folder != "" {
		return programs.folder
	}
	folder, err := os.MkdirTemp("", "nvh-lab-bin-")
	if err != nil {
		t.Fatal(err)
	}
	const module = "github.com/nv-hypervisor/nv-hypervisor"
	build := exec.Command("go", "build", "-o", folder+"/", module+"/cmd/nvh", module+"/cmd/nvhd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		os.RemoveAll(folder)
		t.Fatalf("build nvh and nvhd: %v\n%s", err, out)
	}
	programs.folder = folder
	return folder
}

// Main runs the tests of a package that uses this one, and removes what they share.
func Main(m *testing.M) {
	code := m.Run()
	if programs.folder != "" {
		os.RemoveAll(programs.folder)
	}
	os.Exit(code)
}

func freeBytes(path string) (uint64, error) {
	var st unix.Statfs_t
	err := unix.Statfs(filepath.Clean(path), &st)
	return st.Bavail * uint64(st.Bsize), err
}
