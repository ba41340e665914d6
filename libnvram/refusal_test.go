package main_test

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
)

// refusal is a call that must fail. Its last line names the verb, errno, and what went wrong; what to do stands behind a semicolon.
type refusal struct {
	name  string
	setUp func(t *testing.T, path string)
	verbs string // PATH stands for the pool
	want  string // the beginning of the last line
	what  string // and a part of it
	to    string // and a part of what to do
}

// withPool makes a directory pool of 8 MiB in which C allocated the region "a".
func withPool(t *testing.T, path string) {
	t.Helper()
	must(t, nvram.Init(nvram.InitOptions{Path: path, Size: 8 * nvram.MiB}))
	change(t, path, nvram.Request{Name: "a", Size: 1, Use: nvram.UseUser})
}

func change(t *testing.T, path string, requests ...nvram.Request) {
	t.Helper()
	p, err := nvram.Open(path)
	must(t, err)
	_, err = p.Alloc(requests...)
	must(t, err)
	must(t, p.Close())
}

// damaged makes the pool, and then does something to its metadata file.
func damaged(damage func(meta []byte) []byte) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		withPool(t, path)
		file := filepath.Join(path, "nvram.meta")
		meta, err := os.ReadFile(file)
		must(t, err)
		must(t, os.WriteFile(file, damage(meta), 0o600))
	}
}

// onRegion makes the pool, and then does something to the file of its region.
func onRegion(damage func(t *testing.T, file string)) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		withPool(t, path)
		files, err := filepath.Glob(filepath.Join(path, "region-*"))
		must(t, err)
		if len(files) != 1 {
			t.Fatalf("region files: %v", files)
		}
		damage(t, files[0])
	}
}

// Offsets in the metadata are those of docs and nvram/layout.go: the head with its version at 8 and checksum at 12, the copies of the table.
func newerVersion(meta []byte) []byte {
	binary.LittleEndian.PutUint32(meta[8:], 99)
	binary.LittleEndian.PutUint32(meta[12:], crc32.Checksum(meta[:12], crc32.MakeTable(crc32.Castagnoli)))
	return meta
}

func corruptTables(meta []byte) []byte {
	meta[4096+300] ^= 1
	meta[139264+300] ^= 1
	return meta
}

func replaceRegion(t *testing.T, file string) {
	must(t, os.WriteFile(file+".new", make([]byte, 2*nvram.MiB), 0o600))
	must(t, os.Rename(file+".new", file))
}

func foreignFile(t *testing.T, path string) {
	must(t, os.WriteFile(path, []byte(strings.Repeat("somebody's data ", 1<<16)), 0o600))
}

func machines(t *testing.T, path string) {
	withPool(t, path)
	change(t, path, nvram.Request{Name: "vm", Size: 1, Use: nvram.UseRAM})
}

// lockedByUs opens the pool in this process, which is another one for the C program.
func lockedByUs(t *testing.T, path string) {
	withPool(t, path)
	p, err := nvram.Open(path)
	must(t, err)
	t.Cleanup(func() { must(t, p.Close()) })
}

