package vm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/vm/record"
)

// move gives the rig an empty state directory, as a host that has never seen its pool.
func (r *rig) move(v *VM) {
	r.t.Helper()
	v.Close()
	r.killAll()
	check(r.t, os.RemoveAll(r.env.RuntimeDir))
	check(r.t, os.RemoveAll(r.env.StateDir))
}

// A pool is self-contained: a host that has never seen its VMs resumes them.
func TestImport(t *testing.T) {
	r := newRig(t)
	v := r.running(small("db"))
	uuid := v.file.UUID
	r.outage(v)
	r.move(v)
	check(t, r.env.Saver.Clear())

	found := Discover(r.pool)
	if len(found) != 1 || found[0].Name != "db" || found[0].Status != record.StatusSaved || !found[0].Used() {
		t.Fatalf("found %+v", found)
	}
	v, err := Import(r.env, r.pool, found[0], "moved")
	check(t, err)
	t.Cleanup(v.Close)
	wantError(t, v.Start(testContext(t), false), ErrBusy) // not before it is recovered
	v.recover(t, LeftSaved)
	if info := v.Info(); info.Pool != "moved" || info.UUID != uuid.String() || !info.Image.Valid {
		t.Errorf("imported as %+v", info)
	}
	_, err = Import(r.env, r.pool, found[0], "moved")
	wantError(t, err, ErrExists)
	check(t, v.Start(testContext(t), false))
	v.expectRecord(t, record.StatusRunning, 2)
	v.expectQEMU(t, "running")
	v = r.reopen(v)
	v.recover(t, Adopted)
	if info := v.Info(); info.Pool != "moved" || len(info.Warnings) != 0 {
		t.Errorf("reopened as %+v", info)
	}
}

// What was stopped or lost is imported, too, and nothing runs of itself.
func TestImportWithoutAnImage(t *testing.T) {
	for name, c := range map[string]struct {
		before  func(v *VM) error
		outcome Outcome
	}{
		"stopped": {func(v *VM) error { return v.Stop(testContext(t), true, 0) }, LeftAlone},
		"lost":    {func(*VM) error { return nil }, HeldBack},
	} {
		r := newRig(t)
		v := r.running(small("db"))
		check(t, c.before(v))
		r.move(v)
		v, err := Import(r.env, r.pool, Discover(r.pool)[0], "nv")
		check(t, err)
		t.Cleanup(v.Close)
		if v.recover(t, c.outcome); v.Process() != nil {
			t.Errorf("%s: it runs", name)
		}
		check(t, v.Start(testContext(t), false))
	}
}

// What cannot be understood is not imported, not freed and not taken for anything else.
func TestDiscoverDamage(t *testing.T) {
	r := newRig(t)
	v := r.running(small("db"))
	r.outage(v)
	r.create(small("unused")).Close()
	mapping, err := r.pool.Map("db.state")
	check(t, err)
	defer mapping.Close()
	good := append([]byte(nil), mapping.Bytes()...)
	r.move(v)
	for name, c := range map[string]struct {
		at   int
		used bool
	}{
		"header":         {24, true},          // the UUID
		"record":         {4<<10 + 16, true},  // a sequence
		"other record":   {8<<10 + 16, true},  // the other copy's
		"launch records": {64<<10 + 64, true}, // both
	} {
		mapping.Store(0, good)
		spoil := func(at int) { mapping.Store(at, []byte{^mapping.Bytes()[at]}) }
		spoil(c.at)
		if name == "launch records" {
			spoil(c.at + 256<<10)
		}
		freed, err := Sweep(r.pool, func(name string) bool { return name == "unused" })
		if err != nil || len(freed) != 0 {
			t.Errorf("%s: swept %q, %v", name, freed, err)
		}
		for _, f := range Discover(r.pool) {
			if f.Name != "db" {
				continue
			}
			if f.Used() != c.used {
				t.Errorf("%s: used %v", name, f.Used())
			}
			if f.err == nil {
				continue // the copy that counts is whole
			}
			if _, err := Import(r.env, r.pool, f, "nv"); err == nil {
				t.Errorf("%s: imported", name)
			}
		}
	}
	if names, err := List(r.env.StateDir); err != nil || len(names) != 0 {
		t.Errorf("folders: %q, %v", names, err)
	}
}

// A launch record of another VM than the region's is not believed.
func TestImportOfAForeignName(t *testing.T) {
	r := newRig(t)
	v := r.running(small("db"))
	r.outage(v)
	r.move(v)
	check(t, r.pool.Rename(map[string]string{"db.state": "web.state", "db.ram": "web.ram"}))
	_, err := Import(r.env, r.pool, Discover(r.pool)[0], "nv")
	wantError(t, err, ErrInvalid, `of VM "db"`)
}

// Creations that were cut short are swept; what is known, used or kept is not.
func TestSweep(t *testing.T) {
	r := newRig(t)
	r.create(small("cut")).Close()
	r.create(small("known"))
	v := r.running(small("used"))
	check(t, v.Stop(testContext(t), true, 0))
	for _, name := range []string{"bare.state", "db.kept-1.state", "user"} {
		use := nvram.UseState
		if name == "user" {
			use = nvram.UseUser
		}
		_, err := r.pool.Alloc(nvram.Request{Name: name, Size: 2 * nvram.MiB, Use: use})
		check(t, err)
	}
	freed, err := Sweep(r.pool, func(name string) bool { return name == "known" })
	if err != nil || strings.Join(freed, " ") != "bare cut" && strings.Join(freed, " ") != "cut bare" {
		t.Errorf("freed %q, %v", freed, err)
	}
	var left []string
	for _, region := range r.pool.Regions() {
		left = append(left, region.Name)
	}
	if len(left) != 6 {
		t.Errorf("left %q", left)
	}
}

