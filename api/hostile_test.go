package api_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/api"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

func (d *daemon) dial(t *testing.T) *net.UnixConn {
	t.Helper()
	c, err := net.Dial("unix", d.Socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	return c.(*net.UnixConn)
}

// raw sends text as it is and returns all that comes back.
func (d *daemon) raw(t *testing.T, text string) string {
	t.Helper()
	c := d.dial(t)
	go io.WriteString(c, text)
	answer, err := io.ReadAll(c)
	if err != nil && len(answer) == 0 {
		t.Fatal(err)
	}
	return string(answer)
}

func (d *daemon) post(t *testing.T, path, body string) string {
	return d.raw(t, fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body))
}

func statusOf(t *testing.T, answer string) int {
	t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(answer)), nil)
	if err != nil {
		t.Fatalf("%v in %q", err, answer)
	}
	resp.Body.Close()
	return resp.StatusCode
}

func TestBodiesThatAreRefused(t *testing.T) {
	d := serve(t)
	for name, body := range map[string]string{
		"empty":          "",
		"not JSON":       "hello",
		"cut short":      `{"name":"web"`,
		"unknown field":  `{"name":"web","memory":268435456,"cpus":1,"colour":"red"}`,
		"trailing data":  `{"name":"web","memory":268435456,"cpus":1}{}`,
		"key twice":      `{"name":"web","name":"db","memory":268435456,"cpus":1}`,
		"invalid UTF-8":  "{\"name\":\"web\",\"cmdline\":\"\xff\xfe\",\"memory\":268435456}",
		"deep":           strings.Repeat(`{"a":`, 100_000) + "1" + strings.Repeat("}", 100_000),
		"deep array":     strings.Repeat("[", 65) + strings.Repeat("]", 65),
		"wrong type":     `{"name":"web","memory":268435456,"cpus":"many"}`,
		"negative":       `{"name":"web","memory":-1}`,
		"not an object":  `[]`,
		"huge number":    `{"name":"web","memory":1e400}`,
		"slash in name":  `{"name":"../web","memory":268435456}`,
		"NUL in name":    `{"name":"we\u0000b","memory":268435456}`,
		"null for a VM":  `null`,
		"odd size":       `{"name":"web","memory":268435457}`,
		"lone surrogate": `{"name":"\ud800","memory":268435456}`,
	} {
		t.Run(name, func(t *testing.T) {
			if answer := d.post(t, "/v1/vms", body); statusOf(t, answer) != http.StatusBadRequest {
				t.Errorf("%.300s", answer)
			}
		})
	}
	if all, err := d.Client.List(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("a refused body made a VM: %v, %v", all, err)
	}
}

func TestDepthThatIsAllowed(t *testing.T) {
	var v any
	if err := api.DecodeStrict([]byte(strings.Repeat("[", 64)+strings.Repeat("]", 64)), &v); err != nil {
		t.Error(err)
	}
}

// A body of 100 MiB is refused after the first MiB, without being kept.
func TestHugeBody(t *testing.T) {
	d := serve(t)
	c := d.dial(t)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		fmt.Fprintf(c, "POST /v1/vms HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n\"", 100<<20)
		chunk := strings.Repeat("x", 1<<20)
		for range 100 {
			if _, err := io.WriteString(c, chunk); err != nil {
				return
			}
		}
	}()
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Error(resp.Status)
	}
	c.Close()
	<-sent
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 32<<20 {
		t.Errorf("%d bytes were allocated for it", grown)
	}
}

// Neither a slow header nor a slow body holds a connection.
func TestSlowLoris(t *testing.T) {
	d := serve(t)
	for name, start := range map[string]string{
		"header": "GET /v1/status HTTP/1.1\r\nHost: x\r\nX-Slow: ",
		"body":   "POST /v1/vms HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1000\r\n\r\n{",
	} {
		t.Run(name, func(t *testing.T) {
			c := d.dial(t)
			io.WriteString(c, start)
			began := time.Now()
			if _, err := io.ReadAll(c); err != nil && !strings.Contains(err.Error(), "reset") {
				t.Errorf("the connection is still open after %v: %v", time.Since(began), err)
			}
		})
	}
}

// A client that sends nothing more than its request, and says so, gets its
// answer or a closed connection; nothing stays behind (goleak).
func TestHalfClosed(t *testing.T) {
	d := serve(t)
	for _, text := range []string{"", "GET", "GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n", "POST /v1/vms HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"} {
		c := d.dial(t)
		io.WriteString(c, text)
		c.CloseWrite()
		if _, err := io.ReadAll(c); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestNoSuchEndpoint(t *testing.T) {
	d := serve(t)
	for request, want := range map[string]int{
		"GET /":                                    http.StatusNotFound,
		"GET /v2/status":                           http.StatusNotFound,
		"GET /v1/vms/":                             http.StatusNotFound,
		"PUT /v1/vms":                              http.StatusMethodNotAllowed,
		"DELETE /v1/status":                        http.StatusMethodNotAllowed,
		"GET /v1/vms/web/start":                    http.StatusMethodNotAllowed,
		"GET /v1/vms/web/logs/passwd":              http.StatusBadRequest,
		"DELETE /v1/vms/web?discard_image=":        http.StatusNotFound,
		"DELETE /v1/vms/web?discard_image=perhaps": http.StatusBadRequest,
		"GET /v1/vms/web/console":                  http.StatusBadRequest,
	} {
		answer := d.raw(t, request+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		if got := statusOf(t, answer); got != want || !strings.Contains(answer, `{"error":{"code":`) {
			t.Errorf("%s: %d, want %d\n%s", request, got, want, answer)
		}
	}
}

// Many connections that do nothing do not keep an honest client out for long,
// and cost no goroutine afterwards.
func TestManyIdleConnections(t *testing.T) {
	d := serve(t)
	for range 600 {
		c, err := net.Dial("unix", d.Socket)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		_, err := d.Client.Status(t.Context())
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func TestMonitorWantsOneOfTwo(t *testing.T) {
	d := serve(t)
	d.Put(vm.Info{Name: "web"})
	for _, body := range []string{`{}`, `{"hmp":"info","qmp":{}}`} {
		if answer := d.post(t, "/v1/vms/web/monitor", body); statusOf(t, answer) != http.StatusBadRequest {
			t.Error(answer)
		}
	}
}

func FuzzDecodeStrict(f *testing.F) {
	f.Add([]byte(`{"name":"web","memory":1048576,"disks":[{"path":"a"}]}`))
	f.Add([]byte(`{"a":1,"a":2}`))
	f.Add([]byte(`[[[]]]x`))
	f.Fuzz(func(t *testing.T, p []byte) {
		var d vm.Definition
		if err := api.DecodeStrict(p, &d); err == nil && len(p) == 0 {
			t.Error("nothing was accepted")
		}
	})
}
