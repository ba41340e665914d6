package qmp

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

func TestLineReader(t *testing.T) {
	const limit = 100 << 10
	long := strings.Repeat("x", limit-1)
	for _, test := range []struct {
		name, input string
		lines       []string
		end         error
	}{
		{"nothing", "", nil, io.EOF},
		{"both line ends", "a\r\nb\n", []string{"a", "b"}, io.EOF},
		{"empty lines", "\n\r\n", []string{"", ""}, io.EOF},
		{"torn", "a\nb", []string{"a"}, io.ErrUnexpectedEOF},
		{"as long as may be", long + "\nshort\n", []string{long, "short"}, io.EOF},
		{"too long", "a\n" + long + "x\n", []string{"a"}, ErrLineTooLong},
		{"endless", long + long, nil, ErrLineTooLong},
	} {
		for how, source := range map[string]io.Reader{
			"whole":   strings.NewReader(test.input),
			"bytes":   iotest.OneByteReader(strings.NewReader(test.input)),
			"erratic": iotest.DataErrReader(iotest.HalfReader(strings.NewReader(test.input))),
		} {
			lines, err := readAll(newLineReader(source, limit))
			if !reflect.DeepEqual(lines, test.lines) || !errors.Is(err, test.end) {
				t.Errorf("%s, read %s: %d lines and %v, want %d and %v", test.name, how, len(lines), err, len(test.lines), test.end)
			}
		}
	}
}

func readAll(reader *lineReader) (lines []string, err error) {
	for {
		line, err := reader.next()
		if err != nil {
			return lines, err
		}
		lines = append(lines, string(line))
	}
}

func TestDecodeEvents(t *testing.T) {
	moment := time.Unix(1700000000, 123456000)
	at := At{moment}
	for _, test := range []struct {
		name, data string
		want       Event
	}{
		{"STOP", ``, Stop{at}},
		{"RESUME", `{}`, Resume{at}},
		{"SUSPEND", ``, Suspend{at}},
		{"SUSPEND_DISK", ``, SuspendDisk{at}},
		{"WAKEUP", ``, Wakeup{at}},
		{"POWERDOWN", `null`, Powerdown{at}},
		{"SHUTDOWN", `{"guest":true,"reason":"guest-shutdown"}`, Shutdown{at, true, "guest-shutdown"}},
		{"RESET", `{"guest":false,"reason":"host-qmp-system-reset"}`, Reset{at, false, "host-qmp-system-reset"}},
		{"MIGRATION", `{"status":"completed"}`, Migration{at, "completed"}},
		{"MIGRATION_PASS", `{"pass":2}`, MigrationPass{at, 2}},
		{"JOB_STATUS_CHANGE", `{"id":"j","status":"ready"}`, JobStatusChange{at, "j", "ready"}},
		{"GUEST_PANICKED", `{"action":"pause","info":{"type":"s390"}}`, GuestPanicked{at, "pause", json.RawMessage(`{"type":"s390"}`)}},
		{"BLOCK_IO_ERROR", `{"device":"d","node-name":"n","operation":"write","action":"stop","nospace":true,"reason":"No space left on device"}`,
			BlockIOError{At: at, Device: "d", NodeName: "n", Operation: "write", Action: "stop", NoSpace: true, Reason: "No space left on device"}},
		{"RTC_CHANGE", `{"offset":-78,"qom-path":"/rtc"}`, RTCChange{at, -78, "/rtc"}},
		{"DEVICE_DELETED", `{"device":"net0","path":"/p"}`, DeviceDeleted{at, "net0", "/p"}},
		{"NIC_RX_FILTER_CHANGED", `{"name":"net0","path":"/p"}`, NicRxFilterChanged{at, "net0", "/p"}},
		{"VSERPORT_CHANGE", `{"id":"agent","open":true}`, VserportChange{at, "agent", true}},
		{"WATCHDOG", `{"action":"reset"}`, Watchdog{at, "reset"}},
		{"NEW_IN_QEMU_99", `{"x":1}`, Unknown{at, "NEW_IN_QEMU_99", json.RawMessage(`{"x":1}`)}},
		{"RESET", `{"guest":"not a bool"}`, Unknown{at, "RESET", json.RawMessage(`{"guest":"not a bool"}`)}},
	} {
		if test.data != "" {
			test.data = `,"data":` + test.data
		}
		line := fmt.Sprintf(`{"timestamp":{"seconds":1700000000,"microseconds":123456},"event":%q%s}`, test.name, test.data)
		m, err := decodeMessage([]byte(line))
		if err != nil || !reflect.DeepEqual(m.event, test.want) {
			t.Errorf("%s\n  is %#v, %v\nwant %#v", line, m.event, err, test.want)
			continue
		}
		if m.event.EventName() != test.name || !m.event.EventTime().Equal(moment) {
			t.Errorf("%s is named %s, at %v", test.name, m.event.EventName(), m.event.EventTime())
		}
	}
	for name, decode := range decoders { // each under its own name
		if event, err := decode(moment, nil); err != nil || event.EventName() != name {
			t.Errorf("decoder of %s makes %v, %v", name, event, err)
		}
	}
	m, err := decodeMessage([]byte(`{"timestamp":{"seconds":-1,"microseconds":-1},"event":"STOP"}`))
	if err != nil || !m.event.EventTime().IsZero() {
		t.Errorf("an unknown time is %v, %v", m.event, err)
	}
}

