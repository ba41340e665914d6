package saver

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/qmp/qmptest"
)

// feed lets b read input in pieces of at most size bytes and returns the lines it cuts off.
func feed(t testing.TB, b *lineBuffer, input []byte, size int) (lines []string) {
	t.Helper()
	var fds [2]int
	check(t, unix.Pipe2(fds[:], unix.O_CLOEXEC))
	defer unix.Close(fds[0])
	for len(input) > 0 {
		n := min(size, len(input))
		if _, err := unix.Write(fds[1], input[:n]); err != nil {
			t.Fatal(err)
		}
		for left := n; left > 0; {
			got, err := b.fill(fds[0])
			if err != nil || got <= 0 {
				t.Fatalf("fill: %d, %v", got, err)
			}
			left -= got
			at := 0
			for {
				line, ok := b.next(&at)
				if !ok {
					break
				}
				lines = append(lines, string(line))
			}
			b.compact(at)
		}
		input = input[n:]
	}
	unix.Close(fds[1])
	if n, err := b.fill(fds[0]); n != 0 || err != nil {
		t.Errorf("at the end of the file: %d, %v", n, err)
	}
	return lines
}

// Lines come out whole however they went in; one that does not fit is skipped and
// takes no other with it.
func FuzzLineBuffer(f *testing.F) {
	for _, input := range []string{
		"", "\n", "a\nb\n", "no end", "\r\n\r\n", "12345678901234567890\nshort\n", "short\n12345678901234567890\n1234567890123456\n",
		"123456789012345\n", "\n1234567890123456\n\n", strings.Repeat("x", 40) + "\n" + strings.Repeat("y", 15) + "\n",
	} {
		for _, size := range []byte{1, 7, 16, 255} {
			f.Add([]byte(input), size)
		}
	}
	const capacity = 16
	f.Fuzz(func(t *testing.T, input []byte, size byte) {
		if len(input) > 4096 {
			return // the pipe would fill up
		}
		got := feed(t, &lineBuffer{data: make([]byte, capacity)}, input, max(1, int(size)))
		whole := bytes.SplitAfter(input, []byte("\n"))
		for _, line := range whole[:len(whole)-1] { // behind the last end of line nothing is a line
			text := string(line[:len(line)-1])
			switch {
			case len(got) > 0 && got[0] == text:
				got = got[1:]
			case len(text) < capacity:
				t.Fatalf("line %q is missing before %q", text, got)
			}
		}
		if len(got) > 0 {
			t.Fatalf("lines that nobody sent: %q", got)
		}
	})
}

// A line longer than the buffer does not cost the events behind it.
func TestLongLineDuringASave(t *testing.T) {
	r := newRig(t, Config{})
	g := r.boot(Options{Name: "db"})
	g.HandleRequest("stop", func(req *qmptest.Request) {
		g.Write([]byte(strings.Repeat(`{"event": "STOP"} `, 3*lineBufferSize/18) + "\r\n"))
		g.Emit("STOP", nil)
		req.Reply(nil)
	})
	g.expectSaved(r.save())
}

func TestReadUntilEnds(t *testing.T) {
	read, write, err := os.Pipe()
	check(t, err)
	defer read.Close()
	write.WriteString("something else\n")
	write.Close()
	if _, err := readUntil(int(read.Fd()), []byte("hello")); err == nil || !strings.Contains(err.Error(), "closed the monitor") {
		t.Errorf("end of file: %v", err)
	}
	if _, err := readUntil(-1, []byte("hello")); err == nil {
		t.Error("no error of a bad descriptor")
	}
}
