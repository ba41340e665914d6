package qmp_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/qmp"
	"github.com/nv-hypervisor/nv-hypervisor/qmp/qmptest"
)

func TestDialFailures(t *testing.T) {
	directory := socketDirectory(t)
	stale := filepath.Join(directory, "stale")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false)
	listener.Close()
	greeted := func(raw string) string { return qmptest.Start(t, qmptest.WithGreeting(raw)).Path() }
	for _, test := range []struct {
		name, path string
		want       error
		says       string
	}{
		{"missing", filepath.Join(directory, "missing"), os.ErrNotExist, "is QEMU started"},
		{"stale", stale, nil, "QEMU has exited"},
		{"too long", "/" + strings.Repeat("x", 107), qmp.ErrPathTooLong, "shorter directory"},
		{"silent", greeted(""), qmp.ErrBusy, "another client"},
		{"silent, deadline", greeted(""), context.DeadlineExceeded, ""},
		{"half a greeting", greeted(`{"QMP": `), qmp.ErrBusy, ""},
		{"not QMP", greeted("220 mail.example ESMTP\r\n"), qmp.ErrProtocol, "220 mail"},
		{"no version", greeted(`{"QMP": {}}` + "\n"), qmp.ErrProtocol, "version"},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			client, err := qmp.Dial(ctx, test.path)
			if err == nil {
				client.Close()
				t.Fatal("no error")
			}
			if test.want != nil && !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("error %q, want %v, saying %q", err, test.want, test.says)
			}
		})
	}
}

func TestDialRefusedCapabilities(t *testing.T) {
	monitor := qmptest.Start(t, qmptest.WithGreeting(
		`{"QMP":{"version":{"qemu":{"major":9,"minor":1,"micro":2}},"capabilities":["oob"]}}`+"\n"), qmptest.WithoutOOB())
	var refusal *qmp.Error
	if _, err := qmp.Dial(testContext(t), monitor.Path()); !errors.As(err, &refusal) || refusal.Command != "qmp_capabilities" {
		t.Errorf("error %v", err)
	}
}

// What QEMU owed to the connection before does not confuse this one.
func TestDialPassesOverStaleReplies(t *testing.T) {
	stale := `{"return":{},"id":"deadbeef-0000000000000001"}` + "\n"
	monitor := qmptest.Start(t, qmptest.WithGreeting(stale+
		`{"QMP":{"version":{"qemu":{"major":9,"minor":1,"micro":2}},"capabilities":[]}}`+"\n"+stale))
	client := dial(t, monitor.Path())
	monitor.Write([]byte(stale))
	execute(t, client, "query-version", nil, nil)
	if v := client.Greeting().Version; v != (qmp.Version{Major: 9, Minor: 1, Micro: 2}) {
		t.Errorf("version %+v", v)
	}
}

func TestNewClientOwnsItsConnection(t *testing.T) {
	monitor := qmptest.Start(t)
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: monitor.Path()})
	if err != nil {
		t.Fatal(err)
	}
	client, err := qmp.NewClient(testContext(t), conn)
	if err != nil {
		t.Fatal(err)
	}
	execute(t, client, "query-version", nil, nil)
	client.Close()
	if _, err := conn.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after Close: %v", err)
	}
}

func TestRepliesOutOfOrder(t *testing.T) {
	monitor := qmptest.Start(t)
	monitor.Hold("first", "second")
	client := dial(t, monitor.Path())
	ctx := testContext(t)
	send := func(command string) *qmp.Call {
		prepared, err := client.Prepare(command, nil)
		if err != nil {
			t.Fatal(err)
		}
		call, err := prepared.Send(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return call
	}
	calls := []*qmp.Call{send("first"), send("second")}
	first, second := monitor.Take(ctx), monitor.Take(ctx)
	second.Reply("of second")
	first.Reply("of first")
	for i, want := range []string{"of first", "of second"} {
		var got string
		if err := calls[i].Wait(ctx, &got); err != nil || got != want {
			t.Errorf("reply %d: %q, %v; want %q", i, got, err, want)
		}
	}
}

func TestCancelledCommandFailsAlone(t *testing.T) {
	monitor := qmptest.Start(t)
	monitor.Hold("slow", "patient")
	client := dial(t, monitor.Path())
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() {
		err := client.Execute(ctx, "slow", nil, nil)
		if !errors.Is(err, context.Canceled) || errors.Is(err, qmp.ErrNotSent) {
			t.Errorf("cancelled command: %v", err)
		}
	})
	slow := monitor.Take(testContext(t))
	var answer string
	group.Go(func() { execute(t, client, "patient", nil, &answer) })
	patient := monitor.Take(testContext(t))
	cancel()
	slow.Reply("late")
	patient.Reply("in time")
	group.Wait()
	execute(t, client, "query-version", nil, nil)
	if answer != "in time" {
		t.Errorf("the other command got %q", answer)
	}
	if err := client.Execute(ctx, "query-version", nil, nil); !errors.Is(err, qmp.ErrNotSent) {
		t.Errorf("command with an ended context: %v, want ErrNotSent", err)
	}
}

