package saver

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/qmp/qmptest"
	"github.com/nv-hypervisor/nv-hypervisor/vm/record"
)

// A VM is saved, continued in place, and saved again: each time the record holds
// what QEMU dumped that time, and only that.
func TestSaveAndContinue(t *testing.T) {
	modes(t, func(t *testing.T, fileURI bool) {
		r := newRig(t, Config{})
		g := r.boot(Options{Name: "db", FileURI: fileURI})
		for size := 8000; size > 0; size -= 3000 { // shorter each time: no rest of the last one
			g.SetStream(qmptest.Stream(size))
			g.expectSaved(r.save())
			check(t, g.run())
			if rec, err := g.area.Latest(); err != nil || rec.Status != record.StatusRunning {
				t.Errorf("after cont the record says %v, %v", rec.Status, err)
			}
		}
		if n := g.marks.Load(); n != 4 {
			t.Errorf("%d marks for one boot and three continuations", n)
		}
	})
}

// The steps of a save follow one another, and the record tells the same as the result.
func TestSteps(t *testing.T) {
	r := newRig(t, Config{})
	g := r.boot(Options{Name: "db"})
	check(t, r.saver.Simulate(testContext(t), Now()))
	result := r.outage()
	g.expectSaved(result)
	if !result.Outage || result.Source != "simulate" || result.WokenNS < result.EventNS {
		t.Errorf("result %+v", result)
	}
	var names []string
	last := result.EventNS
	for _, s := range g.of(result).Steps {
		names = append(names, s.Name)
		if s.Start < last || s.End < s.Start {
			t.Errorf("step %s from %d to %d follows %d", s.Name, s.Start, s.End, last)
		}
		last = s.End
	}
	if want := []string{"stop", "dump", "check", "copy", "commit"}; !slices.Equal(names, want) {
		t.Errorf("steps %q, want %q", names, want)
	}
	rec, err := g.area.Latest()
	check(t, err)
	if rec.EventNS != result.EventNS || len(rec.Steps) != 6 || rec.SavedAt.IsZero() {
		t.Errorf("record %+v", rec)
	}
	for _, s := range g.of(result).Steps[:4] { // the record cannot know its own commit
		if !slices.ContainsFunc(rec.Steps, func(x record.Step) bool {
			return x.Code.String() == s.Name && x.StartNS == s.Start-result.EventNS && x.EndNS == s.End-result.EventNS
		}) {
			t.Errorf("the record does not have step %+v: %+v", s, rec.Steps)
		}
	}
}

// Volatile VMs give up their CPU time first and are never dumped; the others are
// stopped in order of priority, equals in order of their start.
func TestOrder(t *testing.T) {
	r := newRig(t, Config{InFlight: 1})
	low := r.boot(Options{Name: "low", Priority: 1})
	scratch := r.boot(Options{Name: "scratch", Volatile: true})
	high := r.boot(Options{Name: "high", Priority: 900})
	low2 := r.boot(Options{Name: "low2", Priority: 1})
	mid := r.boot(Options{Name: "mid", Priority: 5})
	check(t, r.saver.Simulate(testContext(t), Now()))
	result := r.outage()
	var names []string
	for _, v := range result.VMs {
		names = append(names, v.Name)
	}
	if want := []string{"high", "mid", "low", "low2", "scratch"}; !slices.Equal(names, want) {
		t.Errorf("order %q, want %q", names, want)
	}
	ordered := []*guest{high, mid, low, low2}
	for i, g := range ordered {
		g.expectSaved(result)
		if g.times(result).stopSent < scratch.times(result).stopSent {
			t.Errorf("%s was stopped before the volatile VM", g.target.Name())
		}
		if i == 0 {
			continue
		}
		now, before := g.times(result), ordered[i-1].times(result)
		// A QEMU that is slow to stop does not hold up those behind it.
		ready := before.stopped < now.dumpSent
		if now.stopSent < before.stopSent || ready && now.dumpSent < before.dumped || ready && now.committed < before.committed {
			t.Errorf("%s came before %s", g.target.Name(), ordered[i-1].target.Name())
		}
	}
	if v := scratch.of(result); !v.Paused || v.Committed || v.Err != nil || scratch.Status() != "paused" {
		t.Errorf("volatile VM: %+v, QEMU %s", v, scratch.Status())
	}
	if slices.Contains(scratch.Commands(), "migrate") || slices.Contains(scratch.Commands(), "getfd") {
		t.Errorf("the volatile VM was dumped: %q", scratch.Commands())
	}
}

