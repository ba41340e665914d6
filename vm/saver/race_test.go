package saver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/qmp/qmptest"
	"github.com/nv-hypervisor/nv-hypervisor/vm/record"
)

// Everything at once, for the race detector: VMs come and go, are armed, let run
// and saved, while outages come and go, and then the saver is closed.
func TestEverythingAtOnce(t *testing.T) {
	r := newRig(t, Config{InFlight: 2})
	p := r.pipe("plug")
	ctx, cancel := context.WithTimeout(testContext(t), 2*time.Second)
	defer cancel()
	var all sync.WaitGroup
	for i := range 4 {
		g := r.boot(Options{Name: fmt.Sprint("vm", i), Priority: i, Volatile: i == 3})
		all.Go(func() {
			for ctx.Err() == nil {
				r.saver.Save(ctx, g.target)
				for g.Status() == "finish-migrate" && ctx.Err() == nil {
					time.Sleep(time.Millisecond)
				}
				g.run() // or not, if there is an outage
				if i == 1 {
					r.saver.Detach(g.target)
					if err := r.saver.Attach(g.target); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	all.Go(func() {
		for ctx.Err() == nil {
			r.saver.Simulate(ctx, Now())
			p.say("x")
			time.Sleep(3 * time.Millisecond)
			r.saver.Clear()
			time.Sleep(3 * time.Millisecond)
		}
	})
	outages := 0
	all.Go(func() {
		for {
			select {
			case <-r.saver.Outages():
				outages++
			case <-ctx.Done():
				return
			}
		}
	})
	all.Wait()
	for len(r.saver.Outages()) > 0 {
		<-r.saver.Outages()
	}
	if outages == 0 {
		t.Error("there was no outage")
	}
}

// After Close every call fails, none hangs, and no target is left open.
func TestClose(t *testing.T) {
	r := newRig(t, Config{})
	g := r.boot(Options{Name: "db"})
	idle := r.attach(Options{Name: "idle"})
	idle.Hold("getfd")
	waiting := make(chan error, 1)
	go func() { waiting <- r.saver.Arm(idle.target, nil) }()
	idle.Take(testContext(t))
	before := openFiles(t)
	var all sync.WaitGroup
	for range 4 {
		all.Go(r.saver.Close)
		all.Go(func() { r.saver.Detach(g.target) })
		all.Go(func() { r.saver.Clear() })
	}
	all.Wait()
	if err := <-waiting; err == nil {
		t.Error("an arm without an answer succeeded")
	}
	ctx := testContext(t)
	_, saveErr := r.saver.Save(ctx, nil)
	for what, err := range map[string]error{
		"arm": r.saver.Arm(g.target, nil), "clear": r.saver.Clear(), "simulate": r.saver.Simulate(ctx, 0),
		"attach": r.saver.Attach(g.target), "save": saveErr, "source": r.saver.AddSource(&pipe{}),
		"cont": r.saver.Cont(g.target, func() (*record.Commit, error) { return nil, errMedium }, false),
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s after close: %v", what, err)
		}
	}
	if _, open := <-r.saver.Outages(); open {
		t.Error("the outages have not ended")
	}
	g.target.Close() // detached or not, closing it again is harmless
	if after := openFiles(t); after >= before {
		t.Errorf("%d files are open, %d were before", after, before)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	fds, err := filepath.Glob("/proc/self/fd/*")
	check(t, err)
	return len(fds)
}

// A QEMU that cannot be reached, greets nobody or refuses is an error that says so.
func TestConnect(t *testing.T) {
	silent := qmptest.Start(t, qmptest.WithGreeting(""))
	garbage := qmptest.Start(t, qmptest.WithGreeting("hello\r\n"))
	refusing, err := net.Listen("unix", filepath.Join(t.TempDir(), "qmp"))
	check(t, err)
	defer refusing.Close()
	go func() {
		conn, err := refusing.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprintln(conn, `{"QMP": {}}`)
		bufio.NewReader(conn).ReadString('\n')
		fmt.Fprintln(conn, `{"id": "nvh-hello", "error": {"class": "GenericError"}}`)
	}()
	dead := qmptest.Start(t)
	dead.Die()
	taken := qmptest.Start(t)
	first, err := Connect(testContext(t), Options{Socket: taken.Path(), Volatile: true})
	check(t, err)
	defer first.Close()
	for name, c := range map[string]struct{ socket, why string }{
		"none":     {filepath.Join(t.TempDir(), "none"), "no such file"},
		"too long": {"/" + strings.Repeat("x", 120), "invalid"},
		"dead":     {dead.Path(), "refused"},
		"silent":   {silent.Path(), "no answer in time"},
		"garbage":  {garbage.Path(), "no answer in time"},
		"taken":    {taken.Path(), "another client"},
		"refusing": {refusing.Addr().String(), "QEMU refused"},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		target, err := Connect(ctx, Options{Name: "db", Socket: c.socket, Capacity: testSlot})
		cancel()
		if !errors.Is(err, ErrHandshake) || !strings.Contains(err.Error(), c.why) || !strings.HasPrefix(err.Error(), "db: ") {
			t.Errorf("%s: %v; want %q", name, err, c.why)
		}
		if target != nil {
			target.Close()
		}
	}
}
