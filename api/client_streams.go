package api

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/nv-hypervisor/nv-hypervisor/host"
)

// maxEvent bounds one line of the event stream.
const maxEvent = 1 << 20

// Log streams a log; with follow until ctx is done or it is closed.
func (c *Client) Log(ctx context.Context, name, which string, follow bool) (io.ReadCloser, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	q := request{method: "GET", path: "/v1/vms/" + name + "/logs/" + url.PathEscape(which)}
	if follow {
		q.query = url.Values{"follow": {"true"}}
	}
	resp, err := c.open(ctx, q)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// Console attaches to the console until ctx is done or it is closed.
func (c *Client) Console(ctx context.Context, name string) (io.ReadWriteCloser, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	resp, err := c.open(ctx, request{method: "GET", path: "/v1/vms/" + name + "/console",
		header: http.Header{"Connection": {"Upgrade"}, "Upgrade": {upgradeConsole}}})
	if err != nil {
		return nil, err
	}
	stream, ok := resp.Body.(io.ReadWriteCloser)
	if resp.StatusCode != http.StatusSwitchingProtocols || !ok {
		resp.Body.Close()
		return nil, fmt.Errorf("the daemon answered %s instead of opening the console", resp.Status)
	}
	// The transport gives an upgraded connection away for good: ending it with
	// the context is left to us.
	return &consoleStream{stream, context.AfterFunc(ctx, func() { stream.Close() })}, nil
}

type consoleStream struct {
	io.ReadWriteCloser
	stop func() bool
}

func (s *consoleStream) Close() error {
	s.stop()
	return s.ReadWriteCloser.Close()
}

// Subscribe delivers the events from now on until ctx is done or the daemon
// goes away; then the channel is closed. A reader that is too slow gets an
// event of type EventGap where events are missing.
func (c *Client) Subscribe(ctx context.Context) (<-chan host.Event, error) {
	stream, err := c.Events(ctx, nil)
	if err != nil {
		return nil, err
	}
	events := make(chan host.Event)
	go func() {
		defer close(events)
		defer stream.Close()
		for {
			e, err := stream.Next()
			if err != nil {
				return
			}
			select {
			case events <- e:
			case <-ctx.Done():
				return
			}
		}
	}()
	return events, nil
}

// Events opens the event stream. With after it begins behind the event of that
// sequence number, as far as the daemon still knows it.
func (c *Client) Events(ctx context.Context, after *uint64) (*EventStream, error) {
	header := http.Header{"Accept": {"text/event-stream"}}
	if after != nil {
		header.Set("Last-Event-ID", strconv.FormatUint(*after, 10))
	}
	resp, err := c.open(ctx, request{method: "GET", path: "/v1/events", header: header})
	if err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxEvent)
	return &EventStream{body: resp.Body, lines: lines}, nil
}

// EventStream reads server-sent events.
type EventStream struct {
	body  io.ReadCloser
	lines *bufio.Scanner
}

// Next waits for an event. At the end of the stream it returns io.EOF.
func (s *EventStream) Next() (host.Event, error) {
	var e host.Event
	var data strings.Builder
	for s.lines.Scan() {
		line := s.lines.Text()
		if text, ok := strings.CutPrefix(line, "data:"); ok {
			data.WriteString(text)
		}
		if line != "" || data.Len() == 0 {
			continue
		}
		if err := json.Unmarshal([]byte(data.String()), &e); err != nil {
			return e, fmt.Errorf("event stream: %w", err)
		}
		return e, nil
	}
	if err := s.lines.Err(); err != nil {
		return e, fmt.Errorf("event stream: %w", err)
	}
	return e, io.EOF
}

// Close ends the stream.
func (s *EventStream) Close() error { return s.body.Close() }
