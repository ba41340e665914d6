package qemu

import (
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
)

var update = flag.Bool("update", false, "write the command lines in testdata/argv anew")

const testUUID = "6f1b2c3d-0000-4000-8000-00000000002a"

// testBinary is a QEMU as Probe describes one.
func testBinary() *Binary {
	return &Binary{
		Path: "/usr/bin/qemu-system-x86_64", Version: "7.2.22 (Debian 1:7.2)",
		Machines: []Machine{
			{Name: "pc-i440fx-7.2", Alias: "pc", Default: true, MaxCPUs: 255},
			{Name: "pc-q35-7.2", Alias: "q35", MaxCPUs: 288}, {Name: "pc-q35-7.1", MaxCPUs: 288},
			{Name: "microvm", MaxCPUs: 288},
		},
		CPUs: []string{"max", "host", "qemu64"},
	}
}

// inImages runs a test in a folder with a raw image, a qcow2 image and a kernel.
func inImages(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, content := range map[string]string{
		"raw": strings.Repeat("\x00", 4096), "cow": qcow2Magic + "\x00\x00\x00\x03", "kernel": "MZ", "initrd": "070701", "a,b": "",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestCommand(t *testing.T) {
	dir := inImages(t)
	foreign, _, err := ParseCommandLine(strings.Fields("-m 64 -smp 2,sockets=2 -accel tcg -nographic -hda " + dir + "/raw -netdev bridge,id=n -device e1000,netdev=n"))
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name    string
		guest   Guest
		runtime Runtime
	}{
		{"smallest", Guest{Memory: 2 * nvram.MiB, Accel: "tcg"}, Runtime{Dir: "/run/nvh/vm"}},
		{"everything", Guest{
			Memory: 512 * nvram.MiB, CPUs: 4, Machine: "pc-q35-7.1,vmport=off", CPU: "max,-avx", Accel: "tcg,thread=single",
			Disks: []Disk{
				{Path: dir + "/a,b"}, {Path: dir + "/cow", Format: "qcow2", Cache: "directsync"},
				{Path: dir + "/raw", ReadOnly: true}, {Path: dir + "/kernel", Cache: "unsafe", Force: true},
			},
			Nets: []Net{
				{Type: "user", Forward: []string{"tcp:127.0.0.1:2222-:22", "udp::53-:53"}},
				{Type: "tap", Device: "tap0", MAC: "52:54:00:AA:bb:01"},
			},
			Kernel: dir + "/kernel", Initrd: dir + "/initrd", Cmdline: "console=ttyS0, quiet",
			Extra: []string{"-device", "virtio-balloon-pci"},
		}, Runtime{
			Dir: "/run/nvh/a,b", Log: "/var/log/q,x.log", ConsoleLog: "/var/log/c,x.log", Incoming: true, User: "nobody",
			RAM: &Backing{Path: "/dev/dax0,0", Offset: 4 * nvram.MiB, Align: nvram.Alignment},
		}},
		{"bridge", Guest{Memory: 2 * nvram.MiB, Machine: "pc", Accel: "tcg", Nets: []Net{{Type: "bridge", Device: "br0"}}},
			Runtime{Dir: "/run/nvh/vm", RAM: &Backing{Path: "/pool/ram"}}},
		{"foreign", foreign, Runtime{Dir: "/run/nvh/vm", RAM: &Backing{Path: "/pool/ram"}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l, err := Pin(context.Background(), testBinary(), "web,1", testUUID, test.guest)
			if err != nil {
				t.Fatal(err)
			}
			got := strings.ReplaceAll(strings.Join(l.Command(test.runtime), "\n")+"\n", dir, "IMAGES")
			golden := filepath.Join("testdata", "argv", test.name+".golden")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("command line (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPinRefuses(t *testing.T) {
	dir := inImages(t)
	if err := os.Symlink("/dev/null", dir+"/null"); err != nil {
		t.Fatal(err)
	}
	disk := func(d Disk) Guest { return Guest{Disks: []Disk{d}} }
	nic := func(n Net) Guest { return Guest{Nets: []Net{n}} }
	tests := []struct {
		name   string
		guest  Guest
		reason string
	}{
		{"memory", Guest{Memory: 3 * nvram.MiB}, "memory 3 MiB is not a multiple of 2 MiB: take 4 MiB"},
		{"machine", Guest{Machine: "q36"}, `machine type "q36" is unknown to QEMU 7.2.22`},
		{"odd machine", Guest{Machine: "microvm"}, "use q35 or pc"},
		{"RAM property", Guest{Machine: "q35,memory-backend=x"}, "the RAM is ours to place"},
		{"CPUs", Guest{CPUs: 289}, "has 1 to 288"},
		{"negative CPUs", Guest{CPUs: -1}, "has 1 to 288"},
		{"CPU", Guest{CPU: "z80"}, `CPU model "z80" is unknown`},
		{"host CPU under TCG", Guest{CPU: "host"}, "needs KVM: use max"},
		{"accel", Guest{Accel: "xen"}, "use kvm or tcg"},
		{"no image", disk(Disk{Path: dir + "/none"}), "make one with qemu-img create"},
		{"relative image", disk(Disk{Path: "raw"}), "give an absolute path"},
		{"folder", disk(Disk{Path: dir}), "neither a file nor a block device"},
		{"character device", disk(Disk{Path: dir + "/null"}), "neither a file nor a block device"},
		{"qcow2 as raw", disk(Disk{Path: dir + "/cow"}), `set format = "qcow2"`},
		{"raw as qcow2", disk(Disk{Path: dir + "/raw", Format: "qcow2"}), "is not a qcow2 image"},
		{"format", disk(Disk{Path: dir + "/raw", Format: "vmdk"}), "use raw or qcow2"},
		{"writeback", disk(Disk{Path: dir + "/raw", Cache: "writeback"}), "force_unsafe_cache"},
		{"cache", disk(Disk{Path: dir + "/raw", Cache: "fast"}), "use none or directsync"},
		{"twice", Guest{Disks: []Disk{{Path: dir + "/raw"}, {Path: dir + "/raw", ReadOnly: true}}}, "used twice"},
		{"net", nic(Net{Type: "vde"}), "use user, tap or bridge"},
		{"tap", nic(Net{Type: "tap"}), "not the name of an interface"},
		{"tap with parameters", nic(Net{Type: "tap", Device: "t,script=x"}), "not the name of an interface"},
		{"user with device", nic(Net{Type: "user", Device: "eth0"}), "has no device"},
		{"forward", nic(Net{Type: "user", Forward: []string{"tcp::22"}}), "is not of the form"},
		{"forward with parameters", nic(Net{Type: "user", Forward: []string{"tcp::22-:22,smb=/"}}), "is not of the form"},
		{"forward without user", nic(Net{Type: "tap", Device: "t", Forward: []string{"tcp::2-:2"}}), "only possible with type user"},
		{"MAC", nic(Net{Type: "user", MAC: "52:54"}), "is not of the form"},
		{"multicast MAC", nic(Net{Type: "user", MAC: "53:54:00:00:00:01"}), "multicast"},
		{"kernel", Guest{Kernel: dir + "/none"}, "kernel cannot be read"},
		{"kernel folder", Guest{Kernel: dir}, "not a regular file"},
		{"initrd alone", Guest{Initrd: dir + "/initrd"}, "need a kernel"},
		{"extra", Guest{Extra: []string{"-incoming", "defer"}}, "extra argument -incoming is not possible"},
		{"extra machine", Guest{Extra: []string{"--machine", "pc"}}, "set machine"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			g := test.guest
			if g.Memory == 0 {
				g.Memory = 64 * nvram.MiB
			}
			if g.Accel == "" {
				g.Accel = "tcg"
			}
			_, err := Pin(context.Background(), testBinary(), "web", testUUID, g)
			if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), test.reason) {
				t.Errorf("got %v, want ErrInvalid with %q", err, test.reason)
			}
		})
	}
}

func TestPinReportsAllFaults(t *testing.T) {
	_, err := Pin(context.Background(), testBinary(), "", "x", Guest{Machine: "q36", Accel: "tcg", CPU: "z80"})
	for _, want := range []string{"name is empty", `UUID "x"`, "memory is missing", "q36", "z80"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
}

func TestPinWithoutDirectIO(t *testing.T) {
	const path = "/proc/version" // a file system that has no direct I/O, everywhere
	d := Disk{Path: path, ReadOnly: true, Cache: "none"}
	if err := d.check(); err == nil || !strings.Contains(err.Error(), "no direct I/O") {
		t.Errorf("got %v, want a refusal of direct I/O", err)
	}
}

func TestDiff(t *testing.T) {
	g := Guest{Memory: 64 * nvram.MiB, Accel: "tcg"}
	l, err := Pin(context.Background(), testBinary(), "web", testUUID, g)
	if err != nil {
		t.Fatal(err)
	}
	renamed := l
	renamed.Name = "other"
	if !l.Equal(renamed) {
		t.Errorf("a new name makes a difference: %v", l.Diff(renamed))
	}
	tests := []struct {
		want   string
		change func(l *Launch)
	}{
		{"QEMU version was", func(l *Launch) { l.Version = "10.0.2" }},
		{"machine type was", func(l *Launch) { l.Machine = "pc" }},
		{"accelerator was", func(l *Launch) { l.Accel = "kvm" }},
		{"CPU model was", func(l *Launch) { l.CPU = "host" }},
		{"host CPU was", func(l *Launch) { l.HostCPU = "other" }},
		{`memory was "64 MiB" and is now "67108865 B"`, func(l *Launch) { l.Memory++ }},
		{`memory was "64 MiB" and is now "128 MiB"`, func(l *Launch) { l.Memory *= 2 }},
		{"CPU topology was", func(l *Launch) { l.SMP = "2" }},
		{"UUID was", func(l *Launch) { l.UUID = "" }},
		{"console port was", func(l *Launch) { l.Console = false }},
		{"guest agent channel was", func(l *Launch) { l.Agent = false }},
		{`argument 1 was "-nodefaults" and is now "-x"`, func(l *Launch) { l.Args = append([]string{"-x"}, l.Args[1:]...) }},
		{`is now absent`, func(l *Launch) { l.Args = l.Args[:2] }},
		{`disks were`, func(l *Launch) { l.Disks = []DiskRef{{Path: "/x"}} }},
	}
	for _, test := range tests {
		changed := l
		test.change(&changed)
		if diff := strings.Join(l.Diff(changed), "; "); !strings.Contains(diff, test.want) || strings.Contains(diff, ";") {
			t.Errorf("difference %q, want only %q", diff, test.want)
		}
	}
}

func TestDeriveMAC(t *testing.T) {
	a, b, c := deriveMAC(testUUID, 0), deriveMAC(testUUID, 1), deriveMAC("other", 0)
	if a != deriveMAC(testUUID, 0) || a == b || a == c || !strings.HasPrefix(a, "52:54:00:") {
		t.Errorf("addresses %s, %s, %s", a, b, c)
	}
}

// A guest that was shown the host's own processor is not taken to another.
func TestCheckProcessor(t *testing.T) {
	if err := (Launch{}).CheckProcessor(); err != nil {
		t.Errorf("a named model: %v", err)
	}
	err := Launch{HostCPU: "GenuineIntel/6/15"}.CheckProcessor()
	if !errors.Is(err, ErrProcessor) || !strings.Contains(err.Error(), "GenuineIntel/6/15") {
		t.Errorf("another processor: %v", err)
	}
}
