package nvram

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestFull(t *testing.T) {
	forEachCase(t, func(t *testing.T, c poolCase, path string) {
		c.init(t, path, 10*MiB)
		p := mustOpen(t, path)
		free := p.Info().Free
		if free != p.Info().LargestFree {
			t.Fatalf("%v are free, the largest piece is %v", free, p.Info().LargestFree)
		}
		_, err := p.Alloc(Request{"a", free - 2*MiB, UseUser}, Request{"b", 2*MiB + 1, UseUser})
		wantError(t, err, ErrFull, path)
		if len(p.Regions()) != 0 || p.Info().Free != free {
			t.Errorf("a refused Alloc left %+v", p.Info())
		}
		mustAlloc(t, p, Request{"a", free, UseUser})
		_, err = p.Alloc(Request{"b", 1, UseUser})
		wantError(t, err, ErrFull, path)
		must(t, p.Free("a"))
		mustAlloc(t, p, Request{"b", free, UseUser})
	})
}

func TestFullOfRegions(t *testing.T) {
	table := crashTable(LayoutDirectory)
	table.size = GiB
	reqs := make([]Request, MaxRegions)
	for i := range reqs {
		reqs[i] = Request{fmt.Sprint("r", i), 1, UseUser}
	}
	full, err := table.add(reqs, table.created)
	must(t, err)
	if _, err := full.add(reqs[:1], table.created); !errors.Is(err, ErrExists) {
		t.Errorf("the same name again gives %v", err)
	}
	if _, err := full.add([]Request{{"one-more", 1, UseUser}}, table.created); !errors.Is(err, ErrFull) {
		t.Errorf("region %d gives %v", MaxRegions+1, err)
	}
	if again, err := decodeTable(append(encodeTable(full), make([]byte, copySize)...)[:copySize]); err != nil || len(again.entries) != MaxRegions {
		t.Errorf("a full table is not read back: %v", err)
	}
}

func TestFreedExtentsMerge(t *testing.T) {
	path := filepath.Join(shmDir(t), "pool")
	must(t, Init(InitOptions{Path: path, Kind: KindShm, Layout: LayoutSingle, Size: 10 * MiB}))
	p := mustOpen(t, path)
	mustAlloc(t, p, Request{"a", 2 * MiB, UseUser}, Request{"b", 2 * MiB, UseUser}, Request{"c", 2 * MiB, UseUser}, Request{"d", 2 * MiB, UseUser})
	must(t, p.Free("b"))
	must(t, p.Free("d"))
	if _, err := p.Alloc(Request{"e", 4 * MiB, UseUser}); !errors.Is(err, ErrFull) {
		t.Fatalf("4 MiB in two pieces give %v", err)
	}
	must(t, p.Free("c"))
	if r := mustAlloc(t, p, Request{"e", 6 * MiB, UseUser}); r[0].Offset != 4*MiB {
		t.Errorf("it lies at %v", r[0].Offset)
	}
}

// TestNobodyReadsWhatIsNotTheirs gives memory that was written to a new owner.
func TestNobodyReadsWhatIsNotTheirs(t *testing.T) {
	forEachCase(t, func(t *testing.T, c poolCase, path string) {
		c.init(t, path, 10*MiB)
		p := mustOpen(t, path)
		size := p.Info().Free
		mustAlloc(t, p, Request{"first", size, UseUser})
		m, err := p.Map("first")
		must(t, err)
		m.Copy(0, bytes.Repeat([]byte("secret"), int(size)/6))
		must(t, m.Fence())
		must(t, m.Close())
		must(t, p.Free("first"))
		mustAlloc(t, p, Request{"second", size, UseUser})
		m, err = p.Map("second")
		must(t, err)
		defer m.Close()
		if !allZero(m.Bytes()) {
			t.Error("the second owner sees what the first one wrote")
		}
	})
}

func TestRegionsArePreallocated(t *testing.T) {
	forEachCase(t, func(t *testing.T, c poolCase, path string) {
		c.init(t, path, 10*MiB)
		p := mustOpen(t, path)
		r := mustAlloc(t, p, Request{"a", 4 * MiB, UseRAM})[0]
		var st unix.Stat_t
		must(t, unix.Stat(r.Path, &st))
		if reserved := Bytes(st.Blocks) * 512; reserved < r.Offset+r.Size {
			t.Errorf("%v are reserved", reserved)
		}
	})
}