var refusals = []refusal{
	{name: "full pool", setUp: withPool, verbs: "open PATH 0 alloc b 8000000", want: "alloc ENOSPC", what: "6 MiB are free", to: "free some regions"},
	{name: "larger than any memory", setUp: withPool, verbs: "open PATH 0 alloc b 0xffffffffffffffff", want: "alloc ENOSPC", to: "free some regions"},
	{name: "size 0", setUp: withPool, verbs: "open PATH 0 alloc b 0", want: "alloc EINVAL", what: "size is 0", to: "at least 1 byte"},
	{name: "name with a slash", setUp: withPool, verbs: "open PATH 0 alloc b/c 1", want: "alloc EINVAL", what: `"b/c"`, to: ""},
	{name: "empty name", setUp: withPool, verbs: "open PATH 0 alloc  1", want: "alloc EINVAL", what: "invalid region name", to: ""},
	{name: "long name", setUp: withPool, verbs: "open PATH 0 alloc " + strings.Repeat("n", 64) + " 1", want: "alloc EINVAL", what: "up to 63", to: ""},
	{name: "name taken", setUp: withPool, verbs: "open PATH 0 alloc a 1", want: "alloc EEXIST", what: `"a"`, to: "another name"},
	{name: "not allocated", setUp: withPool, verbs: "open PATH 0 map b", want: "map ENOENT", what: `"b"`, to: "list the pool"},
	{name: "double free", setUp: withPool, verbs: "open PATH 0 map a free a free a", want: "free ENOENT", what: `"a"`, to: "list the pool"},
	{name: "free of what is not mapped", setUp: withPool, verbs: "open PATH 0 free a map a", want: "map ENOENT", to: "list the pool"},

	{name: "foreign file", setUp: foreignFile, verbs: "open PATH 0", want: "open EMEDIUMTYPE", what: "not an NVRAM pool", to: "--force"},
	{name: "init over a foreign file", setUp: foreignFile, verbs: "init PATH shm 0 0", want: "init EMEDIUMTYPE", to: "--force"},
	{name: "init over a pool", setUp: withPool, verbs: "init PATH NULL 0 0", want: "init EEXIST", what: "1 regions", to: "use it"},
	{name: "missing", verbs: "open PATH 0", want: "open ENOENT", to: "nv_init"},
	{name: "nothing initialised", setUp: func(t *testing.T, path string) { must(t, os.Mkdir(path, 0o700)) }, verbs: "open PATH 0", want: "open ENODATA", to: "initialise"},
	{name: "newer version", setUp: damaged(newerVersion), verbs: "open PATH 0", want: "open EPROTONOSUPPORT", what: "99", to: "newer version"},
	{name: "corrupt", setUp: damaged(corruptTables), verbs: "open PATH 0", want: "open EUCLEAN", to: "nvh nvram dump"},
	{name: "truncated", setUp: damaged(func(meta []byte) []byte { return meta[:100_000] }), verbs: "open PATH 0", want: "open ENXIO", to: "restore"},
	{name: "region truncated", setUp: onRegion(func(t *testing.T, file string) { must(t, os.Truncate(file, 4096)) }), verbs: "open PATH 0 map a", want: "map ENXIO", to: "free the region"},
	{name: "region replaced", setUp: onRegion(replaceRegion), verbs: "open PATH 0 map a", want: "map ESTALE", to: "free the region"},
	{name: "in use by another process", setUp: lockedByUs, verbs: "open PATH 0", want: "open EBUSY", what: fmt.Sprintf("by process %d", os.Getpid()), to: "stop the program"},
	{name: "in use by this process", setUp: withPool, verbs: "open PATH 0 open PATH 0", want: "open EBUSY", what: "by process", to: "stop the program"},

	{name: "region of a VM mapped", setUp: machines, verbs: "open PATH 0 map vm", want: "map EPERM", what: "virtual machine", to: "a pool of your own"},
	{name: "region of a VM freed", setUp: machines, verbs: "open PATH 0 free vm", want: "free EPERM", what: "virtual machine", to: "a pool of your own"},
	{name: "read-only alloc", setUp: lockedByUs, verbs: "open PATH 1 alloc b 1", want: "alloc EROFS", to: "NV_RDONLY"},
	{name: "read-only free", setUp: lockedByUs, verbs: "open PATH 1 free a", want: "free EROFS", to: "NV_RDONLY"},
	{name: "read-only persist", setUp: lockedByUs, verbs: "open PATH 1 map a persist 0 1", want: "persist EROFS", to: "NV_RDONLY"},
	{name: "persist beyond the end", setUp: withPool, verbs: "open PATH 0 map a persist 2097151 2", want: "persist EFAULT", what: "2 bytes", to: "nv_map"},
	{name: "persist after free", setUp: withPool, verbs: "open PATH 0 map a free a persist 0 1", want: "persist EFAULT", to: "nv_map"},
	{name: "persist after close", setUp: withPool, verbs: "open PATH 0 map a close persist 0 1", want: "persist EFAULT", to: "nv_map"},
	{name: "double close", setUp: withPool, verbs: "open PATH 0 close close", want: "close EBADF", to: "nv_open"},
	{name: "alloc after close", setUp: withPool, verbs: "open PATH 0 close alloc b 1", want: "alloc EBADF", to: "nv_open"},
	{name: "list after close", setUp: withPool, verbs: "open PATH 0 close list 2", want: "list EBADF", to: "nv_open"},
	{name: "info after close", setUp: withPool, verbs: "open PATH 0 close info", want: "info EBADF", to: "nv_open"},

	{name: "init NULL", verbs: "init NULL shm 0 0", want: "init EFAULT", what: "path is NULL", to: "give the path"},
	{name: "open NULL", verbs: "open NULL 0", want: "open EFAULT", what: "path is NULL", to: "give the path"},
	{name: "close NULL", verbs: "close", want: "close EFAULT", what: "pool is NULL", to: "nv_open"},
	{name: "alloc in NULL", verbs: "alloc b 1", want: "alloc EFAULT", what: "pool is NULL", to: "nv_open"},
	{name: "alloc NULL", setUp: withPool, verbs: "open PATH 0 alloc NULL 1", want: "alloc EFAULT", what: "name is NULL", to: "name of a region"},
	{name: "map in NULL", verbs: "map a", want: "map EFAULT", what: "pool is NULL", to: "nv_open"},
	{name: "map NULL", setUp: withPool, verbs: "open PATH 0 map NULL", want: "map EFAULT", what: "name is NULL", to: "name of a region"},
	{name: "free in NULL", verbs: "free a", want: "free EFAULT", what: "pool is NULL", to: "nv_open"},
	{name: "free NULL", setUp: withPool, verbs: "open PATH 0 free NULL", want: "free EFAULT", what: "name is NULL", to: "name of a region"},
	{name: "persist NULL", verbs: "persist 0 1", want: "persist EFAULT", what: "address is NULL", to: "nv_alloc"},
	{name: "list NULL", verbs: "list 0", want: "list EFAULT", what: "pool is NULL", to: "nv_open"},
	{name: "list into NULL", setUp: withPool, verbs: "open PATH 0 list 3", want: "list EFAULT", what: "regions is NULL", to: "capacity of 0"},
	{name: "info of NULL", verbs: "info", want: "info EFAULT", what: "pool is NULL", to: "nv_open"},
	{name: "info into NULL", setUp: withPool, verbs: "open PATH 0 blind", want: "blind EFAULT", what: "info is NULL", to: "nv_pool_info"},

	{name: "unknown kind", verbs: "init PATH floppy 0 0", want: "init EINVAL", what: "floppy", to: "shm, fsdax"},
	{name: "unknown flag of init", verbs: "init PATH shm 0 2", want: "init EINVAL", what: "unknown flag", to: "NV_SINGLE"},
	{name: "unknown flag of open", setUp: withPool, verbs: "open PATH 6", want: "open EINVAL", what: "unknown flag", to: "NV_RDONLY"},
	{name: "file system too small", verbs: "init PATH shm 0x100000000000 0", want: "init ENOSPC", what: "more than the file system", to: "smaller size"},
}