// No more dumps at once than configured; all VMs are stopped before the first ends.
func TestInFlightLimit(t *testing.T) {
	r := newRig(t, Config{InFlight: 2})
	var guests []*guest
	for i, name := range []string{"a", "b", "c", "d"} {
		g := r.boot(Options{Name: name, Priority: 10 - i})
		g.Hold("migrate")
		guests = append(guests, g)
	}
	check(t, r.saver.Simulate(testContext(t), Now()))
	a, b := guests[0].Take(testContext(t)), guests[1].Take(testContext(t))
	for _, g := range guests {
		eventually(t, g.target.Name()+" is stopped", func() bool { return g.Status() == "paused" })
	}
	guests[1].Migrate(b, guests[1].Dumped())
	c := guests[2].Take(testContext(t))
	if slices.Contains(guests[3].Commands(), "migrate") {
		t.Error("a third dump began while two were in flight")
	}
	guests[0].Migrate(a, guests[0].Dumped())
	d := guests[3].Take(testContext(t))
	guests[3].Migrate(d, guests[3].Dumped())
	guests[2].Migrate(c, guests[2].Dumped())
	result := r.outage()
	at := func(i int) times { return guests[i].times(result) }
	for i, g := range guests {
		g.expectSaved(result)
		if at(i).stopSent > at(1).dumped {
			t.Errorf("%s was not stopped at once", g.target.Name())
		}
	}
	if at(2).dumpSent < at(1).dumped || at(3).dumpSent < at(0).dumped {
		t.Error("a dump began before another had ended")
	}
}

// What happens to one VM costs only that VM.
func TestTrouble(t *testing.T) {
	for _, c := range []struct {
		name   string
		break_ func(g *guest)
		why    string
	}{
		{"stop refused", func(g *guest) {
			g.Handle("stop", func(json.RawMessage) (any, error) { return nil, errMedium })
		}, "refused"},
		{"migrate refused", func(g *guest) {
			g.Handle("migrate", func(json.RawMessage) (any, error) { return nil, errMedium })
		}, "refused stop or migrate: {"},
		{"migration failed", func(g *guest) {
			g.HandleRequest("migrate", func(r *qmptest.Request) {
				g.BeginMigration(r, g.Dumped())
				g.Migration("failed")
			})
		}, "failed to write"},
		{"migration cancelled", func(g *guest) {
			g.HandleRequest("migrate", func(r *qmptest.Request) {
				g.BeginMigration(r, g.Dumped())
				g.Migration("cancelled")
			})
		}, "failed to write"},
		{"death between stop and dump", func(g *guest) {
			g.HandleRequest("migrate", func(*qmptest.Request) { g.Hangup() })
		}, "died"},
		{"death in the dump", func(g *guest) {
			g.HandleRequest("migrate", func(r *qmptest.Request) {
				g.BeginMigration(r, g.Dumped())
				g.Hangup()
			})
		}, "died"},
		{"death in the middle of a line", func(g *guest) {
			g.HandleRequest("migrate", func(r *qmptest.Request) {
				g.BeginMigration(r, g.Dumped())
				g.Write([]byte(`{"event": "MIGRATION", "data": {"status": "completed"}}`)) // no end of line
				g.Hangup()
			})
		}, "died"},
		{"hung at stop", func(g *guest) { g.Hold("stop", "migrate") }, "in time"},
		{"hung at migrate", func(g *guest) { g.Hold("migrate") }, "in time"},
		{"deaf", func(g *guest) { g.Stall() }, "in time"},
		{"completed without setup", func(g *guest) {
			g.HandleRequest("migrate", func(r *qmptest.Request) {
				r.Reply(nil)
				g.Migration("completed")
			})
		}, "in time"},
	} {
		t.Run(c.name, func(t *testing.T) {
			modes(t, func(t *testing.T, fileURI bool) {
				r := newRig(t, Config{InFlight: 1, Deadline: 500e6, Hung: 20e6})
				bad := r.boot(Options{Name: "bad", Priority: 9, FileURI: fileURI})
				good := r.boot(Options{Name: "good", FileURI: fileURI})
				c.break_(bad)
				result := r.save()
				bad.expectUnsaved(result, c.why)
				good.expectSaved(result)
				if late := good.times(result).committed - good.times(result).stopSent; late > 400e6 {
					t.Errorf("the other VM waited %d ms", late/1e6)
				}
			})
		})
	}
}

