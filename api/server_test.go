package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/nv-hypervisor/nv-hypervisor/api"
	"github.com/nv-hypervisor/nv-hypervisor/api/apitest"
	"github.com/nv-hypervisor/nv-hypervisor/host"
	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/pod/webhook"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

func TestMain(m *testing.M) {
	if socket := os.Getenv("NVH_TEST_ASK"); socket != "" {
		os.Exit(askStatus(socket)) // the other user of TestPeerOfAnotherUser
	}
	goleak.VerifyTestMain(m)
}

// daemon is a served fake host and its client.
type daemon struct {
	*apitest.Host
	*api.Client
	Socket string
	stop   func() error
}

// serve runs a fake daemon until the end of the test.
func serve(t *testing.T) *daemon {
	t.Helper()
	h := apitest.New()
	socket := socketPath(t)
	l, err := api.Listen(socket, "")
	if err != nil {
		t.Fatal(err)
	}
	s, err := api.New(h, api.Options{Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	api.ShortenTimeouts(s)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	stopped := false
	stop := func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-served
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	c, err := api.NewClient(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &daemon{h, c, socket, stop}
}

// socketPath is short: t.TempDir of a long test name may not fit a socket.
func socketPath(t *testing.T) string {
	dir, err := os.MkdirTemp("", "nvh")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "nvhd.sock")
}

func definition(name string) vm.Definition {
	d := vm.Definition{Name: name, Priority: 7, OnLost: vm.OnLostHold}
	d.Memory, d.CPUs = 256<<20, 2
	return d
}

// The two ends agree: what a verb returns in the daemon it returns in the client.
func TestVerbsThroughTheSocket(t *testing.T) {
	d := serve(t)
	ctx := t.Context()
	created, err := d.Client.Create(ctx, definition("web"))
	if err != nil {
		t.Fatal(err)
	}
	if created.State != vm.Stopped || created.Definition.Memory != 256<<20 || created.Priority != 7 {
		t.Errorf("created %+v", created)
	}
	step := func(want vm.State) func(vm.Info, error) {
		return func(i vm.Info, err error) {
			t.Helper()
			if err != nil || i.State != want {
				t.Fatalf("state %q, %v; want %q", i.State, err, want)
			}
		}
	}
	step(vm.Running)(d.Client.Start(ctx, "web", host.StartOptions{}))
	step(vm.Paused)(d.Client.Pause(ctx, "web"))
	step(vm.Running)(d.Client.Unpause(ctx, "web"))
	saved, err := d.Client.Save(ctx, "web")
	if err != nil || len(saved.VMs) != 1 {
		t.Fatalf("save: %+v, %v", saved, err)
	}
	restored, err := d.Client.Restore(ctx, "web")
	if err != nil || restored.Kind != "restore" {
		t.Fatalf("restore: %+v, %v", restored, err)
	}
	step(vm.Stopped)(d.Client.Stop(ctx, "web", host.StopOptions{Timeout: time.Second}))
	step(vm.Running)(d.Client.Start(ctx, "web", host.StartOptions{}))
	if _, err := d.Client.Simulate(ctx); err != nil {
		t.Fatal(err)
	}
	step(vm.Saved)(d.Client.Info(ctx, "web"))
	if err := d.Client.Remove(ctx, "web", true); err != nil {
		t.Fatal(err)
	}
	if all, err := d.Client.List(ctx); err != nil || all == nil || len(all) != 0 {
		t.Errorf("after rm: %v, %v; want an empty list that is not null", all, err)
	}
}

func TestReadsThroughTheSocket(t *testing.T) {
	d := serve(t)
	ctx := t.Context()
	compare(t, "status", d.Host.Status, d.Client.Status)
	compare(t, "doctor", d.Host.Doctor, d.Client.Doctor)
	compare(t, "detectors", d.Host.Detectors, d.Client.Detectors)
	for _, name := range []string{"", "kmod nvh_pod"} {
		test := func(b api.Backend) func(context.Context) ([]host.DetectorTest, error) {
			return func(ctx context.Context) ([]host.DetectorTest, error) { return b.TestDetectors(ctx, name) }
		}
		compare(t, "detector tests "+name, test(d.Host), test(d.Client))
	}
	if _, err := d.Client.TestDetectors(ctx, "another"); !errors.Is(err, vm.ErrNotFound) {
		t.Errorf("test of a detector that is not there: %v", err)
	}
	announce := func(b api.Backend) func(context.Context) (webhook.Answer, error) {
		return func(ctx context.Context) (webhook.Answer, error) {
			return b.Announce(ctx, webhook.Event{Condition: "on-battery", Source: "bmc"})
		}
	}
	compare(t, "announcement", announce(d.Host), announce(d.Client))
	if said := d.Announced(); len(said) != 2 || said[0] != said[1] {
		t.Errorf("announced %+v", said)
	}
	compare(t, "pools", d.Host.Pools, d.Client.Pools)
	if _, err := d.Client.SuspendAll(ctx); err != nil {
		t.Fatal(err)
	}
	compare(t, "outages", d.Host.Outages, d.Client.Outages)
	if got, err := d.Client.Outage(ctx, "latest"); err != nil || got.Kind != "suspend" {
		t.Errorf("latest: %+v, %v", got, err)
	}
	infos, err := d.Client.ImportPool(ctx, "/mnt/pmem0", "second")
	if err != nil || len(infos) != 1 || infos[0].Pool != "second" {
		t.Errorf("import: %+v, %v", infos, err)
	}
	compare(t, "list", d.Host.List, d.Client.List)
	answer, err := d.Client.Monitor(ctx, "imported", host.MonitorRequest{QMP: json.RawMessage(`{"execute":"stop"}`)})
	if err != nil || string(answer) != `{"echo":{"execute":"stop"}}` {
		t.Errorf("monitor: %s, %v", answer, err)
	}
}

func compare[T any](t *testing.T, what string, inside, outside func(context.Context) (T, error)) {
	t.Helper()
	want, err := inside(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got, err := outside(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s differs (-daemon +client):\n%s", what, diff)
	}
}

// errors.Is gives the same answer on both sides, and the remedy comes along.
func TestErrorsKeepTheirCause(t *testing.T) {
	d := serve(t)
	d.Put(vm.Info{Name: "web"})
	for _, cause := range api.Causes() {
		t.Run(string(cause.Code), func(t *testing.T) {
			d.Fail("Info", vm.WithRemedy(fmt.Errorf("VM %q: step: %w", "web", cause.Sentinel), "Do this."))
			_, err := d.Client.Info(t.Context(), "web")
			if !errors.Is(err, cause.Sentinel) {
				t.Fatalf("%v is not %v", err, cause.Sentinel)
			}
			told := api.Describe(err)
			want := &api.Error{Code: cause.Code, Message: `VM "web": step: ` + cause.Sentinel.Error(), Remedy: "Do this."}
			if diff := cmp.Diff(want, told); diff != "" {
				t.Error(diff)
			}
		})
	}
	d.Fail("Info", errors.New("something else"))
	_, err := d.Client.Info(t.Context(), "web")
	if told := api.Describe(err); told.Code != "failed" || errors.Unwrap(told) != nil {
		t.Errorf("unknown cause: %+v", told)
	}
}

func TestUnreachable(t *testing.T) {
	c, err := api.NewClient(socketPath(t))
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Status(t.Context())
	if !errors.Is(err, api.ErrUnreachable) || vm.Remedy(err) == "" {
		t.Errorf("%v, remedy %q", err, vm.Remedy(err))
	}
}

// A verb runs to its end when its client goes away.
func TestVerbOutlivesItsClient(t *testing.T) {
	d := serve(t)
	entered, release := make(chan struct{}), make(chan struct{})
	result := make(chan error, 1)
	d.Host.Put(vm.Info{Name: "web", State: vm.Running})
	d.Host.Hook(func(ctx context.Context, verb string) {
		if verb == "Pause" {
			close(entered)
			<-release
			result <- ctx.Err()
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan error, 1)
	go func() { _, err := d.Client.Pause(ctx, "web"); asked <- err }()
	<-entered
	cancel()
	if err := <-asked; !errors.Is(err, context.Canceled) {
		t.Errorf("the client: %v", err)
	}
	close(release)
	if err := <-result; err != nil {
		t.Errorf("the verb was cancelled with its client: %v", err)
	}
}

func TestPanicIsAnAnswer(t *testing.T) {
	d := serve(t)
	d.Fail("Info", apitest.Panic("boom"))
	_, err := d.Client.Info(t.Context(), "web")
	if !errors.Is(err, api.ErrInternal) || !strings.Contains(err.Error(), "boom") {
		t.Errorf("panic: %v", err)
	}
	if _, err := d.Client.Status(t.Context()); err != nil {
		t.Errorf("after the panic: %v", err)
	}
}

// Names that are no names never reach the backend, from either side.
func TestNamesThatAreNoNames(t *testing.T) {
	d := serve(t)
	for _, name := range []string{"", ".", "..", "../status", "a/b", "a b", "-x", "a\x00b", "é", strings.Repeat("a", 64)} {
		if _, err := d.Client.Info(t.Context(), name); !errors.Is(err, vm.ErrInvalid) {
			t.Errorf("info %q: %v", name, err)
		}
		if _, err := d.Client.Create(t.Context(), definition(name)); !errors.Is(err, vm.ErrInvalid) {
			t.Errorf("create %q: %v", name, err)
		}
	}
	for _, path := range []string{"/v1/vms/../status", "/v1/vms/%2e%2e%2fstatus", "/v1/vms/a%2Fb", "/v1//status", "/v1/vms/%00", "/v1/outages/..%2f..%2fetc"} {
		resp := d.raw(t, "GET "+path+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		if code := statusOf(t, resp); code != http.StatusBadRequest && code != http.StatusNotFound {
			t.Errorf("%s: %d\n%s", path, code, resp)
		}
	}
}

func TestFullPool(t *testing.T) {
	d := serve(t)
	big := definition("big")
	big.Memory = 4 << 30
	_, err := d.Client.Create(t.Context(), big)
	if !errors.Is(err, nvram.ErrFull) || api.Describe(err).Remedy != "Remove a VM or choose another pool." {
		t.Errorf("%+v", api.Describe(err))
	}
}
