package gpio

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nv-hypervisor/nv-hypervisor/pod"
	"github.com/nv-hypervisor/nv-hypervisor/vm/saver"
)

// A real line is tested in a machine that has one (lab/devicecheck); here is what needs none.

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func edges(t testing.TB, list ...lineEvent) []byte {
	t.Helper()
	var b bytes.Buffer
	for _, e := range list {
		for _, v := range []any{e.timestampNS, e.id, e.offset, e.seqno, e.lineSeqno, e.padding} {
			if err := binary.Write(&b, binary.NativeEndian, v); err != nil {
				t.Fatal(err)
			}
		}
	}
	return b.Bytes()
}

func TestDecode(t *testing.T) {
	rise := func(seqno uint32, at uint64) lineEvent {
		return lineEvent{id: edgeRising, seqno: seqno, timestampNS: at}
	}
	fall := func(seqno uint32, at uint64) lineEvent {
		return lineEvent{id: edgeFalling, seqno: seqno, timestampNS: at}
	}
	for name, c := range map[string]struct {
		read  []byte
		event pod.Event
		at    int64
	}{
		"nothing":                {nil, saver.None, 0},
		"less than an edge":      {edges(t, rise(1, 5))[:47], saver.None, 0},
		"power fails":            {edges(t, rise(1, 5)), saver.Outage, 5},
		"power is back":          {edges(t, fall(1, 5)), saver.PowerBack, 5},
		"a pulse that is over":   {edges(t, rise(1, 5), fall(2, 7)), saver.PowerBack, 7},
		"back and gone again":    {edges(t, fall(1, 5), rise(2, 7)), saver.Outage, 7},
		"the first of two":       {edges(t, rise(1, 5), rise(2, 7)), saver.Outage, 5},
		"an edge and a half":     {edges(t, rise(1, 5), fall(2, 7))[:60], saver.Outage, 5},
		"an edge of a later ABI": {edges(t, lineEvent{id: 9, seqno: 1, timestampNS: 5}), saver.None, 0},
		"lost edges, no line":    {edges(t, rise(7, 5)), saver.Outage, 5},
	} {
		s := Source{line: &line{fd: -1}}
		if event, at := s.Decode(c.read); event != c.event || at != c.at {
			t.Errorf("%s: %v at %d, want %v at %d", name, event, at, c.event, c.at)
		}
	}
}

// The kernel's numbers are 32 bits wide and begin again.
func TestNumbersBeginAgain(t *testing.T) {
	l := &line{fd: -1, seqno: 1<<32 - 1}
	if now, _ := l.decode(edges(t, lineEvent{id: edgeRising, seqno: 0})); now != active || l.seqno != 0 {
		t.Errorf("%v, number %d", now, l.seqno)
	}
}

func TestDecodeDoesNotAllocate(t *testing.T) {
	s := Source{line: &line{fd: -1}}
	whole := edges(t, lineEvent{id: edgeRising, seqno: 1}, lineEvent{id: edgeFalling, seqno: 9}) // a gap: the line is asked
	if n := testing.AllocsPerRun(100, func() { s.Decode(whole) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestConfigurationIsChecked(t *testing.T) {
	for want, c := range map[string]Config{
		"gpioinfo lists them":       {},
		"longer than":               {Line: strings.Repeat("x", 32)},
		"choose pull-up":            {Line: "x", Bias: "up"},
		"choose whole microseconds": {Line: "x", Debounce: 2 * time.Second},
		"choose emergency":          {Line: "x", Tier: "planned"},
		"choose on-battery":         {Line: "x", Tier: "battery", Means: "mains"},
		"is of the battery tier":    {Line: "x", Means: "going"},
	} {
		if err := c.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", c, err, want)
		}
	}
	if _, err := New(Config{Line: "x"}); err == nil || !strings.Contains(err.Error(), "use Open") {
		t.Error(err)
	}
	if _, err := Open(Config{Line: "x", Tier: "battery"}); err == nil || !strings.Contains(err.Error(), "use New") {
		t.Error(err)
	}
}

func TestOpenSaysWhatToDo(t *testing.T) {
	if _, err := Open(Config{Chip: filepath.Join(t.TempDir(), "gpiochip0"), Line: "3"}); !errors.Is(err, ErrNoLine) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no chip: %v", err)
	}
	if _, err := Open(Config{Chip: "/dev/null", Line: "3"}); err == nil || !strings.Contains(err.Error(), "not a GPIO chip") {
		t.Errorf("/dev/null: %v", err)
	}
	if _, err := Open(Config{Line: "NVH_NO_SUCH_LINE"}); !errors.Is(err, ErrNoLine) || !strings.Contains(err.Error(), "gpioinfo") {
		t.Errorf("no line: %v", err)
	}
}

// A watcher without its line says so, and ends when it is asked to.
func TestWatcherWithoutALine(t *testing.T) {
	w, err := New(Config{Line: "NVH_NO_SUCH_LINE", Tier: "battery"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	reports := make(chan pod.Report, 10)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.Run(ctx, func(r pod.Report) { reports <- r })
	}()
	if r := <-reports; r.Condition != pod.Unknown || !strings.Contains(r.Detail, "gpioinfo") {
		t.Errorf("%+v", r)
	}
	if h := w.Health(); h.Connected || !strings.Contains(h.Error, "no such GPIO line") {
		t.Errorf("%+v", h)
	}
	if err := w.Test(ctx); err == nil || !strings.Contains(err.Error(), "not requested") {
		t.Error(err)
	}
	cancel()
	<-ended
}

func FuzzDecode(f *testing.F) {
	f.Add(edges(f, lineEvent{id: edgeRising, seqno: 1, timestampNS: 5}, lineEvent{id: edgeFalling, seqno: 2, timestampNS: 7}))
	f.Add(edges(f, lineEvent{id: edgeRising, seqno: 1 << 31, timestampNS: 1 << 63}))
	f.Fuzz(func(t *testing.T, p []byte) {
		l := &line{fd: -1}
		now, _ := l.decode(p)
		// The last edge that is one says how the line stands.
		want := unchanged
		for ; len(p) >= eventSize; p = p[eventSize:] {
			switch binary.NativeEndian.Uint32(p[8:]) {
			case edgeRising:
				want = active
			case edgeFalling:
				want = inactive
			}
		}
		if now != want {
			t.Errorf("%v, want %v", now, want)
		}
	})
}