func TestBadRequests(t *testing.T) {
	path := filepath.Join(shmDir(t), "pool")
	must(t, Init(InitOptions{Path: path, Kind: KindShm, Size: 16 * MiB}))
	p := mustOpen(t, path)
	mustAlloc(t, p, Request{"taken", MiB, UseUser}, Request{"other", MiB, UseUser})
	allocate := func(reqs ...Request) error {
		_, err := p.Alloc(reqs...)
		return err
	}
	tests := []struct {
		name string
		err  error
		want error // nil: any
	}{
		{"slash", allocate(Request{"a/b", MiB, UseUser}), ErrInvalidName},
		{"dot first", allocate(Request{".a", MiB, UseUser}), ErrInvalidName},
		{"no name", allocate(Request{"", MiB, UseUser}), ErrInvalidName},
		{"64 bytes", allocate(Request{strings.Repeat("x", 64), MiB, UseUser}), ErrInvalidName},
		{"newline", allocate(Request{"a\n", MiB, UseUser}), ErrInvalidName},
		{"no size", allocate(Request{"a", 0, UseUser}), nil},
		{"size that overflows", allocate(Request{"a", 1<<64 - 1, UseUser}), ErrFull},
		{"no use", allocate(Request{"a", MiB, ""}), nil},
		{"taken", allocate(Request{"taken", MiB, UseUser}), ErrExists},
		{"twice", allocate(Request{"a", MiB, UseUser}, Request{"a", MiB, UseUser}), ErrExists},
		{"free what is not there", p.Free("other", "nobody"), ErrNotFound},
		{"free twice", p.Free("other", "other"), ErrNotFound},
		{"rename what is not there", p.Rename(map[string]string{"other": "x", "nobody": "y"}), ErrNotFound},
		{"rename to a name taken", p.Rename(map[string]string{"other": "taken"}), ErrExists},
		{"rename two to one", p.Rename(map[string]string{"other": "x", "taken": "x"}), ErrExists},
		{"rename to a bad name", p.Rename(map[string]string{"other": "../x"}), ErrInvalidName},
	}
	for _, test := range tests {
		if test.err == nil || test.want != nil && !errors.Is(test.err, test.want) || !strings.Contains(test.err.Error(), path) {
			t.Errorf("%s: error is %v, want %v and the path", test.name, test.err, test.want)
		}
	}
	if got := p.Regions(); len(got) != 2 || got[0].Name != "taken" || got[1].Name != "other" {
		t.Errorf("refused changes left %+v", got)
	}
	must(t, allocate(Request{strings.Repeat("x", 63), MiB, UseUser}))
	must(t, p.Close())
	mustCheck(t, path)
}

func TestRenameMovesNothing(t *testing.T) {
	forEachCase(t, func(t *testing.T, c poolCase, path string) {
		c.init(t, path, 10*MiB)
		p := mustOpen(t, path)
		before := mustAlloc(t, p, Request{"a", MiB, UseUser}, Request{"b", MiB, UseUser})
		must(t, p.Rename(map[string]string{"a": "b", "b": "a"}))
		after := p.Regions()
		for i, name := range []string{"b", "a"} {
			want := before[i]
			want.Name = name
			if got := after[i]; got != want {
				t.Errorf("region is %+v, want %+v", got, want)
			}
		}
	})
}

func TestLeftoversAreRemovedAndNothingElse(t *testing.T) {
	path := filepath.Join(shmDir(t), "pool")
	must(t, Init(InitOptions{Path: path, Kind: KindShm, Size: 16 * MiB}))
	p := mustOpen(t, path)
	r := mustAlloc(t, p, Request{"a", MiB, UseUser})[0]
	must(t, p.Close())
	leftover := filepath.Join(path, regionPrefix+newID().String())
	others := []string{"region-of-mine", "letter.txt", regionPrefix + strings.ToUpper(ID{0xab}.String())}
	for _, file := range append([]string{filepath.Base(leftover)}, others...) {
		must(t, os.WriteFile(filepath.Join(path, file), []byte("x"), 0o600))
	}
	report, err := Check(path)
	must(t, err)
	if !report.OK() || len(report.Findings) != 1 || report.Findings[0].Where != leftover {
		t.Errorf("check says %+v", report.Findings)
	}
	ro, err := OpenReadOnly(path)
	must(t, err)
	must(t, ro.Close())
	if _, err := os.Stat(leftover); err != nil {
		t.Errorf("opening read-only removed something: %v", err)
	}
	must(t, mustOpen(t, path).Close())
	if _, err := os.Stat(leftover); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the leftover is still there: %v", err)
	}
	for _, file := range append(others, filepath.Base(r.Path)) {
		if _, err := os.Stat(filepath.Join(path, file)); err != nil {
			t.Error(err)
		}
	}
}

