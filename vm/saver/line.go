package saver

import (
	"bytes"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Reply ids of the emergency monitor. They are long enough not to turn up by
// chance in an event's data.
const (
	idHello = "nvh-hello"
	idArm   = "nvh-arm"
	idUnset = "nvh-unset"
	idStop  = "nvh-stop"
	idDump  = "nvh-dump"
	idCont  = "nvh-cont"
	fdName  = "nvh-state"
	fdSet   = "4711"
)

// QEMU prints its JSON in one fixed style, with ": " and ", " between tokens; a
// quotation mark inside a string is escaped. So these byte strings occur only
// where they mean what they say.
var (
	patEvent     = []byte(`"event": "`)
	patStop      = []byte(`"event": "STOP"`)
	patMigration = []byte(`"event": "MIGRATION"`)
	patSetup     = []byte(`"status": "setup"`)
	patCompleted = []byte(`"status": "completed"`)
	patFailed    = []byte(`"status": "failed"`)
	patCancelled = []byte(`"status": "cancelled"`)
	patError     = []byte(`"error": {`)
	patStopID    = []byte(`"id": "` + idStop + `"`)
	patDumpID    = []byte(`"id": "` + idDump + `"`)
	patContID    = []byte(`"id": "` + idCont + `"`)
	patArmID     = []byte(`"id": "` + idArm + `"`)
)

// lineBufferSize holds any line the emergency monitor sends: replies without
// data and events. A longer line is skipped, not misread.
const lineBufferSize = 64 << 10

// lineBuffer cuts a byte stream into lines without allocating.
type lineBuffer struct {
	data     []byte
	used     int
	skipping bool // inside a line longer than the buffer
}

// fill reads once from fd. It reports how many bytes came; 0 is end of file.
func (b *lineBuffer) fill(fd int) (int, error) {
	if b.used == len(b.data) {
		b.used = 0
		b.skipping = true
	}
	for {
		n, err := unix.Read(fd, b.data[b.used:])
		if err == unix.EINTR {
			continue
		}
		if n > 0 {
			b.used += n
		}
		return n, err
	}
}

// next cuts the first whole line off the buffer at offset *at.
func (b *lineBuffer) next(at *int) ([]byte, bool) {
	for {
		i := bytes.IndexByte(b.data[*at:b.used], '\n')
		if i < 0 {
			return nil, false
		}
		line := b.data[*at : *at+i]
		*at += i + 1
		if b.skipping {
			b.skipping = false
			continue
		}
		return line, true
	}
}

// compact drops the lines before at.
func (b *lineBuffer) compact(at int) {
	copy(b.data, b.data[at:b.used])
	b.used -= at
}

// readUntil reads from a blocking descriptor until want has been seen in a line.
func readUntil(fd int, want []byte) ([]byte, error) {
	b := lineBuffer{data: make([]byte, lineBufferSize)}
	for {
		n, err := b.fill(fd)
		if err != nil {
			if errors.Is(err, unix.EAGAIN) {
				return nil, fmt.Errorf("no answer in time: %w", err)
			}
			return nil, err
		}
		if n == 0 {
			return nil, errors.New("QEMU closed the monitor")
		}
		at := 0
		for {
			line, ok := b.next(&at)
			if !ok {
				break
			}
			if !bytes.Contains(line, want) {
				continue
			}
			if bytes.Contains(line, patError) {
				return nil, fmt.Errorf("QEMU refused: %s", line)
			}
			return line, nil
		}
		b.compact(at)
	}
}
