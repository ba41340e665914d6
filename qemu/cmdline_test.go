package qemu

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
)

// ending is what every command line without a serial port and a display ends with.
var ending = []string{"-serial", "chardev:nvh-console", "-display", "none", "-monitor", "none"}

func with(args ...string) []string { return append(args, ending...) }

func TestParseCommandLine(t *testing.T) {
	tests := []struct {
		name    string
		args    string
		guest   Guest
		options Options
	}{
		{
			name:  "nothing",
			guest: Guest{Memory: 128 * nvram.MiB, Raw: with()},
		},
		{
			name: "the usual",
			args: "-enable-kvm -accel tcg -m 1.5G -smp 4 -M q35,vmport=off -cpu max,+avx -name guest=web,debug-threads=on -nographic -rtc base=utc",
			guest: Guest{Memory: 1536 * nvram.MiB, CPUs: 4, Machine: "q35,vmport=off", CPU: "max,+avx", Accel: "tcg",
				Raw: []string{"-display", "none", "-rtc", "base=utc", "-serial", "chardev:nvh-console", "-monitor", "none"}},
			options: Options{Name: "web", Console: true},
		},
		{
			name:    "two dashes",
			args:    "--m 256 --name web",
			guest:   Guest{Memory: 256 * nvram.MiB, Raw: with()},
			options: Options{Name: "web"},
		},
		{
			name:  "machine in parts",
			args:  "-machine type=pc,accel=tcg -machine nvdimm=on",
			guest: Guest{Memory: 128 * nvram.MiB, Machine: "pc,nvdimm=on", Accel: "tcg", Raw: with()},
		},
		{
			name:  "topology",
			args:  "-smp sockets=2,cores=3 -m size=512M",
			guest: Guest{Memory: 512 * nvram.MiB, CPUs: 6, Raw: with("-smp", "sockets=2,cores=3")},
		},
		{
			name:  "what is ours",
			args:  "-daemonize -monitor stdio -qmp unix:/run/q.sock,server=on -display gtk -no-shutdown -mem-prealloc -msg timestamp=on",
			guest: Guest{Memory: 128 * nvram.MiB, Raw: with("-qmp", "unix:/run/q.sock,server=on")},
			options: Options{Daemonize: true, Notes: []string{
				"-monitor stdio is dropped: use nvh monitor",
				"-display gtk is dropped: the VM runs in the background; use -vnc to see its screen",
				"-no-shutdown is dropped: a guest that powers off ends its QEMU",
				"-mem-prealloc is dropped: RAM in a pool is preallocated",
			}},
		},
		{
			name: "no default devices",
			args: "-nodefaults -vnc :1",
			guest: Guest{Memory: 128 * nvram.MiB,
				Raw: []string{"-nodefaults", "-vnc", ":1", "-monitor", "none"}},
		},
		{
			name: "second serial port on the terminal",
			args: "-serial file:/tmp/log -serial mon:stdio -display none -monitor none",
			guest: Guest{Memory: 128 * nvram.MiB,
				Raw: []string{"-serial", "file:/tmp/log", "-serial", "chardev:nvh-console", "-display", "none", "-monitor", "none"}},
			options: Options{Console: true},
		},
		{
			name: "terminal as a character device",
			args: "-device isa-serial,chardev=c -mon chardev=c,mode=readline -chardev stdio,mux=on,id=c -serial chardev:c -display none -monitor none",
			guest: Guest{Memory: 128 * nvram.MiB,
				Raw: []string{"-device", "isa-serial,chardev=nvh-console", "-serial", "chardev:nvh-console", "-display", "none", "-monitor", "none"}},
			options: Options{Console: true, Notes: []string{"-mon chardev=c,mode=readline is dropped: use nvh monitor"}},
		},
		{
			name:  "an option of a newer QEMU",
			args:  "-brand-new a=b",
			guest: Guest{Memory: 128 * nvram.MiB, Raw: with("-brand-new", "a=b")},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			guest, options, err := ParseCommandLine(strings.Fields(test.args))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.guest, guest); diff != "" {
				t.Errorf("guest (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.options, options); diff != "" {
				t.Errorf("options (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseCommandLineDisks(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.WriteFile("cow", []byte(qcow2Magic+"rest"), 0o600); err != nil {
		t.Fatal(err)
	}
	cow, raw := filepath.Join(dir, "cow"), filepath.Join(dir, "a,b")
	esc := escape(raw)
	safe := Disk{Path: raw, Format: "raw", Cache: "none"}
	tests := []struct {
		name string
		args []string
		raw  []string
		disk []Disk
	}{
		{"positional", []string{"a,b"}, []string{"-drive", "file=" + esc + ",index=0,media=disk,format=raw,cache=none"}, []Disk{safe}},
		{"hdb qcow2", []string{"-hdb", "cow"}, []string{"-drive", "file=" + cow + ",index=1,media=disk,format=qcow2,cache=none"},
			[]Disk{{Path: cow, Format: "qcow2", Cache: "none"}}},
		{"cdrom", []string{"-cdrom", raw}, []string{"-drive", "file=" + esc + ",index=2,media=cdrom,format=raw"},
			[]Disk{{Path: raw, Format: "raw", Cache: "writeback", ReadOnly: true}}},
		{"explicit writeback", []string{"-drive", "file=cow,format=qcow2,if=virtio,cache=writeback"},
			[]string{"-drive", "file=" + cow + ",format=qcow2,if=virtio,cache=writeback"},
			[]Disk{{Path: cow, Format: "qcow2", Cache: "writeback"}}},
		{"cache.direct", []string{"-drive", "file=cow,format=qcow2,cache.direct=on"},
			[]string{"-drive", "file=" + cow + ",format=qcow2,cache.direct=on"},
			[]Disk{{Path: cow, Format: "qcow2", Cache: "none"}}},
		{"empty drive", []string{"-drive", "if=ide,media=cdrom"}, []string{"-drive", "if=ide,media=cdrom"}, nil},
		{"blockdev", []string{"-blockdev", "driver=qcow2,node-name=d,file.driver=file,file.filename=cow"},
			[]string{"-blockdev", "driver=qcow2,node-name=d,file.driver=file,file.filename=" + cow + ",cache.direct=on"},
			[]Disk{{Path: cow, Format: "qcow2", Cache: "none"}}},
		{"blockdev pair", []string{"-blockdev", "qcow2,node-name=d,file=f", "-blockdev", "driver=file,node-name=f,filename=cow,cache.direct=off"},
			[]string{"-blockdev", "qcow2,node-name=d,file=f", "-blockdev", "driver=file,node-name=f,filename=" + cow + ",cache.direct=off"},
			[]Disk{{Path: cow, Format: "qcow2", Cache: "writeback"}}},
		{"blockdev JSON", []string{"-blockdev", `{"driver":"raw","read-only":false,"file":{"driver":"file","filename":"a,b","x":18446744073709551615}}`},
			[]string{"-blockdev", `{"cache":{"direct":true},"driver":"raw","file":{"driver":"file","filename":"` + raw + `","x":18446744073709551615},"read-only":false}`},
			[]Disk{safe}},
		{"blockdev read-only", []string{"-blockdev", "driver=file,filename=cow,read-only=on,node-name=x"},
			[]string{"-blockdev", "driver=file,filename=" + cow + ",read-only=on,node-name=x"},
			[]Disk{{Path: cow, Format: "raw", Cache: "writeback", ReadOnly: true}}},
		{"network disk", []string{"-drive", "file=nbd:host:1"}, []string{"-drive", "file=nbd:host:1"}, nil},
		{"paths in devices", []string{"-parallel", "file:out", "-monitor", "unix:m,server=on", "-serial", "none", "-display", "none", "-chardev", "file,id=x,path=a,,b", "-bios", "bios-256k.bin", "-bios", "cow"},
			[]string{"-parallel", "file:" + dir + "/out", "-monitor", "unix:" + dir + "/m,server=on", "-serial", "none", "-display", "none",
				"-chardev", "file,id=x,path=" + esc, "-bios", "bios-256k.bin", "-bios", cow}, nil},
		{"kernel", []string{"-kernel", "cow"}, []string{"-kernel", cow}, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			guest, _, err := ParseCommandLine(test.args)
			if err != nil {
				t.Fatal(err)
			}
			want := test.raw
			if !slices.Contains(want, "-serial") {
				want = append(want, ending...)
			}
			if diff := cmp.Diff(want, guest.Raw); diff != "" {
				t.Errorf("arguments (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.disk, guest.Disks); diff != "" {
				t.Errorf("disks (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseCommandLineRefuses(t *testing.T) {
	tests := []struct{ args, reason string }{
		{"-m 1G,slots=2,maxmem=4G", "memory hotplug"},
		{"-m lots", "not a size"},
		{"-m 1e3", "not a size"},
		{"-m 9999999999999T", "not a size"},
		{"-m", "lacks its argument"},
		{"-smp 2,maxcpus=4", "CPU hotplug"},
		{"-smp none", "not a number of CPUs"},
		{"-machine q35,memory-backend=x", "memory-backend"},
		{"-S", "pause it"},
		{"-incoming defer", "loaded by starting"},
		{"-loadvm x", "loaded by starting"},
		{"-snapshot", "without what it had written"},
		{"-drive file=/x,snapshot=on", "without what it had written"},
		{"-mem-path /dev/shm", "lies in the VM's pool"},
		{"-runas nobody", "daemon decides"},
		{"-readconfig f", "could not be pinned"},
		{"-virtfs local,path=/,mount_tag=x", "cannot be saved"},
		{"-device vfio-pci,host=1", "cannot be saved"},
		{"-object memory-backend-ram,id=mem,size=1M", "is ours"},
		{"-object memory-backend-memfd,id=m,size=1M", "lost in a power cut"},
		{"-numa node,memdev=m", "one piece"},
		{"-cpu help", "ask QEMU itself"},
		{"-help", "ask QEMU itself"},
		{"-blockdev {", "-blockdev"},
		{"-chardev null,id=nvh-qmp", "are ours"},
	}
	for _, test := range tests {
		t.Run(test.args, func(t *testing.T) {
			_, _, err := ParseCommandLine(strings.Fields(test.args))
			if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), test.reason) {
				t.Errorf("got %v, want ErrInvalid with %q", err, test.reason)
			}
		})
	}
}

func FuzzParseCommandLine(f *testing.F) {
	for _, seed := range []string{
		"-m\n1G\n-smp\n2\n-nographic\ndisk.img",
		"-drive\nfile=a,,b,if=virtio\n-machine\nq35,accel=kvm:tcg",
		"-blockdev\n{\"driver\":\"raw\",\"file\":{\"driver\":\"file\",\"filename\":\"x\"}}",
		"-chardev\nstdio,id=c\n-mon\nchardev=c\n-serial\nchardev:c",
		"-smp\nsockets=65535,cores=65535,threads=65535",
		"-blockdev\n{\"driver\":\"file\",\"filename\":\"x\",\"cache\":3}",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		guest, _, err := ParseCommandLine(strings.Split(line, "\n"))
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("%v is not ErrInvalid", err)
			}
			return
		}
		for _, d := range guest.Disks {
			if !filepath.IsAbs(d.Path) {
				t.Errorf("disk %q is relative", d.Path)
			}
		}
		// What was parsed must be accepted again and mean the same: the Launch of
		// a VM is made from it at every start.
		again, _, err := ParseCommandLine(guest.Raw)
		if err != nil {
			t.Fatalf("own result %q is refused: %v", guest.Raw, err)
		}
		if diff := cmp.Diff(guest.Raw, again.Raw); diff != "" {
			t.Errorf("not stable (-first +second):\n%s", diff)
		}
	})
}
