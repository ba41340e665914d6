package guest_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/lab/guest"
	"github.com/nv-hypervisor/nv-hypervisor/lab/guest/journal"
	"github.com/nv-hypervisor/nv-hypervisor/lab/guest/pattern"
)

// Each shape on each QEMU: the guest counts without a gap, its memory is sound, and its disk holds after a
// kill at least what it said on the console.
func TestGuestCounts(t *testing.T) {
	for _, e := range emulators(t) {
		for name, o := range map[string]options{
			"no disk":            {append: "nvh.tick=100ms"},
			"disk":               {disk: blankDisk(t, 16<<20)},
			"two CPUs and disk":  {cpus: 2, disk: blankDisk(t, 16<<20)},
			"two CPUs with load": {cpus: 2, append: "nvh.load=cpu nvh.tick=50ms nvh.mem=32"},
			"disk load":          {disk: blankDisk(t, 64<<10), append: "nvh.load=disk nvh.mem=16"},
		} {
			t.Run(e.Version+" "+name, func(t *testing.T) {
				m := start(t, e, o)
				last := m.tick()
				if last.Count != 1 {
					t.Errorf("the first tick is %d", last.Count)
				}
				for range 10 {
					tick := m.tick()
					if tick.Count != last.Count+1 || tick.BootID != last.BootID || !tick.SumOK || tick.Sum == last.Sum {
						t.Fatalf("after %v came %v", last, tick)
					}
					if o.disk != "" && (tick.Records <= last.Records || tick.Disk != "ok") {
						t.Fatalf("disk: after %v came %v", last, tick)
					}
					last = tick
				}
				m.kill()
				if o.disk != "" {
					checkDisk(t, o.disk, last)
				} else if last.Disk != "none" {
					t.Errorf("a disk in %v", last)
				}
			})
		}
	}
}

func checkDisk(t *testing.T, path string, last guest.Tick) {
	t.Helper()
	report, err := guest.VerifyDisk(path)
	if err != nil {
		t.Fatal(err)
	}
	boot, ok := report.Boot(last.BootID)
	if !ok || boot.Written() < last.Records {
		t.Errorf("the console said %d records, the disk has %+v", last.Records, report)
	}
}

func TestDiskContinuesAcrossBoots(t *testing.T) {
	e, disk := emulators(t)[0], blankDisk(t, 1<<20)
	var ids []string
	for range 2 {
		m := start(t, e, options{disk: disk, append: "nvh.mem=8 nvh.tick=20ms"})
		m.tick()
		ids = append(ids, m.tick().BootID)
		m.kill()
	}
	report, err := guest.VerifyDisk(disk)
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Boots) != 2 || report.Boots[0].ID != ids[0] || report.Boots[1].ID != ids[1] || ids[0] == ids[1] {
		t.Errorf("boots %v, the disk says %+v", ids, report.Boots)
	}
}

func TestCommands(t *testing.T) {
	m := start(t, emulators(t)[0], options{restart: true, disk: blankDisk(t, 1<<20)})
	first := m.tick()
	m.say("sum")
	if line := m.containing("full-sum="); !strings.Contains(line, "full-sum=ok(") || !strings.Contains(line, "/ok") {
		t.Errorf("sum: %s", line)
	}
	m.say("time")
	line := m.containing("nvh-guest time=")
	if now, err := time.Parse(time.RFC3339Nano, line[strings.Index(line, "time=")+len("time="):]); err != nil || time.Since(now).Abs() > time.Minute {
		t.Errorf("time: %s, %v", line, err)
	}
	m.say("dance")
	m.containing("unknown command dance")
	m.say("shell")
	m.containing("shell:")
	m.say("busybox echo $((6*7))-from-the-shell")
	m.containing("42-from-the-shell")
	m.say("exit")
	m.tick()
	m.say("reboot")
	m.containing("reboot")
	for tick := m.tick(); tick.Count != 1; tick = m.tick() {
	}
	if again := m.tick(); again.BootID == first.BootID {
		t.Errorf("the boot id outlived a reboot: %v", again)
	}
	m.say("poweroff")
	if err := m.exited(); err != nil {
		t.Errorf("QEMU after poweroff: %v", err)
	}
}

func TestPowerButtonPowersOff(t *testing.T) {
	m := start(t, emulators(t)[0], options{append: "nvh.mem=8"})
	m.tick()
	m.hmp("system_powerdown")
	m.containing("poweroff")
	if err := m.exited(); err != nil {
		t.Error(err)
	}
}