// However many commands wait, one out of band gets through: QEMU would not read it
// behind more than InFlight others.
func TestOutOfBandOvertakes(t *testing.T) {
	monitor := qmptest.Start(t)
	blocked := make(chan struct{})
	unblock := sync.OnceFunc(func() { close(blocked) })
	t.Cleanup(unblock)
	monitor.Handle("busy", func(json.RawMessage) (any, error) { <-blocked; return nil, nil })
	monitor.Handle("urgent", func(args json.RawMessage) (any, error) { return args, nil })
	client := dial(t, monitor.Path())
	var group sync.WaitGroup
	for range 3 * qmp.InFlight {
		group.Go(func() { execute(t, client, "busy", nil, nil) })
	}
	for arrived := 0; arrived < qmp.InFlight; time.Sleep(time.Millisecond) {
		arrived = strings.Count(fmt.Sprint(monitor.Commands()), "busy")
	}
	var echo struct{ N int }
	err := client.ExecuteOOB(testContext(t), "urgent", map[string]int{"n": 7}, &echo)
	if err != nil || echo.N != 7 {
		t.Errorf("out of band: %+v, %v", echo, err)
	}
	// A command that gets no place in time was never sent.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := client.Execute(ctx, "busy", nil, nil); !errors.Is(err, qmp.ErrNotSent) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("one more in-band command: %v, want ErrNotSent", err)
	}
	unblock()
	group.Wait()
}

func TestOutOfBandNotOffered(t *testing.T) {
	client := dial(t, qmptest.Start(t, qmptest.WithoutOOB()).Path())
	if err := client.ExecuteOOB(testContext(t), "urgent", nil, nil); !errors.Is(err, qmp.ErrNoOOB) {
		t.Errorf("error %v, want ErrNoOOB", err)
	}
}

func TestPreparedCommandIsReusable(t *testing.T) {
	monitor := qmptest.Start(t)
	var mu sync.Mutex
	ids := map[string]bool{}
	monitor.HandleRequest("stop", func(r *qmptest.Request) {
		mu.Lock()
		defer mu.Unlock()
		ids[string(r.ID)] = true
		r.Reply(r.Args)
	})
	prepared, err := dial(t, monitor.Path()).Prepare("stop", map[string]string{"x": "y"})
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	const runs = 50
	for range runs {
		group.Go(func() {
			var echo struct{ X string }
			if err := prepared.Execute(testContext(t), &echo); err != nil || echo.X != "y" {
				t.Errorf("%+v, %v", echo, err)
			}
		})
	}
	group.Wait()
	if len(ids) != runs {
		t.Errorf("%d ids in %d runs", len(ids), runs)
	}
}

func TestArgumentsAndReplies(t *testing.T) {
	monitor := qmptest.Start(t)
	monitor.Handle("echo", func(args json.RawMessage) (any, error) { return string(args), nil })
	client := dial(t, monitor.Path())
	for _, test := range []struct {
		args any
		want string
	}{
		{nil, ""},
		{map[string]int(nil), ""},
		{struct{}{}, "{}"},
		{map[string]string{"path": "<a&b>\n\x00"}, `{"path":"\u003ca\u0026b\u003e\n\u0000"}`},
		{json.RawMessage(`{ "big": 18446744073709551615 }`), `{"big":18446744073709551615}`},
	} {
		var got string
		if execute(t, client, "echo", test.args, &got); got != test.want {
			t.Errorf("%v arrives as %s, want %s", test.args, got, test.want)
		}
	}
	for _, args := range []any{7, []string{"x"}, func() {}} {
		if err := client.Execute(testContext(t), "echo", args, nil); !errors.Is(err, qmp.ErrNotSent) {
			t.Errorf("arguments of type %T: %v, want ErrNotSent", args, err)
		}
	}
	var wrong int
	err := client.Execute(testContext(t), "echo", nil, &wrong)
	if shape := new(json.UnmarshalTypeError); !errors.As(err, &shape) || !strings.Contains(err.Error(), "echo") {
		t.Errorf("reply of another type: %v", err)
	}
}