// A QEMU that is stopped and waits for its turn to be dumped may die as well.
func TestDeathBeforeItsTurn(t *testing.T) {
	r := newRig(t, Config{InFlight: 1})
	first := r.boot(Options{Name: "first", Priority: 9})
	second := r.boot(Options{Name: "second", Priority: 5})
	third := r.boot(Options{Name: "third"})
	first.Hold("migrate")
	check(t, r.saver.Simulate(testContext(t), Now()))
	turn := first.Take(testContext(t))
	eventually(t, "the second is stopped", func() bool { return second.Status() == "paused" })
	second.Die()
	first.Migrate(turn, first.Dumped())
	result := r.outage()
	first.expectSaved(result)
	second.expectUnsaved(result, "QEMU")
	third.expectSaved(result)
}

// Only what belongs to this save counts: other migrations' events do not.
func TestEventsOfOtherMigrations(t *testing.T) {
	r := newRig(t, Config{})
	g := r.boot(Options{Name: "db"})
	for _, status := range []string{"setup", "active", "completed"} {
		g.Migration(status) // the incoming one that resumed the guest
	}
	check(t, r.saver.Cont(g.target, nil, false)) // its answer comes after them
	g.HandleRequest("migrate", func(req *qmptest.Request) {
		g.Migration("completed") // it may be as late as this
		g.Migration("failed")
		if g.BeginMigration(req, nil) {
			g.Emit("MIGRATION_PASS", map[string]int{"pass": 1})
			g.Emit("JOB_STATUS_CHANGE", map[string]string{"status": "completed", "id": "x"})
			g.Emit("GUEST_SAID", map[string]string{"text": `"event": "MIGRATION", "status": "completed"`})
			g.finish(req)
		}
	})
	g.expectSaved(r.save())
}

// finish writes the stream of a migration that was begun without and completes it.
func (g *guest) finish(*qmptest.Request) {
	unix.Write(g.target.writer, g.Dumped()) // the open file QEMU has, too
	g.Migration("completed")
	g.SetStatus("postmigrate")
}

// A stream that is not whole is not committed, whatever QEMU says.
func TestStreamMustBeWhole(t *testing.T) {
	whole := qmptest.Stream(4096)
	zeros := slices.Clone(whole)
	clear(zeros[64:]) // device state is full of zeros; so is what a cut leaves at the end
	spoil := func(at int, b byte) []byte {
		s := slices.Clone(whole)
		s[at] = b
		return s
	}
	for _, c := range []struct {
		name   string
		stream []byte
		why    string
	}{
		{"empty", nil, "not a whole migration stream"},
		{"one byte", whole[:1], "not a whole migration stream"},
		{"header alone", whole[:8], "not a whole migration stream"},
		{"last byte missing", whole[:4095], "not a whole migration stream"},
		{"cut", whole[:2048], "not a whole migration stream"},
		{"cut at a zero", zeros[:2048], "not a whole migration stream"},
		{"other magic", spoil(0, 'X'), "not a whole migration stream"},
		{"other version", spoil(7, 4), "not a whole migration stream"},
		{"no end marker", spoil(4095, 5), "not a whole migration stream"},
		{"larger than the slot", qmptest.Stream(testSlot + 1), "raise state_size"},
	} {
		t.Run(c.name, func(t *testing.T) {
			modes(t, func(t *testing.T, fileURI bool) {
				r := newRig(t, Config{})
				g := r.boot(Options{Name: "db", FileURI: fileURI})
				g.SetStream(c.stream)
				g.expectUnsaved(r.save(), c.why)
				g.SetStream(whole) // and it can be saved the next time
				check(t, g.run())
				g.expectSaved(r.save())
			})
		})
	}
}

// The largest state fills its slot.
func TestFullSlot(t *testing.T) {
	modes(t, func(t *testing.T, fileURI bool) {
		r := newRig(t, Config{})
		g := r.boot(Options{Name: "db", FileURI: fileURI})
		g.SetStream(qmptest.Stream(testSlot))
		g.expectSaved(r.save())
	})
}