// The checks must be able to fail: one bit of guest RAM is flipped from the host.
func TestFlippedBitInRAMIsSeen(t *testing.T) {
	m := start(t, emulators(t)[0], options{append: "nvh.mem=16"})
	tick := m.tick()
	flip(t, m.ram(), blockOf(t, tick.BootID, 16, 3000))
	for deadline := time.Now().Add(patience); tick.SumOK; tick = m.tick() {
		if time.Now().After(deadline) {
			t.Fatal("the flipped bit went unseen")
		}
	}
	if m.tick().SumOK {
		t.Error("the guest forgot the mismatch")
	}
}

// blockOf recomputes the content of a block, not rewritten yet, of a guest with one checker.
func blockOf(t *testing.T, bootID string, memoryMiB, block int) []byte {
	t.Helper()
	id, err := journal.ParseBootID(bootID)
	if err != nil {
		t.Fatal(err)
	}
	words := make([]uint64, memoryMiB<<20/8)
	if _, err := pattern.New(binary.LittleEndian.Uint64(id[:8]), words); err != nil {
		t.Fatal(err)
	}
	var content bytes.Buffer
	at := block * pattern.WordsPerBlock
	if err := binary.Write(&content, binary.LittleEndian, words[at:at+pattern.WordsPerBlock]); err != nil {
		t.Fatal(err)
	}
	return content.Bytes()
}

// flip changes one bit in the middle of the only place in the file that holds content.
func flip(t *testing.T, path string, content []byte) {
	t.Helper()
	ram, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(ram, content)
	if at < 0 {
		t.Fatal("the pattern is not in the guest's RAM")
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	middle := at + len(content)/2
	if _, err := f.WriteAt([]byte{ram[middle] ^ 4}, int64(middle)); err != nil {
		t.Fatal(err)
	}
}

func TestLostRecordIsSeen(t *testing.T) {
	disk := blankDisk(t, 1<<20)
	m := start(t, emulators(t)[0], options{disk: disk, append: "nvh.mem=8"})
	for m.tick().Records < 5 {
	}
	f, err := os.OpenFile(disk, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, journal.SectorSize), 2*journal.SectorSize); err != nil {
		t.Fatal(err)
	}
	m.say("sum")
	if line := m.containing("full-sum="); !strings.Contains(line, "/bad") {
		t.Errorf("the guest says %s", line)
	}
	if tick := m.tick(); tick.Disk != "bad" {
		t.Errorf("the guest says %v", tick)
	}
	m.kill()
	if _, err := guest.VerifyDisk(disk); !errors.Is(err, guest.ErrDiskDamaged) {
		t.Errorf("VerifyDisk = %v", err)
	}
}

func TestBadParametersAreSaid(t *testing.T) {
	for append, want := range map[string]string{
		"nvh.mem=4096":  "lower nvh.mem",
		"nvh.tick=soon": "nvh.tick=soon",
		"nvh.tock=1s":   "unknown parameter",
		"nvh.load=gpu":  "unknown load",
	} {
		m := start(t, emulators(t)[0], options{append: append})
		if line := m.containing("error="); !strings.Contains(line, want) {
			t.Errorf("%s: %s", append, line)
		}
		if err := m.exited(); err != nil {
			t.Errorf("%s: %v", append, err)
		}
	}
}

// Two builders in one fresh cache end with one whole image, and a third finds it.
func TestBuildersAgree(t *testing.T) {
	first, err := guest.Build(t.Context(), cacheDir(t))
	if err != nil {
		t.Fatal(err)
	}
	cache := t.TempDir()
	// The download is tested in lab/debian; here the trees of the real cache are lent.
	trees, err := filepath.Glob(filepath.Join(cacheDir(t), "guest-system-*"))
	if err != nil || len(trees) == 0 {
		t.Fatalf("trees %v, %v", trees, err)
	}
	for _, tree := range trees {
		if err := os.Symlink(tree, filepath.Join(cache, filepath.Base(tree))); err != nil {
			t.Fatal(err)
		}
	}
	images := make([]guest.Image, 2)
	var both sync.WaitGroup
	for i := range images {
		both.Go(func() {
			image, err := guest.Build(t.Context(), cache)
			if err != nil {
				t.Error(err)
			}
			images[i] = image
		})
	}
	both.Wait()
	if images[0] != images[1] {
		t.Errorf("%+v and %+v", images[0], images[1])
	}
	want, err1 := os.ReadFile(first.Initrd)
	got, err2 := os.ReadFile(images[0].Initrd)
	if err := errors.Join(err1, err2); err != nil || !bytes.Equal(want, got) {
		t.Errorf("the image is not a function of its inputs: %d and %d bytes, %v", len(want), len(got), err)
	}
	left, _ := filepath.Glob(filepath.Join(cache, "guest", "*"))
	if len(left) != 2 { // the image and the lock
		t.Errorf("left behind: %v", left)
	}
}