func TestRefusals(t *testing.T) {
	verbs := compileLinked(t, "testdata/verbs.c")
	for _, r := range refusals {
		t.Run(r.name, func(t *testing.T) {
			path := shmPath(t)
			if r.setUp != nil {
				r.setUp(t, path)
			}
			args := strings.Split(r.verbs, " ")
			for i := range args {
				args[i] = strings.Replace(args[i], "PATH", path, 1)
			}
			lines := strings.Split(strings.TrimSuffix(output(t, command(t, verbs, args...)), "\n"), "\n")
			last := lines[len(lines)-1]
			what, to, _ := strings.Cut(last, "; ")
			if !strings.HasPrefix(last, r.want+" ") || !strings.Contains(what, r.what) || to == "" || !strings.Contains(to, r.to) {
				t.Errorf("got  %s\nwant %s … %s …; … %s …", last, r.want, r.what, r.to)
			}
		})
	}
}

// A C program keeps others out, and lets them look.
func TestProgramHoldsThePool(t *testing.T) {
	path := shmPath(t)
	withPool(t, path)
	c := command(t, compileLinked(t, "testdata/verbs.c"), "open", path, "0", "wait")
	input, err := c.StdinPipe()
	must(t, err)
	out, err := c.StdoutPipe()
	must(t, err)
	must(t, c.Start())
	said := make([]byte, len("open ok\nwait\n"))
	if _, err := io.ReadFull(out, said); err != nil || string(said) != "open ok\nwait\n" {
		t.Fatalf("said %q, %v", said, err)
	}
	_, err = nvram.Open(path)
	if want := fmt.Sprintf("by process %d (verbs)", c.Process.Pid); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error is %v, want it to name %s", err, want)
	}
	p, err := nvram.OpenReadOnly(path)
	must(t, err)
	must(t, p.Close())
	must(t, input.Close())
	must(t, c.Wait())
	p, err = nvram.Open(path)
	must(t, err)
	must(t, p.Close())
}

// What a pool tells about itself, in both layouts.
func TestInfoAndList(t *testing.T) {
	verbs := compileLinked(t, "testdata/verbs.c")
	for _, test := range []struct{ layout, flags, info string }{
		{"directory", "0", `info shm directory (clwb|clflushopt|clflush|msync) 33554432 25165824 25165824 2097152 3 36`},
		{"single", "1", `info shm single (clwb|clflushopt|clflush|msync) 33554432 23068672 23068672 2097152 3 36`},
	} {
		path := shmPath(t)
		output(t, command(t, verbs, "init", path, "shm", "33554432", test.flags))
		out := output(t, command(t, verbs, "open", path, "0", "alloc", "a", "1", "alloc", "b", "2097153", "alloc", "c", "1", "free", "a", "alloc", "d", "1", "list", "2", "list", "0", "info"))
		wantMatch(t, out, `(?m)^list b user 4194304 36 dated\nlist c user 2097152 36 dated\nlist count 3\nlist ok\nlist count 3\ninfo ok\n`+test.info+`\n$`)
		wantSound(t, path)
	}
}
