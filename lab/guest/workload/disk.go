package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/lab/guest/console"
	"github.com/nv-hypervisor/nv-hypervisor/lab/guest/journal"
)

// disk wraps the journal: after the first failure it stops writing and stays bad, so that the evidence is kept.
type disk struct {
	log *journal.Log
	err error
}

// openDisk returns nil without an error when there is no such disk.
func openDisk(path string, boot journal.BootID) (*disk, error) {
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_DIRECT|syscall.O_DSYNC, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("disk: %w", err)
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, fmt.Errorf("disk %s: %w", path, err)
	}
	d := &disk{}
	if d.log, err = journal.Open(f, size, boot); err != nil {
		d.fail(err)
	}
	return d, nil
}

func (d *disk) fail(err error) {
	if d.err == nil && err != nil {
		d.err = err
		say("error=%q", err.Error())
	}
}

func (d *disk) append(count uint64) {
	if d.err == nil {
		d.fail(d.log.Append(count, time.Now()))
	}
}

func (d *disk) checkNew() {
	if d.err == nil {
		d.fail(d.log.CheckNew())
	}
}

func (d *disk) checkAll() {
	if d.err == nil {
		d.fail(d.log.CheckAll())
	}
}

func (d *disk) records() uint64 {
	if d.log == nil {
		return 0
	}
	return d.log.Records()
}

func (d *disk) state() console.DiskState {
	if d.err != nil {
		return console.DiskBad
	}
	return console.DiskOK
}