func TestEncode(t *testing.T) {
	line, err := Encode(`a"b`, "migrate", map[string]string{"uri": "fd:x"})
	const want = `{"id":"a\"b","execute":"migrate","arguments":{"uri":"fd:x"}}` + "\n"
	if err != nil || string(line) != want {
		t.Errorf("%s, %v; want %s", line, err, want)
	}
	if _, err := Encode("1", "", nil); err == nil {
		t.Error("a command without a name is encoded")
	}
}

// FuzzIncoming feeds any bytes to what reads the connection: it must not panic, must
// see the same lines however they arrive, and gives every message exactly one meaning.
func FuzzIncoming(f *testing.F) {
	f.Add([]byte(`{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": ""}, "capabilities": ["oob"]}}` + "\r\n"))
	f.Add([]byte(`{"return": {}, "id": "00000000-0000000000000001"}` + "\r\n"))
	f.Add([]byte(`{"id": 7, "error": {"class": "GenericError", "desc": "x"}}` + "\n" + `{"return": []`))
	f.Add([]byte(`{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "RESET", "data": {"guest": false}}` + "\n"))
	f.Fuzz(func(t *testing.T, input []byte) {
		const limit = 64 << 10
		lines, err := readAll(newLineReader(bytes.NewReader(input), limit))
		slowly, slowErr := readAll(newLineReader(iotest.OneByteReader(bytes.NewReader(input)), limit))
		if !reflect.DeepEqual(lines, slowly) || fmt.Sprint(err) != fmt.Sprint(slowErr) {
			t.Fatalf("read at once: %q, %v; by bytes: %q, %v", lines, err, slowly, slowErr)
		}
		for _, line := range lines {
			m, err := decodeMessage([]byte(line))
			switch {
			case err != nil && !errors.Is(err, ErrProtocol):
				t.Errorf("%q: error %v is no ErrProtocol", line, err)
			case err == nil && (m.kind == kindEvent) != (m.event != nil):
				t.Errorf("%q: kind %d with event %v", line, m.kind, m.event)
			case err == nil && (m.kind == kindReturn) != (m.result != nil):
				t.Errorf("%q: kind %d with result %s", line, m.kind, m.result)
			case err == nil && m.kind == kindEvent && m.event.EventName() == "":
				t.Errorf("%q: event without a name", line)
			}
		}
	})
}