func TestLongLinesBothWays(t *testing.T) {
	monitor := qmptest.Start(t)
	long := strings.Repeat("q", 3<<20)
	monitor.Handle("long", func(json.RawMessage) (any, error) { return long, nil })
	monitor.Handle("length", func(args json.RawMessage) (any, error) { return len(args), nil })
	client := dial(t, monitor.Path())
	for range 2 {
		var got string
		if execute(t, client, "long", nil, &got); got != long {
			t.Fatalf("%d bytes arrive of %d", len(got), len(long))
		}
	}
	var length int
	args := map[string]string{"x": long[:1<<20]}
	if execute(t, client, "length", args, &length); length != 1<<20+len(`{"x":""}`) {
		t.Errorf("%d bytes of arguments arrive", length)
	}
}

func TestExecuteFile(t *testing.T) {
	monitor := qmptest.Start(t)
	client := dial(t, monitor.Path())
	path := filepath.Join(t.TempDir(), "file")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	// A command longer than the socket's buffer still takes its file along.
	args := map[string]string{"fdname": "state", "padding": strings.Repeat("x", 1<<20)}
	if err := client.ExecuteFile(testContext(t), "getfd", args, nil, file); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := monitor.File("state").WriteString("from the other side"); err != nil {
		t.Fatal(err)
	}
	if content, err := os.ReadFile(path); err != nil || string(content) != "from the other side" {
		t.Errorf("file holds %q, %v", content, err)
	}
	for name, file := range map[string]*os.File{"closed": file, "nil": nil} {
		err := client.ExecuteFile(testContext(t), "getfd", nil, nil, file)
		if !errors.Is(err, qmp.ErrNotSent) {
			t.Errorf("%s file: %v, want ErrNotSent", name, err)
		}
	}
	execute(t, client, "query-version", nil, nil) // the client survives that
}

// After a command with a file, not one byte is sent until it is answered, whoever wants to.
func TestNothingFollowsAFile(t *testing.T) {
	monitor := qmptest.Start(t)
	asked, answer := make(chan struct{}), make(chan struct{})
	monitor.HandleRequest("getfd", func(r *qmptest.Request) {
		close(asked)
		<-answer
		r.Reply(nil)
	})
	client := dial(t, monitor.Path())
	var answered atomic.Bool
	monitor.Handle("query-status", func(json.RawMessage) (any, error) {
		if !answered.Load() {
			t.Error("a command came after the file and before its answer")
		}
		return nil, nil
	})
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var sent sync.WaitGroup
	sent.Go(func() {
		if err := client.ExecuteFile(testContext(t), "getfd", nil, nil, file); err != nil {
			t.Error(err)
		}
	})
	<-asked
	short, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := client.Execute(short, "query-status", nil, nil); !errors.Is(err, qmp.ErrNotSent) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a command with a file outstanding: %v", err)
	}
	for range 3 {
		sent.Go(func() {
			if err := client.Execute(testContext(t), "query-status", nil, nil); err != nil {
				t.Error(err)
			}
		})
	}
	answered.Store(true)
	close(answer)
	sent.Wait()
}

