package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"syscall"

	"github.com/nv-hypervisor/nv-hypervisor/host"
	"github.com/nv-hypervisor/nv-hypervisor/outage"
	"github.com/nv-hypervisor/nv-hypervisor/pod/webhook"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

// DefaultSocket is where the daemon listens unless configured otherwise.
const DefaultSocket = "/run/nvh/nvhd.sock"

// Client speaks to a daemon. It is safe for concurrent use; every call opens a
// connection or takes an idle one. Its errors wrap the sentinels of packages vm
// and nvram, and ErrUnreachable when no daemon answers.
type Client struct {
	socket string
	web    *http.Client
}

var _ Backend = (*Client)(nil)

// NewClient returns a client of the daemon on a unix socket. Nothing is dialled
// before the first call.
func NewClient(socket string) (*Client, error) {
	if err := CheckSocketPath(socket); err != nil {
		return nil, err
	}
	c := &Client{socket: socket}
	c.web = &http.Client{
		Transport: &http.Transport{
			DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dial(ctx) },
			MaxIdleConnsPerHost: 4,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

// Close drops idle connections. Calls in progress are ended by their contexts.
func (c *Client) Close() error {
	c.web.CloseIdleConnections()
	return nil
}

func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", c.socket)
	if err == nil {
		return conn, nil
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, vm.WithRemedy(fmt.Errorf("%w: %w", ErrForbidden, err),
			"Run the command as root or as a member of the daemon's group.")
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, vm.WithRemedy(fmt.Errorf("%w on %s: %w", ErrUnreachable, c.socket, errors.Unwrap(err)),
			"Start nvhd, or name its socket with --socket or NVH_SOCKET.")
	}
	return nil, fmt.Errorf("%w on %s: %w", ErrUnreachable, c.socket, err)
}

// request is one call: what is asked and what the body is.
type request struct {
	method string
	path   string
	query  url.Values
	body   any // nil: none
	header http.Header
}

// open sends q and returns the response when it is a success.
func (c *Client) open(ctx context.Context, q request) (*http.Response, error) {
	var body io.Reader
	if q.body != nil {
		p, err := json.Marshal(q.body)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(p)
	}
	target := "http://nvhd" + q.path
	if len(q.query) > 0 {
		target += "?" + q.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, q.method, target, body)
	if err != nil {
		return nil, err
	}
	if q.header != nil {
		req.Header = q.header
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.web.Do(req)
	if err != nil {
		return nil, transportError(err)
	}
	if resp.StatusCode/100 == 2 || resp.StatusCode == http.StatusSwitchingProtocols {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, responseError(resp)
}

// transportError takes the noise of net/http from an error.
func transportError(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	if errors.Is(err, ErrUnreachable) || errors.Is(err, ErrForbidden) || errors.Is(err, context.Canceled) ||
		errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return vm.WithRemedy(fmt.Errorf("%w: the connection broke: %w", ErrUnreachable, err),
		"Look at the daemon's log.")
}

// responseError reads the error out of a response that is not a success.
func responseError(resp *http.Response) error {
	p, _ := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	var body errorBody
	if err := json.Unmarshal(p, &body); err != nil || body.Error == nil {
		return fmt.Errorf("the daemon answered %s", resp.Status)
	}
	return body.Error
}

// call sends q and decodes the answer.
func call[T any](ctx context.Context, c *Client, q request) (T, error) {
	var v T
	resp, err := c.open(ctx, q)
	if err != nil {
		return v, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNoContent {
		return v, nil
	}
	if err := json.NewDecoder(resp.Body).Decode(&v); err != nil {
		return v, fmt.Errorf("the daemon's answer to %s %s: %w", q.method, q.path, err)
	}
	io.Copy(io.Discard, resp.Body)
	return v, nil
}

// callVM is call for an endpoint under a VM.
func callVM[T any](ctx context.Context, c *Client, method, name, verb string, body any) (T, error) {
	if err := CheckName(name); err != nil {
		var zero T
		return zero, err
	}
	return call[T](ctx, c, request{method: method, path: "/v1/vms/" + name + verb, body: body})
}

func (c *Client) Status(ctx context.Context) (host.Status, error) {
	return call[host.Status](ctx, c, request{method: "GET", path: "/v1/status"})
}

func (c *Client) Doctor(ctx context.Context) ([]host.Check, error) {
	return call[[]host.Check](ctx, c, request{method: "GET", path: "/v1/doctor"})
}

func (c *Client) Detectors(ctx context.Context) ([]host.Detector, error) {
	return call[[]host.Detector](ctx, c, request{method: "GET", path: "/v1/detectors"})
}

func (c *Client) TestDetectors(ctx context.Context, name string) ([]host.DetectorTest, error) {
	q := request{method: "POST", path: "/v1/detectors/test"}
	if name != "" {
		q.query = url.Values{"name": {name}}
	}
	return call[[]host.DetectorTest](ctx, c, q)
}

func (c *Client) Announce(ctx context.Context, e webhook.Event) (webhook.Answer, error) {
	return call[webhook.Answer](ctx, c, request{method: "POST", path: webhook.Path, body: e})
}

func (c *Client) List(ctx context.Context) ([]vm.Info, error) {
	return call[[]vm.Info](ctx, c, request{method: "GET", path: "/v1/vms"})
}

func (c *Client) Info(ctx context.Context, name string) (vm.Info, error) {
	return callVM[vm.Info](ctx, c, "GET", name, "", nil)
}

func (c *Client) Create(ctx context.Context, d vm.Definition) (vm.Info, error) {
	return call[vm.Info](ctx, c, request{method: "POST", path: "/v1/vms", body: d})
}

func (c *Client) Remove(ctx context.Context, name string, discardImage bool) error {
	if err := CheckName(name); err != nil {
		return err
	}
	_, err := call[struct{}](ctx, c, request{method: "DELETE", path: "/v1/vms/" + name,
		query: url.Values{"discard_image": {strconv.FormatBool(discardImage)}}})
	return err
}

func (c *Client) Start(ctx context.Context, name string, o host.StartOptions) (vm.Info, error) {
	return callVM[vm.Info](ctx, c, "POST", name, "/start", o)
}

func (c *Client) Stop(ctx context.Context, name string, o host.StopOptions) (vm.Info, error) {
	return callVM[vm.Info](ctx, c, "POST", name, "/stop", o)
}

func (c *Client) Pause(ctx context.Context, name string) (vm.Info, error) {
	return callVM[vm.Info](ctx, c, "POST", name, "/pause", nil)
}

func (c *Client) Unpause(ctx context.Context, name string) (vm.Info, error) {
	return callVM[vm.Info](ctx, c, "POST", name, "/unpause", nil)
}

func (c *Client) Save(ctx context.Context, name string) (outage.Timeline, error) {
	return callVM[outage.Timeline](ctx, c, "POST", name, "/save", nil)
}

func (c *Client) Restore(ctx context.Context, name string) (outage.Timeline, error) {
	return callVM[outage.Timeline](ctx, c, "POST", name, "/restore", nil)
}

func (c *Client) SuspendAll(ctx context.Context) (outage.Timeline, error) {
	return call[outage.Timeline](ctx, c, request{method: "POST", path: "/v1/suspend"})
}

func (c *Client) Monitor(ctx context.Context, name string, req host.MonitorRequest) (json.RawMessage, error) {
	return callVM[json.RawMessage](ctx, c, "POST", name, "/monitor", req)
}

func (c *Client) Simulate(ctx context.Context) (outage.Timeline, error) {
	return call[outage.Timeline](ctx, c, request{method: "POST", path: "/v1/outages/simulate"})
}

func (c *Client) Clear(ctx context.Context) (outage.Timeline, error) {
	return call[outage.Timeline](ctx, c, request{method: "POST", path: "/v1/outages/clear"})
}

func (c *Client) Outages(ctx context.Context) ([]outage.Timeline, error) {
	return call[[]outage.Timeline](ctx, c, request{method: "GET", path: "/v1/outages"})
}

func (c *Client) Outage(ctx context.Context, id string) (outage.Timeline, error) {
	if err := CheckName(id); err != nil {
		return outage.Timeline{}, err
	}
	return call[outage.Timeline](ctx, c, request{method: "GET", path: "/v1/outages/" + id})
}

func (c *Client) Pools(ctx context.Context) ([]host.PoolStatus, error) {
	return call[[]host.PoolStatus](ctx, c, request{method: "GET", path: "/v1/pools"})
}

func (c *Client) PoolHealth(ctx context.Context, name string) (host.PoolHealth, error) {
	if err := CheckName(name); err != nil {
		return host.PoolHealth{}, err
	}
	return call[host.PoolHealth](ctx, c, request{method: "GET", path: "/v1/pools/" + name + "/health"})
}

func (c *Client) ImportPool(ctx context.Context, path, name string) ([]vm.Info, error) {
	return call[[]vm.Info](ctx, c, request{method: "POST", path: "/v1/pools/import", body: importRequest{path, name}})
}