// A refused image is kept aside before the VM boots cold, as often as it happens,
// and goes only with the VM, when its operator says so.
func TestKeptImages(t *testing.T) {
	r := newRig(t)
	v := r.running(small("db"))
	for i := range 2 {
		r.outage(v)
		at := record.SlotOffset + 100
		if i == 1 { // the other slot
			at += 2 << 20
		}
		v = r.cut(v)
		check(t, r.env.Saver.Clear())
		mapping, err := r.pool.Map("db.state")
		check(t, err)
		mapping.Store(at, []byte{^mapping.Bytes()[at]})
		mapping.Store(record.SlotOffset+100+2<<20-(at-record.SlotOffset-100), []byte("x"))
		check(t, mapping.Close())
		v.recover(t, ColdBooted)
		info := v.Info()
		if len(info.Kept) != 2*(i+1) || !strings.Contains(info.Reason, "kept aside") || !strings.Contains(info.Reason, "checksum") {
			t.Errorf("kept %q, reason %q", info.Kept, info.Reason)
		}
		if len(Discover(r.pool)) != 1 {
			t.Errorf("found %+v", Discover(r.pool))
		}
	}
	check(t, v.Stop(testContext(t), true, 0))
	wantError(t, v.Remove(false), ErrState, "saved image")
	check(t, v.Remove(true))
	if len(r.pool.Regions()) != 0 {
		t.Errorf("left %+v", r.pool.Regions())
	}
}

// A power cut while the image is put aside costs neither the image nor the VM.
func TestCutWhilePuttingAside(t *testing.T) {
	r := newRig(t)
	v := r.running(small("db"))
	r.outage(v)
	v = r.cut(v)
	check(t, r.env.Saver.Clear())
	v.Close()
	check(t, r.pool.Rename(map[string]string{"db.ram": "db.kept-1.ram", "db.state": "db.kept-1.state"}))
	v = r.open("db", true)
	v.recover(t, ColdBooted)
	if info := v.Info(); len(info.Kept) != 2 || info.Generation != 1 {
		t.Errorf("kept %q in generation %d", info.Kept, info.Generation)
	}
	v = r.reopen(v)
	v.recover(t, Adopted)
}

// Without room for the refused image the VM is held, and the image stays where it is.
func TestNoRoomToKeep(t *testing.T) {
	r := newRig(t)
	v := r.running(small("db"))
	r.outage(v)
	v = r.cut(v)
	check(t, r.env.Saver.Clear())
	v.mapping.Store(record.SlotOffset+100, []byte("other"))
	v.mapping.Store(record.SlotOffset+100+2<<20, []byte("other"))
	// The RAM would find its place, the state region not.
	_, err := r.pool.Alloc(nvram.Request{Name: "filler", Size: r.pool.Info().LargestFree - 16*nvram.MiB, Use: nvram.UseUser})
	check(t, err)
	v.recover(t, HeldBack)
	if info := v.Info(); !strings.Contains(info.Reason, "full") || len(info.Kept) != 0 || info.Image == nil || info.Image.Valid || info.Image.Refusal == "" {
		t.Errorf("reason %q, image %+v", info.Reason, info.Image)
	}
	wantError(t, v.Start(testContext(t), false), ErrRefused)
	v.expectRecord(t, record.StatusSaved, 1)
	check(t, v.Start(testContext(t), true)) // its operator gives it up
	v.expectRecord(t, record.StatusRunning, 2)
}

// Folders that are no VM's are passed over, and one whose files cannot be read is an error.
func TestOpenRefuses(t *testing.T) {
	r := newRig(t)
	v := r.create(small("db"))
	v.Close()
	check(t, os.MkdirAll(filepath.Join(r.env.StateDir, "stray"), 0o755))
	if names, err := List(r.env.StateDir); err != nil || len(names) != 1 {
		t.Errorf("list %q, %v", names, err)
	}
	path := filepath.Join(r.env.StateDir, "db", stateFileName)
	good, err := os.ReadFile(path)
	check(t, err)
	for name, content := range map[string]string{
		"torn": string(good[:20]), "empty": "", "no UUID": "{}", "other VM": strings.Replace(string(good), v.file.UUID.String()[:8], "00000000", 1),
	} {
		check(t, os.WriteFile(path, []byte(content), 0o640))
		if _, err := Open(r.env, r.pool, "db"); err == nil || !strings.Contains(err.Error(), "db") {
			t.Errorf("%s: %v", name, err)
		}
	}
	check(t, os.WriteFile(path, good, 0o640))
	check(t, os.WriteFile(filepath.Join(v.dir(), DefinitionFile), []byte("torn"), 0o640))
	_, err = Open(r.env, r.pool, "db") // it was never started: nothing else says what it is
	wantError(t, err, ErrInvalid, DefinitionFile)
	check(t, r.pool.Free("db.state", "db.ram"))
	_, err = Open(r.env, r.pool, "db")
	wantError(t, err, nvram.ErrNotFound)
	if _, err := Open(r.env, r.pool, "none"); err == nil {
		t.Error("opened what is not there")
	}
}