// A disk is identified after QEMU has flushed it, not when the save was prepared.
func TestDisks(t *testing.T) {
	r := newRig(t, Config{})
	path := filepath.Join(t.TempDir(), "disk.img")
	check(t, os.WriteFile(path, []byte("before"), 0o600))
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	check(t, err)
	prepared := record.DiskIdentity{Size: 6, PathHash: record.HashPath(path)}
	device := record.DiskIdentity{Size: 512, PathHash: 77}
	g := r.boot(Options{Name: "db", Disks: []Disk{
		{FD: fd, Identity: prepared}, {FD: -1, BlockDevice: true, Identity: device},
	}})
	g.HandleRequest("stop", func(req *qmptest.Request) {
		if err := os.WriteFile(path, []byte("flushed"), 0o600); err != nil {
			t.Error(err)
		}
		g.Emit("STOP", nil)
		req.Reply(nil)
	})
	g.expectSaved(r.save())
	rec, err := g.area.Latest()
	check(t, err)
	var st unix.Stat_t
	check(t, unix.Stat(path, &st))
	want := record.DiskIdentity{Device: st.Dev, Inode: st.Ino, Size: 7, MtimeNS: st.Mtim.Nano(), PathHash: prepared.PathHash}
	if len(rec.Disks) != 2 || rec.Disks[0] != want || rec.Disks[1] != device {
		t.Errorf("disks are %+v, want %+v and %+v", rec.Disks, want, device)
	}
}

func TestDiskThatCannotBeExamined(t *testing.T) {
	r := newRig(t, Config{})
	g := r.boot(Options{Name: "db", Disks: []Disk{{FD: -1}}})
	g.expectUnsaved(r.save(), "disk image could not be examined")
}

// brittle is memory whose fences fail on demand, as an msync can.
type brittle struct {
	nvram.Memory
	fail int // fences until one fails; 0: none
}

func (m *brittle) Fence() error {
	if m.fail > 0 {
		if m.fail--; m.fail == 0 {
			return errMedium
		}
	}
	return m.Memory.Fence()
}

// An error of NVRAM costs the VM whose region it is, and is not taken for a commit.
func TestMediumFails(t *testing.T) {
	for fence := 1; fence <= 2; fence++ { // the state, the record's body
		r := newRig(t, Config{})
		bad, good := r.attach(Options{Name: "bad", Priority: 9}), r.boot(Options{Name: "good"})
		mapping, err := r.pool.Map("bad.state")
		check(t, err)
		defer mapping.Close()
		mem := &brittle{Memory: mapping}
		bad.area = r.areaIn("bad", mem)
		check(t, bad.run())
		mem.fail = fence
		result := r.save()
		bad.expectUnsaved(result, "NVRAM reported an error")
		good.expectSaved(result)
		check(t, bad.run())
		bad.expectSaved(r.save())
	}
}

// A QEMU that never stops talking does not keep the thread to itself.
func TestBabblingQEMU(t *testing.T) {
	r := newRig(t, Config{})
	bad, good := r.boot(Options{Name: "bad", Priority: 9}), r.boot(Options{Name: "good"})
	stop, stopped := make(chan struct{}), make(chan struct{})
	bad.HandleRequest("stop", func(req *qmptest.Request) {
		defer close(stopped)
		req.Reply(nil)
		line := []byte(strings.Repeat("x", 16<<10) + "\r\n")
		for {
			select {
			case <-stop:
				return
			default:
				bad.Write(line)
			}
		}
	})
	check(t, r.saver.Simulate(testContext(t), Now()))
	eventually(t, "the other VM is committed", func() bool {
		rec, err := good.area.Latest()
		return err == nil && rec.Status == record.StatusSaved
	})
	close(stop)
	<-stopped
	result := r.outage()
	bad.expectSaved(result)
	good.expectSaved(result)
}

// An operator's save leaves volatile VMs alone.
func TestSaveSparesVolatile(t *testing.T) {
	r := newRig(t, Config{})
	db := r.boot(Options{Name: "db"})
	scratch := r.boot(Options{Name: "scratch", Volatile: true})
	result := r.save()
	db.expectSaved(result)
	if len(result.VMs) != 1 || scratch.Status() != "running" {
		t.Errorf("%d VMs in the result, the volatile one is %s", len(result.VMs), scratch.Status())
	}
}
