package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/nv-hypervisor/nv-hypervisor/api"
	"github.com/nv-hypervisor/nv-hypervisor/api/apitest"
	"github.com/nv-hypervisor/nv-hypervisor/host"
	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/nvram/nvdimm"
	"github.com/nv-hypervisor/nv-hypervisor/nvram/nvdimm/nvdimmtest"
	"github.com/nv-hypervisor/nv-hypervisor/outage"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"nvh": main})
}

// TestScripts runs the real program against a fake daemon, one for each script.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup:               startDaemon,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code":   cmdCode,
			"fake":   cmdFake,
			"damage": cmdDamage,
			"dimms":  cmdDIMMs,
		},
	})
}

type hostKey struct{}

// startDaemon serves a fake host on $WORK/nvhd.sock until the script ends.
func startDaemon(env *testscript.Env) error {
	socket := filepath.Join(env.WorkDir, "nvhd.sock")
	l, err := api.Listen(socket, "")
	if err != nil {
		return err
	}
	h := apitest.New()
	s, err := api.New(h, api.Options{Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	env.Defer(func() {
		cancel()
		if err := <-served; err != nil {
			env.T().Fatal(err)
		}
	})
	env.Values[hostKey{}] = h
	env.Setenv("NVH_SOCKET", socket)
	env.Setenv("TZ", "UTC")
	for h.Subscribers() == 0 { // events published from now on are known
		time.Sleep(time.Millisecond)
	}
	return nil
}

// cmdCode runs nvh and compares its exit code: code 3 nvh info web.
func cmdCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N command…")
	}
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[interface {
			error
			ExitCode() int
		}](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if fmt.Sprint(got) != args[0] {
		ts.Fatalf("exit code %d, want %s", got, args[0])
	}
}

// failures are the causes a script can name.
var failures = map[string]error{
	"refused":   fmt.Errorf("VM %q: %w: disk /srv/web.raw changed after the save", "web", vm.ErrRefused),
	"full":      fmt.Errorf("pool %q: %w", "default", nvram.ErrFull),
	"busy":      fmt.Errorf("VM %q: %w", "web", vm.ErrBusy),
	"plain":     errors.New("QEMU said no"),
	"panic":     apitest.Panic("boom"),
	"timeout":   fmt.Errorf("the guest did not shut down: %w", context.DeadlineExceeded),
	"unhealthy": fmt.Errorf("pool default: %w", nvram.ErrUnhealthy),
	"escape":    errors.New("red \x1b[31m text\nand a second line"),
	"remedied":  vm.WithRemedy(fmt.Errorf("VM %q: %w", "web", vm.ErrState), "Turn it off and on again."),
}

// cmdFake prepares the daemon: fake vm NAME STATE, fake image NAME valid|doubtful,
// fake fail VERB CAUSE, fake event TYPE VM, fake check NAME STATUS, fake outages. fake announced prints
// the events it was told of.
func cmdFake(ts *testscript.TestScript, _ bool, args []string) {
	h := ts.Value(hostKey{}).(*apitest.Host)
	switch strings.Join(args[:1], "") {
	case "vm":
		h.Put(vm.Info{Name: args[1], UUID: "5a5a0000-0000-4000-8000-000000000001", State: vm.State(args[2]), Pool: "default",
			Memory: 512 << 20, CPUs: 2, Priority: 10, Generation: 4, Machine: "pc-q35-7.2", QEMU: "7.2.22"})
	case "image":
		info, err := h.Info(context.Background(), args[1])
		ts.Check(err)
		info.Image = &vm.ImageInfo{Generation: 4, SavedAt: time.Now().Add(-3 * time.Hour), StateSize: 290 << 10, Valid: args[2] == "valid"}
		if !info.Image.Valid {
			info.Image.Refusal = "disk /srv/web.raw changed after the save"
		}
		h.Put(info)
	case "fail":
		cause, ok := failures[args[2]]
		if !ok {
			ts.Fatalf("no failure %q", args[2])
		}
		h.Fail(args[1], cause)
	case "event":
		h.Publish(args[1], args[2], map[string]string{"key": "a value"})
	case "check":
		h.SetChecks(host.Check{Name: args[1], Status: args[2], Detail: "the detail", Remedy: "Do this."})
	case "announced":
		for _, e := range h.Announced() {
			fmt.Fprintln(ts.Stdout(), e.Condition, e.Source, orDash(e.Runtime), orDash(e.Charge), e.Detail)
		}
	case "outages":
		for _, id := range []string{"20261122T113322.123Z-outage", "20261122T113400.000Z-recovery"} {
			h.AddTimeline(timeline(id))
		}
	default:
		ts.Fatalf("fake %q", args)
	}
}

func orDash(v *float64) string {
	if v == nil {
		return "-"
	}
	return fmt.Sprint(*v)
}

func timeline(id string) outage.Timeline {
	return outage.Timeline{ID: id, Kind: "outage", Source: "signal SIGPWR", Tier: "emergency", Event: time.Date(2026, 11, 22, 11, 33, 22, 123e6, time.UTC),
		Outcome: "saved", Duration: 16400, Steps: []outage.Step{{Name: "wake", Start: 0, End: 85.4}},
		VMs: []outage.VMTimeline{
			{Name: "db", Priority: 20, Outcome: "committed", StateSize: 290 << 10,
				Steps: []outage.Step{{Name: "stop", Start: 110, End: 900}, {Name: "dump", Start: 901, End: 5000}, {Name: "commit", Start: 5001, End: 5250.6}}},
			{Name: "scratch", Volatile: true, Outcome: "failed", Reason: "QEMU is gone"},
		}}
}

// cmdDIMMs makes, in the folder ROOT, a machine on which PATH lies on two interleaved modules, the first of which has
// these flags: dimms ROOT PATH FLAG…
func cmdDIMMs(ts *testscript.TestScript, _ bool, args []string) {
	root := ts.MkAbs(args[0])
	ts.Check(os.RemoveAll(root))
	ts.Check(os.MkdirAll(root, 0o755))
	m, err := nvdimmtest.New(root)
	ts.Check(err)
	ts.Check(errors.Join(
		m.DIMM("nmem0", strings.Join(args[2:], " ")), m.DIMM("nmem1", "smart_notify "),
		m.Region("region0", nvdimm.DomainMemoryController, "nmem0", "nmem1"), m.Carry(ts.MkAbs(args[1]), "region0", "pmem0", "dax=always"),
		m.SetDirtyShutdown("nmem0", 3)))
}

// cmdDamage overwrites bytes of a file: damage FILE OFFSET LENGTH.
func cmdDamage(ts *testscript.TestScript, _ bool, args []string) {
	var offset, length int
	if _, err := fmt.Sscan(args[1]+" "+args[2], &offset, &length); err != nil {
		ts.Fatalf("%v", err)
	}
	path := ts.MkAbs(args[0])
	p := []byte(ts.ReadFile(path))
	for i := range length {
		p[offset+i] ^= 0xff
	}
	ts.Check(os.WriteFile(path, p, 0o600))
}