// Each way in which QEMU can break the connection fails every waiting command and
// subscription, and says why.
func TestBrokenConnection(t *testing.T) {
	for _, test := range []struct {
		name    string
		violate func(*qmptest.Server, *qmptest.Request)
		want    error
		says    string
	}{
		{"death", func(s *qmptest.Server, _ *qmptest.Request) { s.Die() }, qmp.ErrDisconnected, ""},
		{"torn line", func(s *qmptest.Server, _ *qmptest.Request) {
			s.Write([]byte(`{"return": {"sta`))
			s.Hangup()
		}, io.ErrUnexpectedEOF, "16 bytes"},
		{"garbage", func(s *qmptest.Server, _ *qmptest.Request) {
			s.Write([]byte("\x00\xff garbage\n"))
		}, qmp.ErrProtocol, "garbage"},
		{"cut JSON", func(s *qmptest.Server, _ *qmptest.Request) {
			s.Write([]byte(`{"return": {` + "\n"))
		}, qmp.ErrProtocol, "return"},
		{"two in one line", func(s *qmptest.Server, _ *qmptest.Request) {
			s.Write([]byte(`{"return":{}}{"return":{}}` + "\n"))
		}, qmp.ErrProtocol, ""},
		{"second reply", func(_ *qmptest.Server, r *qmptest.Request) {
			r.Reply(nil)
			r.Reply(nil)
		}, qmp.ErrProtocol, "no command"},
		{"reply without id", func(s *qmptest.Server, _ *qmptest.Request) {
			s.Write([]byte(`{"return":{}}` + "\n"))
		}, qmp.ErrProtocol, "no command"},
		{"parse error", func(s *qmptest.Server, _ *qmptest.Request) {
			s.Write([]byte(`{"error":{"class":"GenericError","desc":"JSON parse error"}}` + "\n"))
		}, qmp.ErrProtocol, "could not read"},
		{"second greeting", func(s *qmptest.Server, _ *qmptest.Request) {
			s.Write([]byte(`{"QMP":{"version":{"qemu":{"major":7,"minor":2,"micro":0}}}}` + "\n"))
		}, qmp.ErrProtocol, "second greeting"},
	} {
		t.Run(test.name, func(t *testing.T) {
			monitor := qmptest.Start(t)
			monitor.Hold("held")
			client := dial(t, monitor.Path())
			events := client.Subscribe()
			var group sync.WaitGroup
			const waiting = 5
			for range waiting {
				group.Go(func() {
					// The one that is answered, in "second reply", is not an error.
					err := client.Execute(testContext(t), "held", nil, nil)
					if err != nil && !errors.Is(err, test.want) {
						t.Errorf("waiting command: %v, want %v", err, test.want)
					}
				})
			}
			var last *qmptest.Request
			for range waiting {
				last = monitor.Take(testContext(t))
			}
			test.violate(monitor, last)
			group.Wait()
			<-client.Done()
			for what, err := range map[string]error{
				"client":       client.Err(),
				"next command": client.Execute(testContext(t), "query-version", nil, nil),
				"subscription": second(events.Next(testContext(t))),
				"another":      second(client.Subscribe().Next(testContext(t))),
			} {
				if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) {
					t.Errorf("%s: %q, want %v, saying %q", what, err, test.want, test.says)
				}
			}
		})
	}
}

func second(_ qmp.Event, err error) error { return err }

func TestClose(t *testing.T) {
	monitor := qmptest.Start(t)
	monitor.Hold("held")
	client := dial(t, monitor.Path())
	if err := client.Err(); err != nil {
		t.Errorf("a live client has the error %v", err)
	}
	result := make(chan error)
	go func() { result <- client.Execute(testContext(t), "held", nil, nil) }()
	monitor.Take(testContext(t))
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() { client.Close() })
	}
	if err := <-result; !errors.Is(err, qmp.ErrClosed) {
		t.Errorf("waiting command: %v, want ErrClosed", err)
	}
	group.Wait()
	if err := client.Err(); !errors.Is(err, qmp.ErrClosed) {
		t.Errorf("client ended with %v", err)
	}
}

// What QEMU wrote before it died counts, though a write has already failed.
func TestLastWordsAreHeard(t *testing.T) {
	monitor := qmptest.Start(t)
	client := dial(t, monitor.Path())
	events := client.Subscribe()
	const last = 1000
	for i := range last {
		monitor.Emit("LAST_WORD", map[string]int{"n": i})
	}
	monitor.Die()
	err := client.Execute(testContext(t), "query-version", nil, nil)
	if !errors.Is(err, qmp.ErrDisconnected) {
		t.Errorf("command to a dead QEMU: %v", err)
	}
	for i := range last {
		event, err := events.Next(testContext(t))
		if err != nil {
			t.Fatalf("event %d: %v", i, err)
		}
		if word := event.(qmp.Unknown); string(word.Data) != fmt.Sprintf(`{"n": %d}`, i) {
			t.Fatalf("event %d is %s", i, word.Data)
		}
	}
}

// A command returns after the events that QEMU wrote before its reply are queued.
func TestEventsBeforeReply(t *testing.T) {
	monitor := qmptest.Start(t)
	monitor.HandleRequest("stop", func(r *qmptest.Request) {
		monitor.Emit("STOP", nil)
		r.Reply(nil)
	})
	client := dial(t, monitor.Path())
	ended, cancel := context.WithCancel(t.Context())
	cancel() // Next must not need to wait
	for range 200 {
		events := client.Subscribe()
		execute(t, client, "stop", nil, nil)
		if event, err := events.Next(ended); err != nil || event.EventName() != "STOP" {
			t.Fatalf("event %v, %v", event, err)
		}
		events.Close()
		if _, err := events.Next(t.Context()); !errors.Is(err, qmp.ErrClosed) {
			t.Fatalf("after Close: %v", err)
		}
	}
}
