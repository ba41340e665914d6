package lab

import (
	"archive/tar"
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/lab/plan"
	"github.com/nv-hypervisor/nv-hypervisor/nvram"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// stand is a host whose outer QEMU is another program.
func stand(t *testing.T, program string, args ...string) *Host {
	t.Helper()
	o := Options{Bin: "/bin", NVDIMMs: []NVDIMM{{Size: 64 * nvram.MiB, Mode: plan.FSDAX}}}
	must(t, o.complete())
	h := &Host{folder: filepath.Join(t.TempDir(), "host"), config: config{Options: o, Kernel: "/k", Root: "/r"}}
	must(t, os.Mkdir(h.folder, 0o755))
	script := h.path("outer")
	must(t, os.WriteFile(script, []byte("#!/bin/sh\nexec "+program+" "+strings.Join(args, " ")+"\n"), 0o755))
	h.config.QEMU = script
	must(t, h.save())
	t.Cleanup(func() {
		if err := h.Cut(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func TestOptionsThatAreRefused(t *testing.T) {
	for name, o := range map[string]Options{
		"no programs":  {},
		"kernel":       {Bin: "/b", Kernel: "5.10"},
		"QEMU":         {Bin: "/b", QEMU: "6.0"},
		"domain":       {Bin: "/b", Persistence: "none"},
		"mode":         {Bin: "/b", NVDIMMs: []NVDIMM{{Size: 64 * nvram.MiB, Mode: "sector"}}},
		"size":         {Bin: "/b", NVDIMMs: []NVDIMM{{Size: 65 * nvram.MiB, Mode: plan.FSDAX}}},
		"CPUs":         {Bin: "/b", CPUs: -1},
		"memory":       {Bin: "/b", Memory: 10 * nvram.MiB},
		"small NVDIMM": {Bin: "/b", NVDIMMs: []NVDIMM{{Size: 16 * nvram.MiB, Mode: plan.FSDAX}}},
	} {
		if err := o.complete(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// Nothing is made for programs that are not there.
func TestCreateWithoutPrograms(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "host")
	if _, err := Create(t.Context(), folder, Options{Bin: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "make build") {
		t.Errorf("says %v", err)
	}
	if _, err := os.Stat(folder); !os.IsNotExist(err) {
		t.Errorf("left behind: %v", err)
	}
}

func TestNames(t *testing.T) {
	for name, ok := range map[string]bool{"lab": true, "a-1": true, "": false, "../x": false, "A": false, "-a": false, strings.Repeat("a", 33): false} {
		if err := CheckName(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// The NVDIMM's file has room for its labels, and the machine for the NVDIMM.
func TestArgumentsOfAnNVDIMM(t *testing.T) {
	h := stand(t, "true")
	h.config.Options.Persistence, h.config.Options.Unarmed = CPUCache, true
	args := strings.Join(h.args(), " ")
	for _, want := range []string{
		"nvdimm=on,nvdimm-persistence=cpu ",
		"id=nvram0,share=on,mem-path=nvdimm0.img,size=67239936 ", // 64 MiB + 128 KiB
		"label-size=131072,unarmed=on ", "slots=1,maxmem=3136M ",
	} {
		if !strings.Contains(args, want) {
			t.Errorf("%q is not in %s", want, args)
		}
	}
}

// The script must be what a shell takes for the same arguments.
func TestPowerOnScript(t *testing.T) {
	h := stand(t, "printf", `'%s\n' "$@"`)
	h.config.Kernel = "/a folder/it's, a kernel"
	must(t, h.writeCommand())
	out, err := exec.Command("sh", h.path(commandFile)).Output()
	must(t, err)
	if got, want := string(out), strings.Join(h.args(), "\n")+"\n"; got != want {
		t.Errorf("the shell ran\n%s\nwant\n%s", got, want)
	}
}

// A host belongs to its folder: whoever opens that finds its process, and no other one with the same id.
func TestCutEndsTheProcessOfTheFolder(t *testing.T) {
	h := stand(t, "sleep", "1000")
	if h.On() {
		t.Fatal("on before it was powered on")
	}
	must(t, h.spawn())
	again, err := Open(h.Folder())
	must(t, err)
	o, err := again.running()
	must(t, err)
	if o == nil {
		t.Fatal("the running host is not found")
	}
	must(t, again.Cut())
	if h.On() || unix.Kill(o.PID, 0) == nil && !zombie(o.PID) {
		t.Error("it lives on")
	}
	must(t, h.Cut()) // of one that is off

	must(t, os.WriteFile(h.path(pidFile), fmt.Appendf(nil, `{"PID":%d,"Start":"1"}`, os.Getpid()), 0o644))
	if h.On() {
		t.Error("another process with the same id is taken for the host")
	}
}

func zombie(pid int) bool {
	_, alive := startTime(pid)
	return !alive
}

// A socket is reached although the path of its folder is longer than an address can be.
func TestSocketInADeepFolder(t *testing.T) {
	deep := filepath.Join(t.TempDir(), strings.Repeat("d", 120))
	must(t, os.Mkdir(deep, 0o755))
	h := &Host{folder: deep}
	var listener net.Listener
	must(t, h.nearby("s.sock", func(path string) (err error) {
		listener, err = net.Listen("unix", path)
		return err
	}))
	defer listener.Close()
	conn, err := h.dial(t.Context(), "s.sock")
	must(t, err)
	must(t, conn.Close())
}

// The copy of a cut has what the files held while the process stood still, and the process goes on.
func TestCutCopy(t *testing.T) {
	// It writes a growing number to the NVDIMM and then to the disk: in a copy of one instant they differ by one at most.
	h := stand(t, "sh", "-c", `'i=0; while :; do i=$((i+1)); echo $i >nvdimm0.img.new; mv nvdimm0.img.new nvdimm0.img; echo $i >disk.img.new; mv disk.img.new disk.img; done'`)
	for _, name := range []string{initramfsFile, diskFile, NVDIMMFile(0)} {
		must(t, os.WriteFile(h.path(name), []byte("0\n"), 0o644))
	}
	must(t, h.spawn())
	folder := filepath.Join(t.TempDir(), "dark") // one copy is made over the other
	for range 5 {
		time.Sleep(20 * time.Millisecond)
		start := time.Now()
		dark, frozen, err := h.CutCopy(t.Context(), folder)
		must(t, err)
		if frozen.At.Before(start) || frozen.For <= 0 || frozen.At.Add(frozen.For).After(time.Now()) {
			t.Errorf("frozen %v for %v, between %v and now", frozen.At, frozen.For, start)
		}
		first, second := number(t, dark.path(NVDIMMFile(0))), number(t, dark.path(diskFile))
		if d := first - second; d < 0 || d > 1 {
			t.Errorf("the copy is of two instants: %d and %d", first, second)
		}
		if dark.On() || !h.On() {
			t.Errorf("on: copy %v, original %v", dark.On(), h.On())
		}
		again, err := dark.Duplicate(filepath.Join(t.TempDir(), "again"))
		must(t, err)
		if got := number(t, again.path(diskFile)); got != second {
			t.Errorf("the duplicate has %d, the copy %d", got, second)
		}
		if _, err := os.Stat(dark.path(DaemonLog)); err == nil {
			t.Error("the log of an earlier copy is there")
		}
		must(t, os.WriteFile(dark.path(DaemonLog), []byte("of this copy"), 0o644))
	}
	must(t, h.Cut())
	if _, _, err := h.CutCopy(t.Context(), filepath.Join(t.TempDir(), "dark")); err == nil {
		t.Error("the power of a host that is off was cut")
	}
}

func number(t *testing.T, path string) int {
	t.Helper()
	content, err := os.ReadFile(path)
	must(t, err)
	n := 0
	for _, c := range bytes.TrimSpace(content) {
		n = 10*n + int(c-'0')
	}
	return n
}

func TestSparseCopy(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	f, err := os.Create(from)
	must(t, err)
	for _, at := range []int64{5, 3 << 20, 8<<20 - 1} {
		_, err := f.WriteAt([]byte("x"), at)
		must(t, err)
	}
	must(t, f.Truncate(64<<20))
	must(t, f.Close())
	must(t, os.WriteFile(to, bytes.Repeat([]byte("old"), 30<<20), 0o644)) // all of it is overwritten
	must(t, copySparse(to, from))
	a, err := os.ReadFile(from)
	must(t, err)
	b, err := os.ReadFile(to)
	must(t, err)
	if !bytes.Equal(a, b) {
		t.Error("the copy differs")
	}
	var st unix.Stat_t
	must(t, unix.Stat(to, &st))
	if st.Blocks*512 > 16<<20 {
		t.Errorf("the copy of a sparse file takes %d bytes", st.Blocks*512)
	}
}

func TestPackAndUnpack(t *testing.T) {
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "new")
	must(t, os.MkdirAll(filepath.Join(from, "a/b"), 0o755))
	must(t, os.WriteFile(filepath.Join(from, "a/b/run"), []byte("content"), 0o755))
	var archive bytes.Buffer
	must(t, pack(&archive, from, "name"))
	must(t, unpack(&archive, "name", to))
	content, err := os.ReadFile(filepath.Join(to, "a/b/run"))
	if err != nil || string(content) != "content" {
		t.Errorf("%q, %v", content, err)
	}
}

// What comes out of a host is not trusted.
func TestUnpackWritesNowhereElse(t *testing.T) {
	for _, name := range []string{"../evil", "name/../../evil", "/evil", "names", "other"} {
		var archive bytes.Buffer
		w := tar.NewWriter(&archive)
		must(t, w.WriteHeader(&tar.Header{Name: name, Size: 1, Mode: 0o644, Typeflag: tar.TypeReg}))
		_, err := w.Write([]byte("x"))
		must(t, err)
		must(t, w.Close())
		if err := unpack(&archive, "name", filepath.Join(t.TempDir(), "name")); err == nil {
			t.Errorf("%s was unpacked", name)
		}
	}
}