func TestReadOnly(t *testing.T) {
	forEachCase(t, func(t *testing.T, c poolCase, path string) {
		c.init(t, path, 10*MiB)
		p := mustOpen(t, path)
		mustAlloc(t, p, Request{"a", MiB, UseUser})
		m, err := p.Map("a")
		must(t, err)
		defer m.Close()
		m.Copy(0, []byte("hello"))
		must(t, m.Fence())

		ro, err := OpenReadOnly(path) // beside the one that has it
		must(t, err)
		defer ro.Close()
		for name, err := range map[string]error{
			"alloc": func() error { _, err := ro.Alloc(Request{"b", MiB, UseUser}); return err }(),
			"free":  ro.Free("a"), "rename": ro.Rename(map[string]string{"a": "b"}),
		} {
			if !errors.Is(err, ErrReadOnly) {
				t.Errorf("%s gives %v", name, err)
			}
		}
		look, err := ro.Map("a")
		must(t, err)
		defer look.Close()
		if string(look.Bytes()[:5]) != "hello" {
			t.Errorf("content is %q", look.Bytes()[:5])
		}
		defer func() {
			if recover() == nil {
				t.Error("a store to a read-only mapping did not panic")
			}
		}()
		look.Store(0, []byte("x"))
	})
}

func TestClosedPoolChangesNothing(t *testing.T) {
	path := filepath.Join(shmDir(t), "pool")
	must(t, Init(InitOptions{Path: path, Kind: KindShm, Size: 16 * MiB}))
	p := mustOpen(t, path)
	must(t, p.Close())
	must(t, p.Close())
	if _, err := p.Alloc(Request{"a", MiB, UseUser}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Alloc gives %v", err)
	}
}

// childVariable tells this program, started again by a test, which pool it is to work on.
const childVariable = "NVRAM_TEST_POOL"

// child starts one test of this program as a second process.
func child(t *testing.T, test, path string) *exec.Cmd {
	t.Helper()
	program, err := os.Executable()
	must(t, err)
	c := exec.Command(program, "-test.run=^"+test+"$", "-test.v")
	c.Env = append(os.Environ(), childVariable+"="+path)
	return c
}

func TestLockedByAnotherProcess(t *testing.T) {
	forEachCase(t, func(t *testing.T, c poolCase, path string) {
		c.init(t, path, 10*MiB)
		p := mustOpen(t, path)
		_, err := Open(path)
		wantError(t, err, ErrLocked, path)

		out, err := child(t, "TestChildOpens", path).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "in use") {
			t.Errorf("the other process says %v\n%s", err, out)
		}
		// On tmpfs /proc/locks shows the inode as stat does; some other file systems have their own device numbers there.
		if named := "by " + processName(os.Getpid()); c.kind == KindShm && !strings.Contains(string(out), named) {
			t.Errorf("the other process does not name the holder, %s:\n%s", named, out)
		}
		must(t, p.Close())
		if out, err := child(t, "TestChildOpens", path).CombinedOutput(); err != nil {
			t.Errorf("after Close the other process says %v\n%s", err, out)
		}
	})
}

// TestChildOpens is what child runs for the test above. By itself it opens a pool of its own.
func TestChildOpens(t *testing.T) {
	path := os.Getenv(childVariable)
	if path == "" {
		path = filepath.Join(shmDir(t), "pool")
		must(t, Init(InitOptions{Path: path, Size: 4 * MiB}))
	}
	must(t, mustOpen(t, path).Close())
}

// TestFileSystemFull runs in a mount namespace of its own, on a tmpfs of 8 MiB.
func TestFileSystemFull(t *testing.T) {
	if os.Getenv(childVariable) == "" {
		c := child(t, t.Name(), t.TempDir())
		c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}}
		if os.Getuid() == 0 {
			c.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
		}
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	mount := os.Getenv(childVariable)
	must(t, unix.Mount("tmpfs", mount, "tmpfs", 0, "size=8m"))
	path := filepath.Join(mount, "pool")
	must(t, Init(InitOptions{Path: path, Size: 8 * MiB})) // the quota is more than will be left
	p := mustOpen(t, path)
	mustAlloc(t, p, Request{"a", 4 * MiB, UseUser})
	before, err := os.ReadDir(path)
	must(t, err)
	_, err = p.Alloc(Request{"b", 2 * MiB, UseUser}, Request{"c", 2 * MiB, UseUser})
	wantError(t, err, ErrFull, path)
	if !strings.Contains(err.Error(), "free") {
		t.Errorf("it does not say what is free: %v", err)
	}
	after, err := os.ReadDir(path)
	must(t, err)
	if len(before) != len(after) || len(p.Regions()) != 1 {
		t.Errorf("files were %v, are %v", before, after)
	}
	mustAlloc(t, p, Request{"b", 2 * MiB, UseUser})
	single := filepath.Join(mount, "single")
	if err := Init(InitOptions{Path: single, Layout: LayoutSingle, Size: 6 * MiB}); !errors.Is(err, ErrFull) {
		t.Errorf("Init gives %v", err)
	}
	if _, err := os.Stat(single); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a failed Init left its file: %v", err)
	}
}
