package vm

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/nv-hypervisor/nv-hypervisor/vm/record"
)

// edit changes a VM's definition on disk, as an operator does.
func (v *VM) edit(t testing.TB, old, new string) {
	t.Helper()
	path := filepath.Join(v.dir(), DefinitionFile)
	content, err := os.ReadFile(path)
	check(t, err)
	edited := strings.Replace(string(content), old, new, 1)
	if edited == string(content) {
		t.Fatalf("%q is not in\n%s", old, content)
	}
	check(t, os.WriteFile(path, []byte(edited), 0o640))
}

// An edit takes effect at the next cold boot, and may be looked at meanwhile.
func TestEdit(t *testing.T) {
	r := newRig(t)
	def := small("db")
	def.Priority = 5
	v := r.running(def)
	v.edit(t, "priority = 5", "priority = 7")
	if v.Priority() != 5 {
		t.Errorf("priority is %d before the next boot", v.Priority())
	}
	check(t, v.Stop(testContext(t), true, 0))
	var looking sync.WaitGroup
	done := make(chan struct{})
	looking.Go(func() { // the race detector sees whether that is safe
		for {
			select {
			case <-done:
				return
			default:
				_ = v.Name() + v.QEMULog()
				_, _ = v.Priority(), v.Info()
			}
		}
	})
	check(t, v.Start(testContext(t), false))
	close(done)
	looking.Wait()
	if v.Priority() != 7 || v.Info().Priority != 7 {
		t.Errorf("priority is %d after the boot", v.Priority())
	}
}

// An edit that makes no sense, or that cannot be made, costs the VM neither its
// guest nor its image: it goes on as it is, and says why.
func TestBadEdit(t *testing.T) {
	for _, c := range []struct{ name, old, new, warning string }{
		{"torn", "name = ", "na", "definition"},
		{"empty", "", "", "definition"},
		{"unknown key", "name = ", "colour = \"red\"\nname = ", "colour"},
		{"other name", `name = "db"`, `name = "web"`, "name"},
		{"policy", `on_lost = "boot"`, `on_lost = "pray"`, "pray"},
		{"volatile", "name = ", "volatile = true\nname = ", "cannot change"},
		{"memory", "memory = ", "memory = \"32M\" #", "cannot change"},
		{"state size", "state_size = ", "state_size = \"4M\" #", "cannot change"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			v := r.running(small("db"))
			if c.name == "empty" {
				check(t, os.WriteFile(filepath.Join(v.dir(), DefinitionFile), nil, 0o640))
			} else {
				v.edit(t, c.old, c.new)
			}
			warned := func() {
				t.Helper()
				if w := strings.Join(v.Info().Warnings, " "); !strings.Contains(w, c.warning) {
					t.Errorf("warnings %q, want %q", w, c.warning)
				}
			}
			v = r.reopen(v)
			v.recover(t, Adopted)
			warned()
			r.outage(v)
			v = r.cut(v)
			check(t, r.env.Saver.Clear())
			v.recover(t, Resumed)
			v.expectRecord(t, record.StatusRunning, 2)
			if info := v.Info(); info.Memory != small("").Memory || info.Volatile || info.Name != "db" {
				t.Errorf("became %+v", info)
			}
			check(t, v.Stop(testContext(t), true, 0))
			check(t, v.Start(testContext(t), false)) // boots as it was
			warned()
			v.expectQEMU(t, "running")
		})
	}
}
